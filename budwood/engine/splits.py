"""Train, validation and test rows that never leak into each other and never change places.

The place of a row is a threshold on a hash of the seed and the row's own text (or group), so it depends neither on
the order nor on the number of the other rows. Precisely, for one seed and the same shares:

1. Rows with equal normalised text are in one split. Rows of one group are in one split.
2. A class whose hashed counts lie within its quota (half to one and a half times the share, and at least one row in
   each split from three rows on) is placed by hash alone. So when rows are added, an old row changes its place only if
   its class needed its quota before or after, or if a new row joins two groups, or repeats a text under another label.
3. Rows that a file calls train, validation or test stay there, unless their text is in a split that is read later.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import DataError, UsageError
from budwood.core.task import Row
from budwood.engine.similarity import normalise
from budwood.engine.table import note

__all__ = ["identity", "labels_of", "make_splits"]

ORDER = ("test", "validation", "train")
Classes = Callable[[Row], list[str]]
SHOT_VALIDATION = 0.2
"""Share of the K examples of a class that is used to choose by, not to learn from."""


class Keyed(NamedTuple):
    """A row and what decides its place."""

    row: Row
    text: str
    """Its normalised text."""
    unit: str
    """Rows with an equal unit go together: the text, or the group with all texts that its rows share with others."""


def make_splits(
    dataset: Dataset,
    *,
    test: Dataset | None = None,
    seed: int = 0,
    shots: int | None = None,
    test_share: float = 0.15,
    validation_share: float = 0.15,
    named: Callable[[Row], list[str]] | None = None,
) -> Splits:
    """Split rows by the guarantee above; `Splits.notes` says what was decided and removed.

    Args:
        dataset: labelled rows; a `"split"` that they carry is kept, rows of one `"group"` stay together.
        test: rows to test on. Without them, and without rows that carry the split test, a share is held out.
        seed: another seed gives another split.
        shots: learn from this many rows a class only, a fifth of them for validation; the rest is unused.
        test_share, validation_share: of all rows; 70/15/15 leaves enough to learn from and at a few hundred rows
            still tells apart models that differ by several points.
        named: the classes of a row, which each split gets its share of; its labels where this is left out.

    Raises:
        DataError: fewer than two classes, or too few rows to hold any out.
        UsageError: a share or the number of shots is out of range.
    """
    check_shares(test_share, validation_share, shots)
    classes_of = named or labels_of
    check_classes(dataset, classes_of)
    notes: list[str] = []
    keyed = keep_together([*dataset.rows, *(test.rows if test is not None else ())])
    own, given = keyed[: len(dataset)], keyed[len(dataset) :]
    parts: dict[str, list[Keyed]] = {"train": [], "validation": [], "test": list(given)}
    for item in own:
        split = item.row.get("split", "train")
        if split == "test" and test is not None:
            continue
        parts[split].append(item)
    if test is not None and (unused := sum(row.get("split") == "test" for row in dataset)):
        notes.append(note("unused", f"{unused:,} rows", "the data's own test rows; another test set is given"))
    shares = (0.0 if parts["test"] else test_share, 0.0 if parts["validation"] else validation_share)
    notes += remove_leaks(parts)
    if shares != (0.0, 0.0):
        place(parts, shares, seed, classes_of, by_shots=shots is not None)
    if shots is not None:
        notes += draw_shots(parts, shots, seed, validate=shares[1] > 0)
    return finish(parts, dataset, test, seed, notes, classes_of)


def check_shares(test_share: float, validation_share: float, shots: int | None) -> None:
    if not (0 < test_share < 1 and 0 < validation_share < 1 and test_share + validation_share < 1):
        raise UsageError(
            "the shares of test and validation leave nothing to learn from", where="test_share", fix="0.15"
        )
    if shots is not None and shots < 1:
        raise UsageError(f"{shots} examples a class are too few", where="--shots", fix="--shots 8")


def check_classes(dataset: Dataset, classes_of: Classes) -> None:
    if not any("label" in row for row in dataset):  # texts to learn writing from
        return
    classes = Counter(label for row in dataset for label in classes_of(row))
    if len(classes) < 2:
        names = ", ".join(repr(label) for label in classes) or "none"
        raise DataError(
            f"the data has {len(classes)} class in {len(dataset):,} rows; at least 2 are needed",
            where=f"labels: {names}",
            fix="add rows of another class, or name the label column with --target",
        )


def labels_of(row: Row) -> list[str]:
    """The labels of a row, whether it has one, a list or none. Raises DataError where it has columns of them."""
    label = row.get("label", ())
    if isinstance(label, Mapping):
        columns = ", ".join(label)
        raise DataError(f"classes stand in one column, and these are {columns}", where="--target", fix="name one")
    return list(label) if isinstance(label, list | tuple) else [label]


def identity(row: Row, fields: Sequence[str] = ("text",)) -> str:
    """What makes two rows the same input: the hash of its content where it has one, else its normalised text."""
    return str(row.get("sha256") or normalise("\n".join(str(row[field]) for field in fields)))


def keep_together(rows: Sequence[Row]) -> list[Keyed]:
    texts = [identity(row) for row in rows]
    groups = [row.get("group") for row in rows]
    if all(group is None for group in groups):
        return [Keyed(row, text, f"text:{text}") for row, text in zip(rows, texts, strict=True)]
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = key = parent[above]
        return key

    for text, group in zip(texts, groups, strict=True):
        if group is not None:
            ends = sorted((root(f"text:{text}"), root(f"group:{group}")), key=hashed)
            parent[ends[1]] = ends[0]  # the lower hash names the unit, whatever the order of the rows
    return [Keyed(row, text, root(f"text:{text}")) for row, text in zip(rows, texts, strict=True)]


def hashed(key: str, seed: int = 0) -> float:
    """A number in [0, 1), equal in every process and on every machine."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def remove_leaks(parts: dict[str, list[Keyed]]) -> list[str]:
    """Drop rows whose unit is in a split that is read later: test before validation before train."""
    notes = []
    seen: set[str] = set()
    for name in ORDER:
        kept = [item for item in parts[name] if item.unit not in seen]
        if removed := len(parts[name]) - len(kept):
            notes.append(note(f"removed from {name}", f"{removed:,} rows", "their text or group is held out"))
        parts[name] = kept
        seen |= {item.unit for item in kept}
    return notes


def place(
    parts: dict[str, list[Keyed]], shares: tuple[float, float], seed: int, classes_of: Classes, *, by_shots: bool
) -> None:
    """Move rows from train to test and validation, as far as these are to be carved out of it."""
    units: dict[str, list[Keyed]] = defaultdict(list)
    for item in parts["train"]:
        units[item.unit].append(item)
    strata: dict[str, list[str]] = defaultdict(list)
    stratum = strata_of(parts["train"], classes_of)
    for unit, items in units.items():
        strata[min(stratum(item) for item in items)].append(unit)
    if by_shots:
        shares = (shares[0], 0.0)  # validation rows are taken from the drawn ones, later
    placed: dict[str, str] = {}
    for members in strata.values():
        placed |= place_stratum(members, shares, seed)
    train = parts["train"]
    parts["train"] = []
    for item in train:
        parts[placed[item.unit]].append(item)


def strata_of(items: Sequence[Keyed], classes_of: Classes) -> Callable[[Keyed], str]:
    """What a row is stratified by: its label, the rarest of several; nothing where rows come in groups."""
    if any(item.row.get("group") is not None for item in items):
        return lambda item: ""
    counts = Counter(label for item in items for label in classes_of(item.row))
    return lambda item: min(classes_of(item.row), key=lambda label: (counts[label], label), default="")


def place_stratum(units: Sequence[str], shares: tuple[float, float], seed: int) -> dict[str, str]:
    """The split of each unit of a class: below the first threshold test, below the second validation, else train."""
    places = {unit: hashed(unit, seed) for unit in units}
    order = sorted(units, key=lambda unit: (places[unit], unit))
    test_share, validation_share = shares
    tested = quota(sum(place < test_share for place in places.values()), test_share, len(units))
    reach = sum(place < test_share + validation_share for place in places.values()) - tested
    validated = min(quota(max(reach, 0), validation_share, len(units)), max(len(units) - tested - 1, 0))
    names = ["test"] * tested + ["validation"] * validated + ["train"] * (len(units) - tested - validated)
    return dict(zip(order, names, strict=True))


def quota(count: int, share: float, total: int) -> int:
    """`count` where it lies between half and one and a half times the share, else the nearer end; 1 from 3 units on."""
    if share == 0 or total < 2:
        return 0
    least = max(1, int(0.5 * share * total)) if total >= 3 else 0
    most = max(1, int(1.5 * share * total))
    return min(max(count, least), most, total - 1)


def draw_shots(parts: dict[str, list[Keyed]], shots: int, seed: int, *, validate: bool) -> list[str]:
    """Keep `shots` rows a class of train, and give a fifth of them to validation."""
    stratum = strata_by_label(parts["train"])
    pools: dict[str, dict[str, Keyed]] = defaultdict(dict)
    for item in parts["train"]:
        pools[stratum[item.text]].setdefault(item.text, item)
    placed: dict[str, str] = {}
    drawn: dict[str, list[Keyed]] = {"train": [], "validation": []}
    for label in sorted(pools):
        ranked = sorted(pools[label].values(), key=lambda item: (hashed(f"shot:{item.text}", seed), item.text))[:shots]
        wanted = max(round(SHOT_VALIDATION * len(ranked)), 1) if validate and len(ranked) >= 3 else 0
        for item in ranked:
            split = placed.setdefault(item.unit, "validation" if wanted > 0 else "train")
            wanted -= split == "validation"
            drawn[split].append(item)
    unused = len(parts["train"]) - len(drawn["train"]) - len(drawn["validation"])
    parts["train"] = drawn["train"]
    parts["validation"] = parts["validation"] + drawn["validation"]
    why = f"{unused:,} other rows are unused"
    few = [label for label, pool in pools.items() if len(pool) < shots]
    return [note("shots", shots, why + (f"; fewer in {len(few)} classes: {', '.join(sorted(few)[:5])}" if few else ""))]


def strata_by_label(items: Sequence[Keyed]) -> Mapping[str, str]:
    """One class for each text, also where rows disagree about it, so that no text is drawn for two classes."""
    counts = Counter(label for item in items for label in labels_of(item.row))
    classes: dict[str, str] = {}
    for item in items:
        own = min(labels_of(item.row), key=lambda label: (counts[label], label), default="")
        classes[item.text] = min(classes.get(item.text, own), own)
    return classes


def finish(
    parts: Mapping[str, Sequence[Keyed]],
    dataset: Dataset,
    test: Dataset | None,
    seed: int,
    notes: list[str],
    classes_of: Classes,
) -> Splits:
    if not parts["train"] or not parts["test"]:
        empty = "train" if not parts["train"] else "test"
        raise DataError(
            f"no rows are left for the {empty} split of {len(dataset):,} rows",
            where=", ".join(dataset.sources) or "the data",
            fix="add rows (3 or more a class), or give other rows with --test",
        )
    counts = {name: Counter(label for item in parts[name] for label in classes_of(item.row)) for name in ORDER}
    missing = sorted(set(counts["test"]) - set(counts["train"]))
    if missing:
        notes.append(note("not learnt", ", ".join(missing[:5]), f"{len(missing)} classes of test have no training row"))
    unmeasured = sorted(set(counts["train"]) - set(counts["test"]))
    if unmeasured:
        why = (
            f"{len(unmeasured)} classes have no test row, so their score is unknown; a class with 1 row stays in train"
        )
        notes.append(note("not measured", ", ".join(unmeasured[:5]), why))
    made = {name: Dataset(tuple(item.row for item in parts[name]), dataset.sources) for name in ("train", "validation")}
    sources = test.sources if test is not None else dataset.sources
    held = Dataset(tuple(item.row for item in parts["test"]), sources)
    return replace(Splits(made["train"], made["validation"], held, seed), notes=tuple(notes))
