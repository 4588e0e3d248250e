"""Libraries of molecules as streams: `.smi`, `.csv` or `.tsv`, `.jsonl`, each also as `.gz`; one record at a time.

Millions of rows take the memory of one. Use it for screening; training data is read whole by `engine/reading.py`.
"""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from budwood.core.errors import DataError, NotFoundError
from budwood.engine.columns import plain_name
from budwood.engine.smiles_columns import NAMES, find_smiles_column

__all__ = ["Library", "Record", "open_library"]

LINE_LIMIT = 100_000
"""Characters of one line; a longer one is no molecule."""
SAMPLE = 50
IDS = ("id", "name", "mol_id", "molecule_id", "compound_id", "title", "cid", "chembl_id", "zinc_id", "mol_name")
SUFFIXES = {".smi": "smi", ".smiles": "smi", ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "smi"}
SUFFIXES |= {".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True)
class Record:
    """One molecule as it stands in the file."""

    smiles: str
    name: str
    label: str
    """Empty where it is unknown."""


@dataclass(frozen=True)
class Library:
    """A file of molecules and the roles of its columns."""

    path: Path
    format: str
    smiles: str = ""
    name: str = ""
    label: str = ""
    """Column names; empty where the file has no such column. A .smi file has neither columns nor labels."""
    delimiter: str = ","

    def records(self) -> Iterator[Record]:
        """All records in order; one that cannot be read has empty SMILES, so that records keep their numbers.

        Raises:
            DataError: a line is longer than any molecule, a quote is not closed in its line, or the bytes are not text.
        """
        with opened(self.path) as file:
            try:
                yield from {"smi": self.lines, "csv": self.table, "jsonl": self.objects}[self.format](file)
            except UnicodeDecodeError as error:
                raise DataError("the file is not UTF-8 text", where=str(self.path), fix="convert it first") from error
            except (EOFError, gzip.BadGzipFile) as error:
                raise DataError(f"the archive is damaged: {error}", where=str(self.path), fix="get it again") from error

    def lines(self, file: IO[str]) -> Iterator[Record]:
        first = True
        for line in bounded(file, self.path):
            parts = line.split(maxsplit=1)
            if not parts or line.startswith("#"):
                continue
            header, first = first and plain_name(parts[0]) in NAMES, False
            if not header:
                yield Record(parts[0], parts[1].strip() if len(parts) > 1 else "", "")

    def table(self, file: IO[str]) -> Iterator[Record]:
        for row in rows_of(bounded(file, self.path), self.delimiter, self.path):
            yield self.record(row)

    def objects(self, file: IO[str]) -> Iterator[Record]:
        for line in bounded(file, self.path):
            if line.strip():
                yield self.record(parsed(line))

    def record(self, row: Mapping[str, Any]) -> Record:
        cells = (text_of(row.get(column)) if column else "" for column in (self.smiles, self.name, self.label))
        return Record(*cells)


def open_library(path: Path, input: str | None = None, target: str | None = None) -> Library:
    """Look at the first rows of a file and find its columns. `input` and `target` name them.

    Raises:
        NotFoundError: there is no such file.
        DataError: the format is unknown, or no column holds SMILES.
    """
    if not path.is_file():
        raise NotFoundError("there is no such file", where=str(path), fix="check the path; `ls` shows what is there")
    stem = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    format = SUFFIXES.get(stem.suffix.lower())
    if format is None:
        known = ", ".join(sorted(SUFFIXES))
        raise DataError("the format of the library is unknown", where=str(path), fix=f"save it as one of: {known}")
    if format == "smi":
        if input or target:
            flag = "--input" if input else "--target"
            fix = f"leave {flag} out, or save it as a table with a header"
            raise DataError("the file has no columns: SMILES, a blank and a name", where=str(path), fix=fix)
        return Library(path, format)
    delimiter = "\t" if stem.suffix.lower() in (".tsv", ".tab") else ","
    with opened(path) as file:
        head = bounded(file, path)
        reader = rows_of(head, delimiter, path) if format == "csv" else (parsed(line) for line in head if line.strip())
        sample = [row for row, _ in zip(reader, range(SAMPLE), strict=False)]
    columns = list(dict.fromkeys(key for row in sample for key in row if isinstance(key, str)))
    smiles = named(input, columns, path, "--input") or find_smiles_column(
        {column: [text_of(row.get(column)) for row in sample] for column in columns}
    )
    if smiles is None:
        where = f"{path.name}: columns {', '.join(columns)}"
        raise DataError("no column holds SMILES", where=where, fix="name it: --input COLUMN")
    name = next((column for column in columns if plain_name(column) in IDS and column != smiles), "")
    return Library(path, format, smiles, name, named(target, columns, path, "--target") or "", delimiter)


def named(column: str | None, columns: Sequence[str], path: Path, flag: str) -> str | None:
    if column is None or column in columns:
        return column
    where = f"{path.name}: columns {', '.join(columns)}"
    raise DataError(f"there is no column {column!r}", where=where, fix=f"name one of them: {flag} COLUMN")


def opened(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def bounded(file: IO[str], path: Path) -> Iterator[str]:
    """Lines of a bounded length, so that a file without line ends, or a bomb, never fills the memory."""
    number = 0
    while line := file.readline(LINE_LIMIT + 1):
        number += 1
        if len(line) > LINE_LIMIT:
            cause = f"the line is longer than {LINE_LIMIT:,} characters"
            raise DataError(
                cause, where=f"{path.name}: line {number}", fix="a molecule is far shorter; remove the line"
            )
        yield line


def rows_of(lines: Iterator[str], delimiter: str, path: Path) -> Iterator[dict[str, str]]:
    """Rows of a table by the names in its first line; missing cells are empty, surplus ones dropped."""
    header: list[str] | None = None
    for cells in cells_of(lines, delimiter, path):
        if not any(cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
        else:
            yield dict(zip(header, cells, strict=False))


def cells_of(lines: Iterator[str], delimiter: str, path: Path) -> Iterator[list[str]]:
    """The cells of each line. A record of several lines is refused: one stray quote would swallow all that follow."""
    reader = csv.reader(chain(lines, ["\n"]), delimiter=delimiter)  # the end is a line, too, that a quote may swallow
    while True:
        line = reader.line_num + 1
        where, fix = f"{path.name}: line {line}", "close the quote, or write a quote within a cell twice"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"the row cannot be read: {error}", where=where, fix=fix) from error
        if cells is None:
            return
        if reader.line_num > line:
            raise DataError("a quote is opened and not closed in its line", where=where, fix=fix)
        yield cells


def parsed(line: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return item if isinstance(item, dict) else {}


def text_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None or isinstance(value, list | dict) else str(value).strip()
