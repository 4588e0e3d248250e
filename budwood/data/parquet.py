"""Parquet tables, as data warehouses and the Hugging Face hub give them. Columns of unknown types are never built."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, final

from budwood.core.errors import DataError
from budwood.engine.table import Reader, Table, Value, check_rows, note

__all__ = ["Parquet"]

MAGIC = b"PAR1"
MAX_ROWS = 10_000_000
MAX_BYTES = 2 << 30
"""Rows, and bytes after decompression, that are read: a few kilobytes can unpack to many gigabytes."""


@final
@dataclass(frozen=True)
class Parquet(Reader):
    suffixes = (".parquet", ".pq")

    def sniff(self, content: bytes) -> float:
        return 1.0 if content.startswith(MAGIC) else 0.0

    def read(self, content: bytes, name: str, *, skip_bad: bool = False) -> Table:
        """A damaged file cannot be read in part, so `skip_bad` changes nothing."""
        import pyarrow as arrow
        from pyarrow import parquet

        refuse_extensions(content, name)
        try:
            file = parquet.ParquetFile(arrow.BufferReader(content))
            check_size(file.metadata.num_rows, 0, name)
            refuse_twins(file.schema_arrow.names, name)
            plain = [field.name for field in file.schema_arrow if is_plain(field.type, arrow)]
            rows = rows_of(file, plain, name)
        except (arrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"the parquet file is damaged: {reason}", where=name, fix="export it again") from error
        others = [column for column in file.schema_arrow.names if column not in plain]
        check_rows(rows, True, name)
        notes = [note("format", "parquet", "typed columns, no guessing")]
        if others:
            notes.append(note("left out", ", ".join(others), "neither text, number, nor a list of them"))
        return Table(tuple(plain), rows, range(1, len(rows) + 1), True, tuple(notes))

    def write(self, table: Table, name: str) -> bytes:
        import pyarrow as arrow
        from pyarrow import parquet

        sink = arrow.BufferOutputStream()
        columns = {column: [row.get(column) for row in table.rows] for column in table.columns}
        parquet.write_table(arrow.table(columns), sink)
        return bytes(sink.getvalue())


def refuse_extensions(content: bytes, name: str) -> None:
    """Refuse extension types from the raw footer: merely opening such a file may unpickle what it holds."""
    size = int.from_bytes(content[-8:-4], "little")
    if len(content) < 12 or not content.startswith(MAGIC) or content[-4:] != MAGIC or size > len(content) - 12:
        raise DataError("the parquet file is damaged: its end is missing", where=name, fix="export it again")
    footer = content[-8 - size : -8]
    for blob in re.findall(rb"[A-Za-z0-9+/]{16,}={0,2}", footer):
        try:
            schema = base64.b64decode(blob + b"=" * (-len(blob) % 4))
        except binascii.Error:
            continue
        if b"ARROW:extension:name" in schema:
            raise DataError(
                "the parquet file has a column of an extension type, which could run code when opened",
                where=name,
                fix="export it with plain text and number columns",
            )


def rows_of(file: Any, columns: list[str], name: str) -> list[dict[str, Value]]:
    rows: list[dict[str, Value]] = []
    size = 0
    for batch in file.iter_batches(columns=columns):
        size += batch.nbytes
        check_size(len(rows), size, name)
        cells = [clean(batch.column(column).to_pylist()) for column in columns]
        rows += [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]
    return rows


def check_size(rows: int, size: int, name: str) -> None:
    if rows > MAX_ROWS or size > MAX_BYTES:
        raise DataError(
            f"the table is too large: {rows:,} rows, {size >> 20:,} MiB so far",
            where=name,
            fix=f"give at most {MAX_ROWS:,} rows and {MAX_BYTES >> 20:,} MiB",
        )


def refuse_twins(names: list[str], name: str) -> None:
    if twin := next((column for column in names if names.count(column) > 1), None):
        raise DataError(f"the column name {twin!r} occurs twice", where=name, fix="rename one of them")


def is_plain(kind: Any, arrow: Any) -> bool:
    types = arrow.types
    if types.is_dictionary(kind):
        return is_plain(kind.value_type, arrow)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind.value_type
        return bool(types.is_string(inner) or types.is_large_string(inner) or types.is_integer(inner))
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    return any(test(kind) for test in tests)


def clean(values: list[Value]) -> list[Value]:
    """NaN is parquet's way to say that a number is missing."""
    return [None if isinstance(value, float) and value != value else value for value in values]
