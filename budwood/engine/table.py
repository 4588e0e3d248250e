"""A table as a reader gives it, before it is known what its columns mean, and the class that readers extend.

A reader turns the bytes of one file into a `Table` and writes one back; opening and checking files is not its work.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from budwood.core.errors import DataError

__all__ = ["CELL_LIMIT", "Place", "Reader", "Table", "Value", "note"]

Value = str | int | float | bool | list[Any] | None
"""One cell: None is a missing value, a list holds strings and numbers only."""

CELL_LIMIT = 1_000_000
"""Characters that one cell may hold; far above any text that a model reads, far below a file that is all one cell."""


class Place(NamedTuple):
    """Where a row came from: the file's name and its line (its row, where a format has no lines), from 1."""

    source: str
    number: int

    def __str__(self) -> str:
        return f"{self.source}:{self.number}"


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: Sequence[dict[str, Value]]
    numbers: Sequence[int]
    """The line (or row) on which each row starts, counted from 1."""
    header: bool
    """Whether the names come from the file; otherwise they are column_1, column_2, and so on."""
    notes: tuple[str, ...] = ()
    """What was found out about the file, as `key=value  # why`."""
    skipped: tuple[tuple[int, str], ...] = ()
    """The lines that `skip_bad` left out, and why."""


class Reader(ABC):
    """What every file in `budwood/data/` gives."""

    suffixes: ClassVar[tuple[str, ...]]
    """Lower-case file suffixes that mean this format."""

    @abstractmethod
    def sniff(self, content: bytes) -> float:
        """How sure it is, from 0 to 1, that these bytes are of its format; for files whose suffix says nothing."""

    @abstractmethod
    def read(self, content: bytes, name: str, *, skip_bad: bool = False) -> Table:
        """Parse a file. `skip_bad` leaves broken rows out and lists them in `Table.skipped`.

        Raises:
            DataError: the bytes are not a table; `where` names the byte, line, column or row.
        """

    @abstractmethod
    def write(self, table: Table, name: str) -> bytes:
        """The bytes of a file that `read` gives back as the same table. Cells are written as they are."""


def note(key: str, value: object, why: str) -> str:
    """One line of what was found out: `delimiter=tab  # every line has 2 cells`."""
    return f"{key}={value}  # {why}"


def check_rows(rows: Sequence[object], header: bool, name: str) -> None:
    """Refuse a table without rows. Raises DataError."""
    if not rows:
        cause = "the file has a header and no rows" if header else "the file is empty"
        raise DataError(cause, where=name, fix="give a file with one example per row: a text and its label")
