"""Tables that hold something else than labelled texts: texts to learn writing from."""

from typing import NamedTuple, Protocol

from budwood.core.task import Row
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


def row_maker(task: str) -> RowMaker | None:
    """How to read tables for a task, None for labelled texts. Conversations and molecules have readers of their own."""
    return to_write if task == "text_generation" else None


def to_write(table: Table, name: str, *, target: str | None, input: str | None) -> MadeRows:
    return MadeRows(*writing_rows(table, name, target=target, input=input))
