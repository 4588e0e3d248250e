"""Repair what the data doctor found and can repair safely, and write the result as a new file."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from budwood.core.commit import write_atomic
from budwood.core.dataset import Dataset
from budwood.core.errors import UsageError
from budwood.core.task import Row
from budwood.engine.findings import Finding
from budwood.engine.reading import Reading, reader_of
from budwood.engine.table import Table, Value

__all__ = ["mend", "write_table"]

FIELDS = ("text", "label", "group", "split")


def mend(reading: Reading, findings: Iterable[Finding]) -> Dataset:
    """The rows of `reading` after every fixable finding: spellings merged; empty, repeated, conflicting and leaking
    rows dropped. Apply it to the reading that was diagnosed."""
    fixable = [finding for finding in findings if finding.fixable]
    rename = {old: new for finding in fixable for old, new in finding.rename.items()}
    dropped = {place for finding in fixable if not finding.rename for place in finding.rows}
    rows = (
        renamed(row, rename)
        for row, place in zip(reading.dataset.rows, reading.places, strict=True)
        if place not in dropped
    )
    return Dataset(tuple(rows), reading.dataset.sources)


def renamed(row: Row, rename: dict[str, str]) -> Row:
    label = row["label"]
    if isinstance(label, list):
        return {**row, "label": list(dict.fromkeys(rename.get(name, name) for name in label))}
    return {**row, "label": rename.get(label, label)}


def write_table(dataset: Dataset, path: Path | str) -> None:
    """Write a dataset as csv, tsv, jsonl, json or parquet, by the suffix. After a crash the file is whole or absent.

    Cells are written as they are: a text that starts with `=`, `+`, `-` or `@` is not defused, since that would change
    what is learnt. Spreadsheet programs may run it as a formula, so import such a file there as text.

    Raises:
        UsageError: the file exists; nothing is ever overwritten.
        DataError: no format has this suffix.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise UsageError(f"{path.name} already exists", where=str(path), fix="choose another name, or remove it first")
    writer = reader_of(path)
    columns = tuple(name for name in FIELDS if any(name in row for row in dataset))
    flat = path.suffix.lower() not in (".jsonl", ".ndjson", ".json", ".parquet", ".pq")
    table = Table(columns, cells(dataset.rows, columns, flat=flat), range(1, len(dataset) + 1), True)
    write_atomic(path, writer.write(table, path.name))


def cells(rows: Sequence[Row], columns: Sequence[str], *, flat: bool) -> list[dict[str, Value]]:
    """Rows as cells; where a format has no lists, a list becomes its JSON text, which is read back as a list."""

    def cell(value: Value) -> Value:
        return json.dumps(value, ensure_ascii=False) if flat and isinstance(value, list) else value

    return [{name: cell(row.get(name)) for name in columns} for row in rows]
