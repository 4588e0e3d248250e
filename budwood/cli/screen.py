"""Where a verb writes: its result to standard output, everything else to standard error.

While a verb works, standard output is closed to libraries, so that with `--json` it holds nothing but JSON.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from types import TracebackType
from typing import Any, Self

from budwood.cli.progress import Bars, Lines
from budwood.cli.text import clear_line, paint, printable

__all__ = ["Screen", "percent", "points", "span"]

NUMBER = re.compile(r"[-+]?[\d,.]+x?|")
WIDE = 10_000
"""Columns where nobody sees the lines break."""


class Screen:
    """Use it as a context manager around the work of a verb.

    Args:
        as_json: one JSON value to standard output, and no messages but errors.
        waiting: what a terminal shows until there is something better to show.
    """

    def __init__(self, as_json: bool, waiting: str = "") -> None:
        self.as_json = as_json
        self._waiting = waiting
        self._listener: Bars | Lines | None = None

    def __enter__(self) -> Self:
        self.out, self.err = sys.stdout, sys.stderr
        sys.stdout = sys.stderr
        clear_line(self.err)
        if self._waiting and not self.as_json and self.err.isatty():
            self.err.write(paint(f"{printable(self._waiting)} …", "2", self.err))
            self.err.flush()
        else:
            self._waiting = ""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()
        sys.stdout = self.out

    def settle(self) -> None:
        """Take away what only a waiting terminal shows."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._waiting:
            clear_line(self.err)
            self._waiting = ""

    def progress(self, what: str, done: int, total: int, note: str) -> None:
        """A `budwood.core.step.Progress`: a bar on a terminal, now and then a line elsewhere. Total 0 is a remark."""
        if self.as_json:
            return
        if total <= 0:
            self.note(note)
            return
        if self._listener is None:
            self.settle()
            self._listener = Bars() if self.err.isatty() else Lines(self.write_note)
        self._listener(what, done, total, note)

    def note(self, text: str) -> None:
        """A message for people; a comment after two spaces and `#` is dimmed."""
        if self.as_json:
            return
        if isinstance(self._listener, Bars):
            self._listener.note(self.dimmed(text))
            return
        self.settle()
        self.write_note(text)

    def write_note(self, text: str) -> None:
        self.err.write(self.dimmed(text) + "\n")
        self.err.flush()

    def dimmed(self, text: str) -> str:
        fact, mark, reason = printable(text).partition("  # ")
        return fact + (paint(f"  # {reason}", "2", self.err) if mark else "")

    def data(self, value: Mapping[str, Any]) -> None:
        """One JSON object: on one line, or indented where a person reads it."""
        self.row(value, indent=2 if self.out.isatty() else None)

    def row(self, value: Mapping[str, Any], indent: int | None = None) -> None:
        """One JSON object of several."""
        self.settle()
        unicode = (self.out.encoding or "").lower().replace("-", "") == "utf8"
        text = json.dumps(finite(value), ensure_ascii=not unicode, allow_nan=False, indent=indent, default=plain)
        self.out.write(text + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """A line of the result."""
        self.settle()
        self.out.write((paint(printable(text), style, self.out) if style else printable(text)) + "\n")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of text; columns of numbers are flush right. It is turned on its side where that makes it fit."""
        from rich.cells import cell_len

        self.settle()
        room = get_terminal_size().columns if self.out.isatty() else WIDE
        upright = [list(headers), *([printable(cell) for cell in row] for row in rows)]
        for lines in (aligned(upright), aligned([list(column) for column in zip(*upright, strict=True)])):
            if all(cell_len(line) <= room for line in lines):
                break
        else:
            lines = aligned(upright)
        self.out.write(paint(lines[0], "1", self.out) + "\n")
        self.out.writelines(f"{line}\n" for line in lines[1:])

    def next(self, *commands: str) -> None:
        """What to type next."""
        for number, command in enumerate(commands):
            self.note(("next: " if number == 0 else "      ") + command)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines with two spaces between columns; the first row is the header."""
    from rich.cells import cell_len

    columns = [[row[number] for row in rows] for number in range(len(rows[0]))]
    padded = []
    for column in columns:
        width = max(cell_len(cell) for cell in column)
        right = all(NUMBER.fullmatch(cell) for cell in column[1:])
        gaps = [" " * (width - cell_len(cell)) for cell in column]
        padded.append([gap + cell if right else cell + gap for gap, cell in zip(gaps, column, strict=True)])
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def finite(value: Any) -> Any:
    """The value with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def plain(value: Any) -> Any:
    """Paths as text, and numpy's numbers as Python's."""
    return str(value) if isinstance(value, Path) else finite(value.item())


def percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def span(ci: Sequence[float] | None, digits: int = 2) -> str:
    """An interval of shares in percent."""
    return "" if ci is None else f"[{100 * ci[0]:.{digits}f}, {100 * ci[1]:.{digits}f}]"


def points(value: float | None, ci: Sequence[float] | None) -> str:
    """A difference in percentage points with its interval."""
    return "" if value is None else f"{100 * value:+.2f} {span(ci)}".rstrip()
