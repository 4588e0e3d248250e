"""The data doctor for tables of molecules: what `adapt` would leave out or merge, and what would flatter its score."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.findings import IMBALANCE, LEAK_GATE, Finding, gravest_first
from budwood.engine.molecule_labels import CLASSES, NO_LABEL, as_class, columns_of, kind_of
from budwood.engine.reading import Reading
from budwood.engine.scaffold_split import Cleaned, clean
from budwood.engine.table import Place, Table, Value

__all__ = ["diagnose_molecules", "mended_molecules"]

RARE = 10
"""Molecules of a class below which a score says little."""


@dataclass(frozen=True)
class Part:
    """Rows that are learnt from, or tested on, with their numbers in the reading."""

    rows: tuple[Row, ...]
    places: tuple[Place, ...]
    numbers: tuple[int, ...]
    cleaned: Cleaned | None
    """None where there are no rows."""

    @classmethod
    def of(cls, reading: Reading, numbers: Sequence[int]) -> "Part":
        rows = tuple(reading.dataset.rows[i] for i in numbers)
        return cls(rows, tuple(reading.places[i] for i in numbers), tuple(numbers), clean(rows) if rows else None)

    def at(self, numbers: Iterable[int]) -> tuple[Place, ...]:
        return tuple(self.places[number] for number in numbers)

    @property
    def molecules(self) -> dict[str, int]:
        """The row of each molecule that is kept, by its canonical SMILES."""
        if self.cleaned is None:
            return {}
        pairs = zip(self.cleaned.rows, self.cleaned.numbers, strict=True)
        return {row["canonical"]: number for row, number in pairs}


def parts_of(reading: Reading) -> tuple[Part, Part]:
    """The rows to learn from, and those that carry the split test."""
    tested = [row.get("split") == "test" for row in reading.dataset.rows]
    numbers = range(len(tested))
    return Part.of(reading, [i for i in numbers if not tested[i]]), Part.of(reading, [i for i in numbers if tested[i]])


def diagnose_molecules(reading: Reading, test: Reading | None = None) -> list[Finding]:
    """All findings, the gravest first. `test` are other test rows than those that carry the split test."""
    train, own = parts_of(reading)
    held = own if test is None else Part.of(test, range(len(test.dataset)))
    found = [
        *unreadable([*reading.skipped, *(test.skipped if test is not None else ())]),
        *labels(train),
        *(finding for part in (train, own) if part.cleaned for finding in repeats(part, part.cleaned)),
        *salts([part for part in (train, own) if part.cleaned]),
        *leakage(train, held),
    ]
    return gravest_first(found)


def unreadable(skipped: Sequence[tuple[Place, str]]) -> Iterable[Finding]:
    bad = [(place, reason) for place, reason in skipped if reason != NO_LABEL]
    if bad:
        place, reason = bad[0]
        message = f"{len(bad):,} rows have no valid SMILES; {place}: {reason}"
        rows = tuple(place for place, _ in bad)
        yield Finding("unparsable_smiles", "warning", message, rows, "correct them, or drop them", True)
    empty = tuple(place for place, reason in skipped if reason == NO_LABEL)
    if empty:
        yield Finding("empty_label", "warning", f"{len(empty):,} molecules have no label", empty, "drop them", True)


def labels(part: Part) -> Iterable[Finding]:
    """Properties that cannot be learnt, and classes that are rare or lopsided."""
    columns = columns_of([row["label"] for row in part.rows])
    for name, values in columns.items():
        try:
            kind = kind_of(values, name)
        except DataError as error:
            yield Finding("unusable_label", "error", error.cause, (), error.fix)
            continue
        counts = Counter(map(as_class, values)) if kind == CLASSES else Counter[str]()
        if counts:
            yield from sizes(counts, f" of {name}" if len(columns) > 1 else "")


def sizes(counts: Mapping[str, int], where: str) -> Iterable[Finding]:
    large, small = sorted(counts, key=counts.__getitem__, reverse=True)
    facts = f"class {small!r}{where} has {counts[small]:,} molecules, {large!r} has {counts[large]:,}"
    if counts[small] < RARE:
        fix = f"add molecules ({RARE} or more); a score of so few says little"
        yield Finding("rare_class", "warning", facts, (), fix)
    elif counts[large] >= IMBALANCE * counts[small]:
        yield Finding("imbalance", "info", facts, (), "look at ROC AUC and average precision, not at accuracy")


def repeats(part: Part, cleaned: Cleaned) -> Iterable[Finding]:
    if cleaned.duplicates:
        message = f"{len(cleaned.duplicates):,} rows repeat a molecule, maybe in another spelling, with the same label"
        yield Finding("duplicate", "warning", message, part.at(cleaned.duplicates), "keep the first of each", True)
    kept = set(cleaned.numbers)
    for dropped, what, fix in (
        (True, "labels that disagree; nobody can tell which is right", "decide on one, or drop all rows of them"),
        (False, "values that differ", "look at them; their mean is taken, and classes that disagree are left open"),
    ):
        groups = [group for group in cleaned.conflicts if (group[0] not in kept) == dropped]
        if groups:
            rows = part.at(number for group in groups for number in group)
            message = f"{len(groups):,} molecules have {what} ({len(rows):,} rows)"
            yield Finding("conflict", "warning", message, rows, fix, True)


def salts(parts: Sequence[Part]) -> Iterable[Finding]:
    rows = tuple(place for part in parts if part.cleaned for place in part.at(part.cleaned.salts))
    if rows:
        message = f"{len(rows):,} rows have salts or solvents beside the molecule"
        yield Finding("salt", "info", message, rows, "none is needed: adapt and predict take the largest part", True)


def leakage(train: Part, held: Part) -> Iterable[Finding]:
    learnt, tested = train.molecules, held.molecules
    both = [text for text in learnt if text in tested]
    if both:
        grave = len(both) > LEAK_GATE * len(tested)
        message = f"{len(both):,} of {len(tested):,} test molecules are also among those to learn from"
        rows = train.at(learnt[text] for text in both)
        yield Finding("leakage", "error" if grave else "warning", message, rows, "drop these rows from train", True)


def mended_molecules(reading: Reading, test: Reading | None = None) -> Table:
    """One row a molecule as `adapt` would take it: SMILES without salts, labels merged, no test molecule in train.

    All columns are kept; a row that nothing was wrong with stays as it was.
    """
    table, columns = reading.tables[0]
    assert columns.target is not None  # the reader of molecules demands one
    train, own = parts_of(reading)
    held = own.molecules if test is None else Part.of(test, range(len(test.dataset))).molecules
    rows: dict[int, dict[str, Value]] = {}
    for part, leaked in ((train, held), (own, {})):
        if part.cleaned is None:
            continue
        stripped = set(part.cleaned.salts)
        for row, number in zip(part.cleaned.rows, part.cleaned.numbers, strict=True):
            if row["canonical"] in leaked:
                continue
            cells = dict(table.rows[part.numbers[number]])
            if number in stripped:
                cells[columns.inputs[0]] = row["canonical"]
            label = row["label"]
            if label != part.rows[number]["label"]:
                cells |= label if isinstance(label, Mapping) else {columns.target: label}
            rows[part.numbers[number]] = cells
    kept = [rows[number] for number in sorted(rows)]
    return Table(table.columns, kept, range(1, len(kept) + 1), True)
