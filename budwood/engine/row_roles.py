"""Which rows belong together and which are set aside, as columns of a table or names of files say it.

Every reader of tables goes through this, so that `--group` and a column named `split` hold for every task.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.columns import SPLIT_COLUMN, find, split_names
from budwood.engine.table import Table, Value, note

__all__ = ["SPLITS", "SPLIT_FILE", "RoleColumns", "named_splits", "role_columns", "split_notes", "with_roles"]

SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What files, folders and the values of a column named `split` are called, and the split they mean."""
NAMES = "train, validation, test"
LISTED = 5
SPLIT_FILE = re.compile(rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?:[-_.]?\d.*)?", re.IGNORECASE)


class RoleColumns(NamedTuple):
    """The columns that say something about a row and are no part of it; None where there is no such column."""

    group: str | None
    split: str | None

    def without(self, table: Table) -> Table:
        """The table with none of them among its columns, so that they are not taken for texts."""
        return replace(table, columns=tuple(column for column in table.columns if column not in self))


def role_columns(table: Table, name: str, *, target: str | None, input: str | None, group: str | None) -> RoleColumns:
    """The columns of groups and splits, for tables whose other columns are told by `writing_rows`.

    Raises:
        DataError: there is no column of that name, or it has another role; `where` starts with `name`, the file's.
    """
    taken = {target, *(part.strip() for part in split_names(table, input))}
    grouping = find(table, group, name, "--group") if group else None
    if grouping is not None and grouping in taken:
        raise DataError(f"column {grouping!r} has two roles", where=name, fix="name different columns")
    free = SPLIT_COLUMN in table.columns and SPLIT_COLUMN not in (*taken, grouping)
    return RoleColumns(grouping, SPLIT_COLUMN if free else None)


def with_roles(
    rows: Sequence[Row], numbers: Sequence[int], table: Table, columns: RoleColumns, split: str | None
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows with `group` and `split` where they are known, and what was found out.

    Args:
        numbers: the line of the table that each row comes from.
        split: what the name of the file says; it goes before the column.
    """
    by_number = dict(zip(table.numbers, table.rows, strict=True))
    cells = [by_number[number] for number in numbers]
    splits = [split] * len(rows) if split is not None else named_splits(cells, columns.split, numbers)
    made: list[Row] = []
    for index, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        own: dict[str, str] = {}
        if columns.group is not None and cell[columns.group] not in (None, ""):
            own["group"] = str(cell[columns.group])
        if splits:
            own["split"] = splits[index]
        made.append({**row, **own})
    return made, () if split is not None else split_notes(cells, columns.split)


def named_splits(cells: Sequence[dict[str, Value]], column: str | None, numbers: Sequence[int]) -> list[str]:
    """The split of each row when a column names it; nothing where none of its values is the name of a split.

    Raises:
        DataError: some values name a split and others do not; `where` lists their lines, of `numbers`.
    """
    values = [str(row[column] or "").strip().lower() for row in cells] if column is not None else []
    unknown = [index for index, value in enumerate(values) if value not in SPLITS]
    if unknown and len(unknown) < len(values):
        lines = ", ".join(str(numbers[index]) for index in unknown[:LISTED])
        more = f" and {len(unknown) - LISTED:,} more" if len(unknown) > LISTED else ""
        examples = ", ".join(repr(value) for value in sorted({values[index] for index in unknown})[:3])
        raise DataError(
            f"{len(unknown):,} of {len(values):,} rows name no split in the column {column!r}, such as {examples}",
            where=f"line {lines}{more}",
            fix="write train, validation or test in each row, or rename the column",
        )
    return [] if unknown else [SPLITS[value] for value in values]


def split_notes(cells: Sequence[dict[str, Value]], column: str | None) -> tuple[str, ...]:
    """Whether the values of a column of splits count, as a line to be printed; nothing where there is no column."""
    if column is None or not cells:
        return ()
    value = str(cells[0][column] or "").strip()
    if value.lower() in SPLITS:
        return (note("split", column, "its values name the splits"),)
    return (note("split", "by chance", f"the column {column!r} is left out: {value[:30]!r} is none of {NAMES}"),)
