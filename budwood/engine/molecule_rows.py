"""Rows for molecules out of a table: which column holds SMILES, and which ones the properties to predict."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.columns import choose_columns
from budwood.engine.label_cells import to_labels
from budwood.engine.smiles_columns import find_smiles_column
from budwood.engine.table import Table, note

__all__ = ["MoleculeRows", "molecule_rows", "smiles_column"]


class MoleculeRows(NamedTuple):
    rows: list[Row]
    numbers: list[int]
    """The line or row of the file that each row comes from."""
    notes: tuple[str, ...]


def smiles_column(table: Table) -> str | None:
    """The table's column of molecules; None when no column, or more than one, looks like it."""
    cells = {column: [str(row[column] or "") for row in table.rows[:200]] for column in table.columns}
    return find_smiles_column(cells)


def molecule_rows(table: Table, name: str, *, target: str | None = None, input: str | None = None) -> MoleculeRows:
    """Rows `{"smiles", "label"}`; with several targets the label is `{property: value or None}`.

    Args:
        table: what a reader gave.
        name: the file's, for messages.
        target: the column to predict, or several with commas; found by name or by elimination when left out.
        input: the column of the SMILES.

    Raises:
        DataError: no column holds molecules, or the columns to predict cannot be told.
    """
    column = input or smiles_column(table)
    if column is None or column not in table.columns:
        found = f"columns {', '.join(table.columns)}"
        raise DataError("no column holds molecules as SMILES", where=f"{name}: {found}", fix="name it: --input COLUMN")
    notes = [note("input", column, "molecules as SMILES" if input is None else "asked for")]
    wanted = [part.strip() for part in target.split(",")] if target and target not in table.columns else []
    if len(wanted) > 1 and all(part in table.columns for part in wanted):
        labels: Sequence[Any] = [{part: value_of(row[part]) for part in wanted} for row in table.rows]
        known = [any(value is not None for value in label.values()) for label in labels]
        notes.append(note("target", ",".join(wanted), f"{len(wanted)} properties"))
    else:
        chosen = choose_columns(table, name, target=target, input=column)
        assert chosen.target is not None  # choose_columns gives one unless told otherwise
        labels, more = to_labels([row[chosen.target] for row in table.rows])
        known = [label is not None for label in labels]
        notes += [*(line for line in chosen.notes if line.startswith("target")), *more]
    rows: list[Row] = []
    numbers = []
    for row, label, given, number in zip(table.rows, labels, known, table.numbers, strict=True):
        if given and row[column]:
            rows.append({"smiles": str(row[column]).strip(), "label": label})
            numbers.append(number)
    if len(rows) < len(table.rows):
        notes.append(note("skipped", f"{len(table.rows) - len(rows):,} rows", "no molecule or no value"))
    return MoleculeRows(rows, numbers, tuple(notes))


def value_of(cell: Any) -> Any:
    """A cell as a label, None where it is empty."""
    (label,), _ = to_labels([cell])
    return label
