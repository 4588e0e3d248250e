"""Tables that hold something else than labelled texts: molecules, or texts to learn writing from."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple, Protocol

from budwood.core.task import Row
from budwood.engine.columns import plain_name
from budwood.engine.molecule_rows import molecule_rows, smiles_column
from budwood.engine.smiles_columns import NAMES
from budwood.engine.table import Table
from budwood.engine.writing_rows import writing_rows

__all__ = ["MadeRows", "RowMaker", "row_maker"]


class MadeRows(NamedTuple):
    rows: list[Row]
    numbers: list[int]
    """The line or row of the file that each row comes from."""
    notes: tuple[str, ...]


class RowMaker(Protocol):
    """A table's rows for one kind of task. Raises DataError when it has no columns for it."""

    def __call__(self, table: Table, name: str, *, target: str | None, input: str | None) -> MadeRows: ...


def row_maker(task: str, tables: Sequence[Table], input: str | None) -> RowMaker | None:
    """How to read the tables for a task, None for labelled texts; `auto` recognises molecules by the column."""
    if task == "text_generation":
        return to_write
    if task == "molecule_property" or (task == "auto" and input is None and all(map(surely_molecules, tables))):
        return of_molecules
    return None


def surely_molecules(table: Table) -> bool:
    """Whether a column holds molecules: one of a telling name, or by RDKit, which knows words and ids from SMILES."""
    column = smiles_column(table)
    return column is not None and (plain_name(column) in NAMES or find_spec("rdkit") is not None)


def to_write(table: Table, name: str, *, target: str | None, input: str | None) -> MadeRows:
    return MadeRows(*writing_rows(table, name, target=target, input=input))


def of_molecules(table: Table, name: str, *, target: str | None, input: str | None) -> MadeRows:
    return MadeRows(*molecule_rows(table, name, target=target, input=input))
