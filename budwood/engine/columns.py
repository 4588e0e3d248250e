"""Which column is the text and which is the label: by flag, else by name, else by content, else an error that asks."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from budwood.core.errors import DataError
from budwood.engine.label_cells import is_number
from budwood.engine.table import Table, Value, note

__all__ = ["KNOWN_NAMES", "Columns", "NoLabelError", "choose_columns", "plain_name"]

INPUT_NAMES = (
    frozenset({"text", "texts", "sentence", "review", "message", "body", "utterance", "content", "comment", "tweet"}),
    frozenset(
        {"question", "query", "description", "title", "subject", "headline", "summary", "document", "input", "prompt"}
        | {"sms", "email", "mail", "ticket", "phrase", "post", "request", "complaint", "feedback", "passage"}
    ),
)
TARGET_NAMES = (
    frozenset({"label", "labels", "target", "targets", "class"}),
    frozenset(
        {"category", "categories", "intent", "intents", "tag", "tags", "topic", "topics", "sentiment", "emotion"}
        | {"queue", "rating", "stars", "polarity", "genre", "department", "type", "gold", "annotation"}
    ),
)
"""The surest names, then names that mean the same only when nothing better is there."""
OTHER_NAMES = frozenset({"id", "idx", "index", "uuid", "guid", "group", "split", "date", "timestamp", "user", "author"})
MOLECULE_NAMES = frozenset({"smiles", "canonical_smiles", "isomeric_smiles"})
IMAGE_NAMES = frozenset({"image", "images", "image_path", "img", "filename", "file_name", "photo"})
TEXT_TABLE_NAMES = INPUT_NAMES[0] | INPUT_NAMES[1] | TARGET_NAMES[0] | TARGET_NAMES[1]
KNOWN_NAMES = TEXT_TABLE_NAMES | OTHER_NAMES | MOLECULE_NAMES | IMAGE_NAMES

SPLIT_COLUMN = "split"
SAMPLE = 5_000
"""Rows by which a column's content is judged, spread over the whole table."""
FEW = 20
"""Rows below which labels may all be different and still be labels."""


class NoLabelError(DataError):
    """No column of a table looks like a label. It may be a table of texts to learn writing from."""


@dataclass(frozen=True)
class Columns:
    inputs: tuple[str, ...]
    target: str | None
    group: str | None
    split: str | None
    notes: tuple[str, ...]


class Profile(NamedTuple):
    name: str
    rows: int
    distinct: int
    length: float
    """Mean characters of a cell."""
    words: float
    """Mean words of a cell."""
    numeric: bool
    lists: bool

    @property
    def is_text(self) -> bool:
        wordy = self.words >= 3 or self.length >= 20
        return wordy and not self.numeric and not self.lists and self.distinct >= 0.5 * self.rows

    @property
    def is_label(self) -> bool:
        return self.rows > 0 and (self.lists or (self.distinct <= 0.5 * self.rows and self.length <= 60))


def choose_columns(
    table: Table,
    name: str,
    *,
    target: str | None = None,
    input: str | None = None,
    group: str | None = None,
    labelled: bool = True,
) -> Columns:
    """The roles of a table's columns. `input` may name several, with commas between. `labelled=False` needs no label.

    Raises:
        DataError: a named column does not exist, or several columns (or none) may be the text or the label.
    """
    inputs = tuple(find(table, part.strip(), name, "--input") for part in split_names(table, input))
    label = find(table, target, name, "--target") if target else None
    grouping = find(table, group, name, "--group") if group else None
    split = SPLIT_COLUMN if SPLIT_COLUMN in table.columns and grouping != SPLIT_COLUMN else None
    if twice := {label, grouping} & set(inputs) or ({label} & {grouping}) - {None}:
        raise DataError(f"column {twice.pop()!r} has two roles", where=name, fix="name different columns")
    taken = {*inputs, label, grouping, split}
    free = [profile(table, column) for column in table.columns if column not in taken]
    notes = []
    if label is None:
        label, why = guess_target(free, name, labelled=labelled, texts_known=bool(inputs), table=table)
        if label is not None:
            notes.append(note("target", label, why))
            free = [column for column in free if column.name != label]
    if not inputs:
        chosen, why = guess_input(free, name, table)
        inputs = (chosen,)
        notes.append(note("input", chosen, why))
    return Columns(inputs, label, grouping, split, tuple(notes))


def split_names(table: Table, names: str | None) -> list[str]:
    if not names:
        return []
    return [names] if names in table.columns else names.split(",")


def find(table: Table, column: str, name: str, flag: str) -> str:
    if column in table.columns:
        return column
    folded = {plain_name(known): known for known in table.columns}
    near = get_close_matches(plain_name(column), list(folded), n=1, cutoff=0.0)
    raise DataError(
        f"there is no column {column!r}",
        where=f"{name}: columns {', '.join(table.columns)}",
        fix=f"{flag} {quote(folded[near[0]])}" if near else f"{flag} COLUMN",
    )


def quote(column: str) -> str:
    return column if re.fullmatch(r"[\w.,-]+", column) else f"'{column}'"


def plain_name(cell: str) -> str:
    """A column name in lower case with single underscores: `Ticket Text` and `ticketText` give `ticket_text`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cell.strip())
    return re.sub(r"[\W_]+", "_", spaced).strip("_").lower()


def profile(table: Table, column: str) -> Profile:
    step = max(1, len(table.rows) // SAMPLE)
    cells: list[Value] = [row[column] for row in table.rows[::step]]
    filled = [cell for cell in cells if cell is not None and cell != ""]
    texts = [cell if isinstance(cell, str) else str(cell) for cell in filled]
    count = max(1, len(texts))
    return Profile(
        column,
        len(texts),
        len(set(texts)),
        sum(map(len, texts)) / count,
        sum(text.count(" ") + 1 for text in texts) / count,
        all(is_number(text) for text in texts),
        any(isinstance(cell, list) for cell in filled),
    )


def guess_target(
    free: Sequence[Profile], name: str, *, labelled: bool, texts_known: bool, table: Table
) -> tuple[str | None, str]:
    found = by_name(free, TARGET_NAMES, lambda column: column.is_label or column.rows <= FEW)
    why = "by its name"
    if not found:
        candidates = [column for column in free if not is_other(column)]
        found = [column for column in candidates if column.is_label and not column.is_text]
        why = "few values that repeat"
        if not found:
            found = last_resort(candidates, texts_known=texts_known)
            why = "the shorter column with fewer values"
    if len(found) == 1:
        return found[0].name, why
    if not labelled:
        return None, ""
    raise undecided("label", "--target", found, name, table)


def last_resort(candidates: Sequence[Profile], *, texts_known: bool) -> list[Profile]:
    """For tables of a few rows, where no label repeats: the one column left, or the plainer one of two."""
    short = [column for column in candidates if column.rows <= FEW]
    if texts_known:
        return short if len(short) == 1 else []
    if len(short) != 2:
        return []
    first, second = sorted(short, key=lambda column: column.length)
    plainer = first.distinct < second.distinct and first.length < second.length
    return [first] if plainer or (2 * first.length <= second.length and first.distinct == second.distinct) else []


def guess_input(free: Sequence[Profile], name: str, table: Table) -> tuple[str, str]:
    found = by_name(free, INPUT_NAMES, lambda column: not column.numeric)
    why = "by its name"
    if not found:
        candidates = [column for column in free if not is_other(column)]
        found = [column for column in candidates if column.is_text]
        why = "long texts, mostly different"
        if not found:
            found = [column for column in candidates if not column.numeric and not column.lists]
            why = "the only column left"
    if len(found) == 1:
        others = [column.name for column in free if column.is_text and column.name != found[0].name]
        more = f"; join others to it with --input {quote(','.join([found[0].name, *others]))}" if others else ""
        return found[0].name, why + more
    raise undecided("text", "--input", found, name, table)


def by_name(
    free: Sequence[Profile], tiers: tuple[frozenset[str], frozenset[str]], fits: Callable[[Profile], bool]
) -> list[Profile]:
    """The columns with the surest names: exactly a sure one, else exactly another, else one with such a word in it."""
    sure, other = tiers
    exact = [column for column in free if plain_name(column.name) in sure]
    if exact:
        return exact
    fitting = [column for column in free if fits(column)]
    known = [column for column in fitting if plain_name(column.name) in other]
    return known or [column for column in fitting if set(plain_name(column.name).split("_")) & (sure | other)]


def is_other(column: Profile) -> bool:
    return plain_name(column.name) in OTHER_NAMES or plain_name(column.name).endswith("_id")


def undecided(role: str, flag: str, found: Sequence[Profile], name: str, table: Table) -> DataError:
    columns = f"{name}: columns {', '.join(table.columns)}"
    if not found and role == "label":
        fix = "name it: --target COLUMN; or learn to write from texts without labels: --task text_generation"
        return NoLabelError("no column looks like the label", where=columns, fix=fix)
    if not found:
        return DataError(f"no column looks like the {role}", where=columns, fix=f"name it: {flag} COLUMN")
    names = [column.name for column in found]
    join = f", or join them: --input {quote(','.join(names))}" if role == "text" else ""
    ask = " or ".join(f"{flag} {quote(each)}" for each in names)
    return DataError(f"several columns may be the {role}: {', '.join(names)}", where=columns, fix=ask + join)
