"""From a file or a folder to a dataset: find the format, read the table, find the columns, make typed rows.

Use `read_dataset` for labelled rows and `read_inputs` for rows to predict.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from budwood.core import registry
from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, NotFoundError
from budwood.core.task import Row
from budwood.engine.collection import collection_of
from budwood.engine.columns import Columns, choose_columns
from budwood.engine.label_cells import Label, to_labels
from budwood.engine.row_roles import SPLIT_FILE, SPLITS, RoleColumns, role_columns, with_roles
from budwood.engine.table import CELL_LIMIT, Place, Reader, Table, Value, note
from budwood.engine.table_kinds import RowMaker, row_maker

__all__ = ["Reading", "named_files", "read_dataset", "read_inputs", "reader_of"]

MAX_BYTES = 2 << 30
LISTED = 10
"""Bad rows that an error names."""


@dataclass(frozen=True)
class Reading:
    """A dataset and how it was read."""

    dataset: Dataset
    places: tuple[Place, ...]
    """Where each row of the dataset stands."""
    notes: tuple[str, ...]
    """What was found out: `key=value  # why`, one line each, to be printed."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The same for machines: `sources` (path, sha256, bytes, rows), `input`, `target`, `group`."""
    skipped: tuple[tuple[Place, str], ...] = ()
    """Broken lines that were left out, and why."""
    tables: tuple[tuple[Table, Columns], ...] = ()
    """For the data doctor (`keep_empty`, or images): the tables as they were, one row for each of the dataset, and
    their roles."""


class Source(NamedTuple):
    """One file that was read: its table, and what identifies its bytes."""

    path: Path
    split: str | None
    table: Table
    sha256: str
    bytes: int


def read_dataset(
    path: Path | str,
    target: str | None = None,
    input: str | None = None,
    group: str | None = None,
    *,
    task: str = "auto",
    skip_bad: bool = False,
    keep_empty: bool = False,
) -> Reading:
    """Read labelled rows `{"text", "label"}`, with `"group"` and `"split"` where the data has them; or other rows.

    A folder is read by its file names: train.*, dev.* (or valid.*, validation.*) and test.*, also below `data/`.

    Args:
        path: a file of any format in `budwood/data/`, or a folder of such files.
        target, input, group: column names; `input` may name several with commas, joined by a line feed.
        task: the task that the rows are for; `auto` recognises images and molecules.
        skip_bad: leave out broken lines and rows without text or label, with a note that counts them.
        keep_empty: for the data doctor: keep rows without text or label, as empty texts, and leave out broken lines.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file cannot be read, its columns cannot be told, or rows have no text or label.
    """
    if (collection := collection_of(Path(path))) is not None:
        return collection.read(Path(path), target, input, group)
    rows: list[Row] = []
    places: list[Place] = []
    notes: list[str] = []
    broken: list[tuple[Place, str]] = []
    tables: list[tuple[Table, Columns]] = []
    columns: Columns | None = None
    sources, more_notes = promote(sources_of(Path(path), skip_bad=skip_bad or keep_empty))
    if (make := row_maker(task)) is not None:
        return read_other(sources, make, more_notes, target, input, group)
    notes += more_notes
    for source in sources:
        name = source.path.name
        columns = choose_columns(source.table, name, target=target, input=input, group=group)
        found, more = typed_rows(source, columns)
        where = [Place(name, number) for number in source.table.numbers]
        found, where, dropped = refuse_empty(found, where, skip_bad=skip_bad, keep_empty=keep_empty)
        lines = (*source.table.notes, *columns.notes, *more, *skipped(source.table, dropped))
        notes += [f"{name}: {line}" if len(sources) > 1 else line for line in lines]
        rows += found
        places += where
        if keep_empty:
            tables.append((source.table, columns))
        broken += [(Place(name, number), reason) for number, reason in source.table.skipped]
    refuse_mixture(rows, str(path))
    facts = {
        "sources": [describe(source) for source in sources],
        "input": list(columns.inputs) if columns else [],
        "target": columns.target if columns else None,
        "group": columns.group if columns else None,
        "rows": len(rows),
    }
    names = tuple(source.path.name for source in sources)
    return Reading(Dataset(tuple(rows), names), tuple(places), tuple(notes), facts, tuple(broken), tuple(tables))


def read_other(
    sources: Sequence[Source],
    make: RowMaker,
    notes: Sequence[str],
    target: str | None,
    input: str | None,
    group: str | None,
) -> Reading:
    """Rows of another kind out of tables, with `group` and `split` where they are named."""
    rows: list[Row] = []
    places: list[Place] = []
    lines = list(notes)
    for source in sources:
        name = source.path.name
        roles = role_columns(source.table, name, target=target, input=input, group=group)
        found = make(roles.without(source.table), name, target=target, input=input)
        made, more = with_roles(found.rows, found.numbers, source.table, roles, source.split)
        prefix = f"{name}: " if len(sources) > 1 else ""
        lines += [prefix + line for line in (*source.table.notes, *found.notes, *more)]
        rows += made
        places += [Place(name, number) for number in found.numbers]
    facts: dict[str, Any] = {"sources": [describe(source) for source in sources], "input": input, "target": target}
    names = tuple(source.path.name for source in sources)
    return Reading(
        Dataset(tuple(rows), names), tuple(places), tuple(lines), facts | {"group": group, "rows": len(rows)}
    )


def read_inputs(path: Path | str, input: str | None = None, *, skip_bad: bool = False) -> list[Row]:
    """Read rows `{"text"}` to predict, in their order; a label column may be there and is left out.

    Raises:
        NotFoundError, DataError: as `read_dataset`.
    """
    if (collection := collection_of(Path(path))) is not None:
        return collection.inputs(Path(path), input)
    rows: list[Row] = []
    for source in sources_of(Path(path), skip_bad=skip_bad):
        columns = choose_columns(source.table, source.path.name, input=input, labelled=False)
        rows += [{"text": text} for text in texts_of(source, columns)]
    return rows


def sources_of(path: Path, *, skip_bad: bool) -> list[Source]:
    if not os.path.lexists(path):
        raise NotFoundError("there is no such file", where=str(path), fix="check the path; `ls` shows what is there")
    if path.is_dir():
        return [read_source(file, split, skip_bad=skip_bad) for file, split in files_of(path)]
    return [read_source(path, None, skip_bad=skip_bad)]


def promote(sources: list[Source]) -> tuple[list[Source], list[str]]:
    """A folder without a training file trains on its validation file; a folder of only test files on nothing else."""
    if any(source.split in (None, "train") for source in sources):
        return sources, []
    first = sources[0].split
    promoted = [source._replace(split="train") if source.split == first else source for source in sources]
    names = ", ".join(source.path.name for source in promoted if source.split == "train")
    return promoted, [note("train", names, "the folder has no training file")]


def files_of(folder: Path) -> list[tuple[Path, str | None]]:
    """The tables of a folder with their splits, train first. One lone table needs no split in its name."""
    suffixes = {suffix for reader in table_readers() for suffix in reader.suffixes}
    try:
        files = sorted(file for file in walk(folder) if file.suffix.lower() in suffixes)
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error.strerror}", where=str(folder), fix="check it with `ls -l`"
        ) from error
    named = [(file, split) for file in files if (split := split_of(file, folder))]
    if named:
        order = ("train", "validation", "test")
        named.sort(key=lambda item: (order.index(item[1]), item[0]))
        return list(named)
    if len(files) == 1:
        return [(files[0], None)]
    listing = ", ".join(file.name for file in files[:LISTED]) or "none"
    raise DataError(
        "the folder does not say which file is for training",
        where=f"{folder}: tables {listing}",
        fix="name one file, or call the files train.csv and test.csv",
    )


def walk(folder: Path) -> Iterator[Path]:
    """Files of a folder and of its sub-folders `data`, `train`, `test` and so on; no deeper."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name.lower() in {"data", *SPLITS}:
            yield from (file for file in sorted(entry.iterdir()) if file.is_file())
        elif entry.is_file():
            yield entry


def split_of(file: Path, folder: Path) -> str | None:
    for name in (file.stem, file.parent.name if file.parent != folder else ""):
        if match := SPLIT_FILE.fullmatch(name):
            return SPLITS[match[1].lower()]
    return None


def read_source(path: Path, split: str | None, *, skip_bad: bool) -> Source:
    """Read one file as it is at one moment; when it changes meanwhile, DataError."""
    content, before = load(path)
    sha256 = hashlib.sha256(content).hexdigest()
    table = reader_of(path, content).read(content, path.name, skip_bad=skip_bad)
    size = len(content)
    del content
    try:
        after, same = identity(path.stat()), digest(path) == sha256
    except OSError:
        after, same = None, False
    if after != before or not same:
        raise DataError(
            "the file changed while it was read", where=str(path), fix="run it again when nothing writes to it"
        )
    return Source(path, split, table, sha256, size)


def load(path: Path) -> tuple[bytes, tuple[int, ...]]:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(
                "it is neither a file nor a folder", where=str(path), fix="name a table or a folder of tables"
            )
        if facts.st_size > MAX_BYTES:
            raise DataError(
                f"the file has {facts.st_size >> 20:,} MiB, more than {MAX_BYTES >> 20:,}",
                where=str(path),
                fix="take a sample of it: a few ten thousand rows are plenty",
            )
        return path.read_bytes(), identity(facts)
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}", where=str(path), fix="check it with `ls -l`") from error


def identity(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reader_of(path: Path, content: bytes | None = None) -> Reader:
    """The reader for a file, by its suffix, else by its content.

    Raises:
        DataError: no reader knows it.
    """
    readers = table_readers()
    for reader in readers:
        if path.suffix.lower() in reader.suffixes:
            return reader
    scores = [(reader.sniff(content), reader) for reader in readers] if content is not None else []
    best = max(scores, key=lambda pair: pair[0], default=None)
    if best is not None and best[0] > 0:
        return best[1]
    if content == b"":
        raise DataError("the file is empty", where=str(path), fix="give a file with one example per row")
    known = ", ".join(sorted(suffix for reader in readers for suffix in reader.suffixes))
    raise DataError("the format of the file is unknown", where=str(path), fix=f"save it as one of: {known}")


def table_readers() -> list[Reader]:
    kinds = [registry.get("data", name) for name in registry.names("data")]
    return [kind() for kind in kinds if issubclass(kind, Reader)]


def typed_rows(source: Source, columns: Columns) -> tuple[list[Row], tuple[str, ...]]:
    cells = source.table.rows
    assert columns.target is not None  # choose_columns gives one unless told otherwise
    labels, notes = to_labels([row[columns.target] for row in cells])
    rows: list[Row] = [labelled(text, label) for text, label in zip(texts_of(source, columns), labels, strict=True)]
    roles = RoleColumns(columns.group, columns.split)
    rows, more = with_roles(rows, source.table.numbers, source.table, roles, source.split)
    return rows, (*notes, *more)


def labelled(text: str, label: Label) -> dict[str, Any]:
    return {"text": text, "label": "" if label is None else label}


def texts_of(source: Source, columns: Columns) -> list[str]:
    texts = []
    for number, row in zip(source.table.numbers, source.table.rows, strict=True):
        parts = [text_of(row[column]) for column in columns.inputs]
        text = "\n".join(part for part in parts if part)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise unusable("half a surrogate pair, which is no character", source.path.name, number) from error
        if len(text) > CELL_LIMIT:
            raise unusable(f"{len(text):,} characters, more than {CELL_LIMIT:,}", source.path.name, number)
        if "\0" in text:
            raise unusable("a NUL character", source.path.name, number)
        texts.append(text)
    return texts


def text_of(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else str(value)


def unusable(what: str, name: str, number: int) -> DataError:
    return DataError(f"the text holds {what}", where=f"{name}: row at line {number}", fix="mend that row")


def refuse_empty(
    rows: list[Row], places: list[Place], *, skip_bad: bool, keep_empty: bool
) -> tuple[list[Row], list[Place], int]:
    bad = {index for index, row in enumerate(rows) if not row["text"].strip() or row["label"] == ""}
    if not bad or keep_empty:
        return rows, places, 0
    if skip_bad:
        keep = [index for index in range(len(rows)) if index not in bad]
        return [rows[i] for i in keep], [places[i] for i in keep], len(bad)
    lines = [str(places[index].number) for index in sorted(bad)[:LISTED]]
    more = f" and {len(bad) - LISTED:,} more" if len(bad) > LISTED else ""
    empty = "label" if any(rows[index]["label"] == "" for index in bad) else "text"
    raise DataError(
        f"{len(bad):,} of {len(rows):,} rows have no {empty}",
        where=f"{places[0].source}: line {', '.join(lines)}{more}",
        fix="fill them in, or let `budwood doctor DATA --fix OUT` write a file without them",
    )


def skipped(table: Table, empty: int) -> list[str]:
    lines = [note("skipped", f"line {number}", reason) for number, reason in table.skipped[:LISTED]]
    if len(table.skipped) > LISTED:
        lines.append(note("skipped", f"{len(table.skipped)} lines", "in all"))
    return lines + ([note("skipped", f"{empty} rows", "no text or no label")] if empty else [])


def refuse_mixture(rows: Sequence[Row], where: str) -> None:
    """One file of a folder may hold lists of labels and another single labels; no task can learn both."""
    if len({isinstance(row["label"], list) for row in rows if row["label"] != ""}) > 1:
        raise DataError(
            "some files have one label a row and others have lists of labels", where=where, fix="make them alike"
        )


def named_files(reading: Reading) -> tuple[tuple[str, str], ...]:
    """The name, without its folder, and the SHA-256 of each file that was read."""
    return tuple((Path(source["path"]).name, source["sha256"]) for source in reading.facts["sources"])


def describe(source: Source) -> dict[str, Any]:
    facts = {"path": str(source.path), "sha256": source.sha256, "bytes": source.bytes, "rows": len(source.table.rows)}
    return facts | {"columns": list(source.table.columns), "split": source.split}
