"""Molecules: `.smi` files, and tables with a column of SMILES and one or several columns of labels.

CCO ethanol                      smiles,active            smiles,NR-AR,SR-p53
c1ccccc1 benzene                 CCO,1                    CCO,0,
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, require
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.columns import Columns, choose_columns, plain_name
from budwood.engine.label_cells import Label, is_number, plain_numbers, to_labels
from budwood.engine.library import IDS, SUFFIXES, open_library
from budwood.engine.molecule_labels import NO_LABEL, as_number
from budwood.engine.smiles_columns import NAMES, find_smiles_column
from budwood.engine.table import Place, Table, Value, note

if TYPE_CHECKING:
    from budwood.engine.reading import Reading, Source

__all__ = ["Smiles"]

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
LISTED = 5


@final
@dataclass(frozen=True)
class Smiles(Collection):
    """A table is claimed when a column of it holds SMILES, by its name and its cells, or by its cells alone."""

    def claims(self, path: Path) -> bool:
        suffix = path.suffix.lower()
        if not path.is_file():
            return False
        if suffix in (".smi", ".smiles"):
            return True
        if suffix not in TABLES or suffix not in SUFFIXES:
            return False
        try:
            return bool(open_library(path).smiles)
        except (DataError, OSError, UnicodeDecodeError):
            return False  # the readers of tables say what is wrong with it

    def read(self, path: Path, target: str | None, input: str | None, group: str | None) -> "Reading":
        from budwood.engine.reading import Reading, read_source
        from budwood.engine.row_roles import split_notes

        require("rdkit.Chem", extra="chem")
        if path.suffix.lower() in (".smi", ".smiles"):
            fix = "give a table with a SMILES column and a label column"
            raise DataError("a .smi file has molecules and names, but no labels", where=str(path), fix=fix)
        source = read_source(path, None, skip_bad=False)
        table = source.table
        smiles = input or self.column(table, path)
        targets, notes = choose_targets(table, path.name, smiles, target, group)
        labels = labels_of(table, targets)
        kept = typed(source, smiles, group, labels)
        column = "split" if "split" in table.columns else None
        lines = [*table.notes, note("input", smiles, "its cells are SMILES"), *notes, *split_notes(table.rows, column)]
        lines += counted(kept.skipped)
        facts = {
            "sources": [described(source)],
            "input": [smiles],
            "target": target if target is not None else ",".join(targets),
            "group": group,
            "rows": len(kept.rows),
        }
        return Reading(
            dataset=Dataset(tuple(kept.rows), (path.name,)),
            places=tuple(kept.places),
            notes=tuple(lines),
            facts=facts,
            skipped=tuple(kept.skipped),
            tables=((kept.table(table), Columns((smiles,), targets[0], group, "split", ())),),
        )

    def inputs(self, path: Path, input: str | None) -> list[Row]:
        library = open_library(path, input)
        rows = [{"smiles": record.smiles} for record in library.records()]
        if not rows:
            raise DataError("the file holds no molecules", where=str(path), fix="give a SMILES on each line")
        return list(rows)

    def column(self, table: Table, path: Path) -> str:
        cells = {name: [str(row[name] or "") for row in table.rows[:200]] for name in table.columns}
        found = find_smiles_column(cells)
        if found is None:
            where = f"{path.name}: columns {', '.join(table.columns)}"
            raise DataError("no column holds SMILES", where=where, fix="name it: --input COLUMN")
        return found


@dataclass
class Kept:
    rows: list[Row] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    skipped: list[tuple[Place, str]] = field(default_factory=list)
    cells: list[dict[str, Value]] = field(default_factory=list)
    """The rows of the table that the rows come from."""

    def table(self, source: Table) -> Table:
        return replace(source, rows=self.cells, numbers=[place.number for place in self.places])


def choose_targets(
    table: Table, name: str, smiles: str, target: str | None, group: str | None
) -> tuple[list[str], list[str]]:
    """The label columns: those named (with commas between), all columns of 0 and 1, or the one that looks like it."""
    if target is not None and target not in table.columns and "," in target:
        targets = [part.strip() for part in target.split(",")]
        missing = [part for part in targets if part not in table.columns]
        if missing:
            where = f"{name}: columns {', '.join(table.columns)}"
            raise DataError(f"there is no column {missing[0]!r}", where=where, fix="--target COLUMN,COLUMN")
        return targets, []
    if target is None:
        others = [column for column in table.columns if column != smiles and not is_name(column)]
        others = [column for column in others if column not in (group, "split")]
        if len(others) > 1 and all(is_binary(table, column) for column in others):
            return others, [note("target", f"{len(others)} columns", "all of them hold 0, 1 or nothing")]
        if len(others) == 1:
            return others, [note("target", others[0], "the only column left")]
    columns = choose_columns(table, name, target=target, input=smiles, group=group)
    assert columns.target is not None  # choose_columns gives one unless told otherwise
    return [columns.target], [line for line in columns.notes if not line.startswith("input=")]


def is_name(column: str) -> bool:
    return plain_name(column) in IDS or plain_name(column) in NAMES or plain_name(column).endswith("_id")


def is_binary(table: Table, column: str) -> bool:
    values = {str(row[column]).strip() for row in table.rows if row[column] not in (None, "")}
    return bool(values) and values <= {"0", "1", "0.0", "1.0"}


def labels_of(table: Table, targets: Sequence[str]) -> list[Any]:
    """One label a row: a class, a number, or a dictionary for several targets; None where nothing is known."""
    columns = {name: values_of([row[name] for row in table.rows]) for name in targets}
    if len(targets) == 1:
        return columns[targets[0]]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [row if any(value is not None for value in row.values()) else None for row in rows]


def values_of(cells: Sequence[Value]) -> list[Any]:
    """Classes as texts, and numbers where there are more than two different ones."""
    labels, _ = to_labels(cells)
    known = {label for label in labels if isinstance(label, str)}
    if len(known) > 2 and all(is_number(label) for label in known):
        return [None if label is None else number_in(label) for label in plain_numbers(labels)[0]]
    return list(labels)


def number_in(label: Label) -> float:
    number = as_number(label)
    if number is None:
        raise DataError(
            f"{label!r} may be read in two ways",
            where="the label column",
            fix="write numbers with a point and without signs between thousands: 1200 or 1.2; percent for all or none",
        )
    return number


def typed(source: "Source", smiles: str, group: str | None, labels: Sequence[Any]) -> Kept:
    """The rows with a molecule and a label; the others with the reason why they are left out."""
    from budwood.engine.molecules import prepared, problem, quoted
    from budwood.engine.row_roles import named_splits

    table = source.table
    splits = named_splits(table.rows, "split" if "split" in table.columns else None, table.numbers)
    kept = Kept()
    for index, (cells, number, label) in enumerate(zip(table.rows, table.numbers, labels, strict=True)):
        place = Place(source.path.name, number)
        text = str(cells[smiles] or "").strip()
        if label is None or prepared(text) is None:
            kept.skipped.append((place, NO_LABEL if label is None else f"{quoted(text)} {problem(text)}"))
            continue
        row: dict[str, Any] = {"smiles": text, "label": label}
        if group is not None and cells[group] not in (None, ""):
            row["group"] = str(cells[group])
        if splits:
            row["split"] = splits[index]
        kept.rows.append(row)
        kept.places.append(place)
        kept.cells.append(cells)
    if not kept.rows:
        why = kept.skipped[0][1] if kept.skipped else "it is empty"
        raise DataError("no row has a molecule and a label", where=f"{source.path.name}: first row: {why}")
    return kept


def counted(skipped: Sequence[tuple[Place, str]]) -> list[str]:
    lines = [note("skipped", f"line {place.number}", reason) for place, reason in skipped[:LISTED]]
    return lines + ([note("skipped", f"{len(skipped):,} lines", "in all")] if len(skipped) > LISTED else [])


def described(source: "Source") -> dict[str, Any]:
    from budwood.engine.reading import describe

    return describe(source)
