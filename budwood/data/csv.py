"""Tables as text: comma, tab, semicolon or bar between the cells, with or without a header, or one text a line.

    text,label
    "My card never arrived, what now?",card_arrival

Delimiter, quoting and header are found by evidence and noted. Cells are written as they are: one that starts with
`=`, `+`, `-` or `@` is not defused for spreadsheet programs, because that would change the text that is learnt.
"""

import csv
import io
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple, final

from budwood.core.errors import DataError
from budwood.engine.columns import KNOWN_NAMES, plain_name
from budwood.engine.encoding import decode
from budwood.engine.label_cells import is_number
from budwood.engine.table import CELL_LIMIT, Reader, Table, Value, check_rows, note

__all__ = ["Csv"]

DELIMITERS = ("\t", ";", "|", ",")
"""In the order in which they win when the evidence is equal: a comma is the likeliest to be part of a text."""
NAMES = {"\t": "tab", ",": ",", ";": ";", "|": "|", "": "none"}
HEAD = 500
"""Records by which the delimiter is chosen."""
CONSISTENT = 0.75
"""Share of them that must have the same number of cells; the rest are reported as broken, one by one."""

Record = tuple[int, list[str]]
"""The line on which a record starts, counted from 1, and its cells."""

QUOTED = re.compile(r'"[^"]*"\s*')

field_limit = threading.Lock()
"""The csv module's cell limit is one per process, so only one file at a time is parsed under ours."""


class Dialect(NamedTuple):
    delimiter: str
    """Empty: every line is one cell."""
    quoted: bool
    cells: int
    padded: bool = False
    """Whether cells are quoted after a space (`"a", "b"`); then spaces before a cell are skipped."""


class Parsed(NamedTuple):
    records: list[Record]
    ragged: int
    error: DataError | None


@final
@dataclass(frozen=True)
class Csv(Reader):
    suffixes = (".csv", ".tsv", ".tab", ".psv", ".txt")

    def sniff(self, content: bytes) -> float:
        start = content[:4096]
        marked = start.startswith((b"\xff\xfe", b"\xfe\xff"))
        return 0.5 if start.strip() and (marked or b"\0" not in start) else 0.0

    def read(self, content: bytes, name: str, *, skip_bad: bool = False) -> Table:
        text, encoding = decode(content, name)
        lines = split_lines(text)
        check_rows(text.split(), False, name)
        dialect, records, notes = parse(lines, name)
        records, skipped = level(records, dialect, name, skip_bad=skip_bad)
        check_rows(records, False, name)  # skip_bad may have left none
        header, why = has_header([cells for _, cells in records])
        columns = header_names(records[0][1], name) if header else numbered(dialect.cells)
        body = records[1:] if header else records
        check_rows(body, header, name)
        rows: list[dict[str, Value]] = [dict(zip(columns, cells, strict=True)) for _, cells in body]
        notes = (encoding, *notes, note("header", "yes" if header else "no", why))
        return Table(columns, rows, [number for number, _ in body], header, notes, skipped)

    def write(self, table: Table, name: str) -> bytes:
        stream = io.StringIO()
        delimiter = "\t" if name.lower().endswith((".tsv", ".tab")) else ","
        plain = delimiter == "," and not any("\r" in str(cell) for row in table.rows for cell in row.values())
        style: Literal[0, 1] = (
            0 if plain else 1
        )  # QUOTE_MINIMAL; QUOTE_ALL for a lone \r, and for quotes in a tab table
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n", quoting=style)
        writer.writerow(table.columns)
        writer.writerows([row.get(column) for column in table.columns] for row in table.rows)
        return stream.getvalue().encode()


def split_lines(text: str) -> list[str]:
    """Lines with their ends. Only line feeds end a line (or carriage returns, where there is no line feed)."""
    end = "\n" if "\n" in text else "\r"
    lines = [line + end for line in text.split(end)]
    lines[-1] = lines[-1].removesuffix(end)
    return lines if lines[-1] else lines[:-1]


def parse(lines: list[str], name: str) -> tuple[Dialect, list[Record], tuple[str, ...]]:
    dialect, why = choose_delimiter(lines, name)
    delimiter = note("delimiter", NAMES[dialect.delimiter], why)
    if not dialect.delimiter:
        return dialect, unquoted(lines, ""), (delimiter,)
    marks = any('"' in line for line in lines)
    quoted = attempt(lines, dialect, name)
    if marks and (plain := without_quoting(lines, dialect, quoted, name)):
        reason = "quotes are unbalanced, so they are part of the text"
        return dialect._replace(quoted=False), plain.records, (delimiter, note("quoting", "off", reason))
    if quoted.error is not None:
        raise quoted.error
    reason = "balanced, spaces before cells skipped" if dialect.padded else "balanced" if marks else "no quotes occur"
    return dialect, quoted.records, (delimiter, note("quoting", "on", reason))


def without_quoting(lines: list[str], dialect: Dialect, quoted: Parsed, name: str) -> Parsed | None:
    """The lines with quotes as mere characters, where that is the better reading; None where it is not.

    With tabs it is better when more lines are whole, or when a quote swallowed whole lines, unless the whole first line
    is in quotes. In a lone column a quoted text may well span lines, so it is better only when quotes do not close.
    """
    if dialect.cells == 1:
        return attempt(lines, Dialect("", False, 1), name) if quoted.error is not None else None
    if dialect.delimiter != "\t" or (quoted.error is None and all(map(QUOTED.fullmatch, lines[0].split("\t")))):
        return None
    plain = attempt(lines, dialect._replace(quoted=False), name)
    swallowed = plain.ragged == 0 and len(plain.records) > len(quoted.records)
    return plain if quoted.error is not None or plain.ragged < quoted.ragged or swallowed else None


def attempt(lines: list[str], dialect: Dialect, name: str) -> Parsed:
    try:
        records = strict(lines, dialect, name) if dialect.quoted else unquoted(lines, dialect.delimiter)
    except DataError as error:
        return Parsed([], 0, error)
    return Parsed(records, sum(len(cells) != dialect.cells for _, cells in records), None)


@contextmanager
def wide_cells() -> Iterator[None]:
    """Let the csv module read cells up to our limit, and put its own limit back."""
    with field_limit:
        before = csv.field_size_limit(CELL_LIMIT)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def strict(lines: list[str], dialect: Dialect, name: str) -> list[Record]:
    """Records by the rules of quoting. Raises DataError that names the line on which the broken record starts."""
    reader = csv.reader(lines, delimiter=dialect.delimiter, skipinitialspace=dialect.padded, strict=True)
    records: list[Record] = []
    start = 1
    with wide_cells():
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    records.append((start, cells))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                explain(str(error), dialect.delimiter), where=f"{name}: line {start}", fix=QUOTE_FIX
            ) from error
    return records


QUOTE_FIX = 'close the quote; inside a quoted cell, write a quote as ""'


def explain(message: str, delimiter: str) -> str:
    if "field limit" in message:
        return f"a cell is longer than {CELL_LIMIT:,} characters; perhaps a quote is never closed"
    if "unexpected end" in message:
        return "a quote is opened and never closed"
    if "new-line" in message:
        return "a carriage return stands in a cell that is not quoted"
    return f"a quoted cell goes on after its closing quote, where {NAMES[delimiter]} was expected"


def unquoted(lines: Iterable[str], delimiter: str) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            cell = line.rstrip("\r\n")
            records.append((number, cell.split(delimiter) if delimiter else [cell]))
    return records


def choose_delimiter(lines: list[str], name: str) -> tuple[Dialect, str]:
    """The delimiter that gives most records the same number of cells, two at least."""
    best, score = Dialect("", False, 1), (0.0, 0)
    for delimiter in DELIMITERS:
        for cells, share in counts(lines, delimiter):
            if cells > 1 and share >= CONSISTENT and (share, cells) > score:
                best, score = Dialect(delimiter, True, cells, is_padded(lines, delimiter)), (share, cells)
    if best.delimiter:
        return best, f"{score[0]:.0%} of the first lines have {best.cells} cells with it"
    suffix = "\t" if name.lower().endswith((".tsv", ".tab")) else ","
    if counts(lines, suffix)[0] == (1, 1.0):
        return Dialect(suffix, True, 1), "there is one column"
    if suffix in lines[0] and not name.lower().endswith(".txt"):
        return Dialect(suffix, True, lines[0].count(suffix) + 1), "the first line has it; other lines disagree"
    return best, "no delimiter splits the lines evenly, so every line is one text"


def counts(lines: list[str], delimiter: str) -> list[tuple[int, float]]:
    """The commonest number of cells and its share, with quoting and (for tabs) without."""
    sizes: list[int] = []
    with wide_cells(), suppress(csv.Error):
        padded = is_padded(lines, delimiter)
        for cells in islice(csv.reader(lines, delimiter=delimiter, skipinitialspace=padded), HEAD):
            if cells:
                sizes.append(len(cells))
    if delimiter != "\t":
        return [mode(sizes)]
    return [mode(sizes), mode([len(cells) for _, cells in unquoted(lines[:HEAD], delimiter)])]


def is_padded(lines: list[str], delimiter: str) -> bool:
    """Whether most lines have a quote after a delimiter and a space."""
    head = lines[:HEAD]
    return 2 * sum(f'{delimiter} "' in line for line in head) > len(head)


def mode(sizes: Sequence[int]) -> tuple[int, float]:
    counter = Counter(sizes)
    if not counter:
        return 0, 0.0
    size, count = counter.most_common(1)[0]
    return size, count / counter.total()


def level(
    records: list[Record], dialect: Dialect, name: str, *, skip_bad: bool
) -> tuple[list[Record], tuple[tuple[int, str], ...]]:
    """Records that all have the same number of cells; the others raise DataError, or are listed."""
    whole: list[Record] = []
    skipped: list[tuple[int, str]] = []
    for number, cells in records:
        problem = ""
        if len(cells) != dialect.cells:
            problem = f"the line has {len(cells)} columns, expected {dialect.cells}"
        elif max(map(len, cells)) > CELL_LIMIT:
            problem = f"a cell is longer than {CELL_LIMIT:,} characters"
        if not problem:
            whole.append((number, cells))
        elif skip_bad:
            skipped.append((number, problem))
        else:
            fix = "quote cells that hold the delimiter, or let `budwood doctor DATA --fix OUT` leave such lines out"
            raise DataError(problem, where=f"{name}: line {number}", fix=fix)
    return whole, tuple(skipped)


def has_header(records: Sequence[list[str]]) -> tuple[bool, str]:
    """Whether the first record names the columns, and the evidence."""
    first, rest = records[0], records[1:]
    names = [plain_name(cell) for cell in first]
    if all(name in KNOWN_NAMES for name in names):
        return True, "the first line has common column names only"
    if any(is_number(cell) or len(cell) > 80 for cell in first):
        return False, "the first line holds a number or a long text"
    if any(not cell.strip() for cell in first[1:]) or (not first[0].strip() and len(first) == 1):
        return False, "the first line has an empty cell"
    for index, cell in enumerate(first):
        if cell.strip() and any(record[index] == cell for record in rest):
            return False, f"{cell!r} of the first line occurs again below"
    if known := next((cell for cell, name in zip(first, names, strict=True) if name in KNOWN_NAMES), None):
        return True, f"{known!r} is a common column name"
    numeric = (cell for index, cell in enumerate(first) if all(is_number(record[index]) for record in rest))
    if rest and (above := next(numeric, None)) is not None:
        return True, f"{above!r} stands above numbers"
    if rest and len(first) > 1 and all(re.fullmatch(r"[^\W\d][\w .-]{0,29}", cell) for cell in first):
        longest = max(sum(len(record[index]) for record in rest) / len(rest) for index in range(len(first)))
        if longest >= 2 * max(map(len, first)):
            return True, "the first line has short names, the lines below have texts"
    return False, "the first line looks like the others"


def header_names(first: Sequence[str], name: str) -> tuple[str, ...]:
    names = tuple(cell.strip() or f"column_{index}" for index, cell in enumerate(first, start=1))
    if twice := next((cell for cell in names if names.count(cell) > 1), None):
        raise DataError(f"the column name {twice!r} occurs twice", where=f"{name}: line 1", fix="rename one of them")
    return names


def numbered(count: int) -> tuple[str, ...]:
    return tuple(f"column_{index}" for index in range(1, count + 1))
