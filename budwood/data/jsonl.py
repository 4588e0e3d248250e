"""JSON lines, one object a line, and a JSON list of such objects. Values are texts, numbers, or lists of them.

{"text": "My card never arrived", "label": "card_arrival"}
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from budwood.core.errors import DataError
from budwood.engine.encoding import decode
from budwood.engine.table import CELL_LIMIT, Reader, Table, Value, check_rows, note

__all__ = ["Jsonl"]


@final
@dataclass(frozen=True)
class Jsonl(Reader):
    suffixes = (".jsonl", ".ndjson", ".json")

    def sniff(self, content: bytes) -> float:
        start = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
        if start.startswith(b"["):
            return 0.9 if start[1:].lstrip().startswith(b"{") else 0.0
        return 0.9 if start.startswith(b"{") and start[1:].lstrip().startswith((b'"', b"}")) else 0.0

    def read(self, content: bytes, name: str, *, skip_bad: bool = False) -> Table:
        text, encoding = decode(content, name)
        as_list = text.lstrip().startswith("[")
        rows: list[dict[str, Value]] = []
        numbers: list[int] = []
        skipped: list[tuple[int, str]] = []
        for number, item in whole(text, name) if as_list else lines(text):
            try:
                rows.append(check_item(parse(item) if isinstance(item, str) else item))
                numbers.append(number)
            except (ValueError, RecursionError) as error:
                reason = "it is nested too deeply" if isinstance(error, RecursionError) else describe(error)
                if not skip_bad:
                    raise broken(reason, f"{name}: {'item' if as_list else 'line'} {number}") from error
                skipped.append((number, reason))
        check_rows(rows, False, name)
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        layout = note("layout", "a JSON list" if as_list else "JSON lines", f"{len(rows):,} objects")
        complete = [row if len(row) == len(columns) else {key: row.get(key) for key in columns} for row in rows]
        return Table(columns, complete, numbers, True, (encoding, layout), tuple(skipped))

    def write(self, table: Table, name: str) -> bytes:
        if name.lower().endswith(".json"):
            return (json.dumps(list(table.rows), ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in table.rows)
        return "".join(line + "\n" for line in lines).encode()


def lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped


def whole(text: str, name: str) -> Iterator[tuple[int, Any]]:
    try:
        items = parse(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else describe(error)
        number = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise broken(reason, f"{name}: line {number}") from error
    yield from enumerate(items, start=1)


def parse(text: str) -> Any:
    """JSON without the latitude of Python's parser: no NaN, no infinite numbers, no key twice."""
    return json.loads(text, parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=unique)


def refuse_constant(literal: str) -> Any:
    raise ValueError(f"{literal} is not JSON; write null for a missing value")


def finite(literal: str) -> float:
    if not math.isfinite(value := float(literal)):
        raise ValueError(f"the number {literal} is too large")
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return fields


def check_item(item: Any) -> dict[str, Value]:
    if not isinstance(item, dict):
        raise ValueError(f'expected an object such as {{"text": …, "label": …}}, found {type(item).__name__}')
    for key, value in item.items():
        if isinstance(value, dict):
            raise ValueError(f"the value of {key!r} is an object; only texts, numbers and lists of them are read")
        if isinstance(value, list) and not is_chat(value) and any(isinstance(entry, list | dict) for entry in value):
            raise ValueError(
                f"the value of {key!r} is a list of lists or objects; only texts, numbers and lists of them are read"
            )
        if isinstance(value, str) and len(value) > CELL_LIMIT:
            raise ValueError(f"the value of {key!r} has {len(value):,} characters, more than {CELL_LIMIT:,}")
    return item


def is_chat(value: list[Any]) -> bool:
    """Whether a list holds the messages of a conversation, the one kind of objects in a cell that is read."""
    return all(isinstance(entry, dict) and {"role", "content"} <= entry.keys() for entry in value)


def describe(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"it is not valid JSON: {error.msg} at column {error.colno}"
    return str(error)


def broken(reason: str, where: str) -> DataError:
    return DataError(reason, where=where, fix="mend it, or let `budwood doctor DATA --fix OUT` leave it out")
