"""Repair what the data doctor found and can repair safely, and write the result as a new file."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from budwood.core.commit import write_atomic
from budwood.core.dataset import Dataset
from budwood.core.errors import UsageError
from budwood.core.task import Row
from budwood.engine.columns import Columns
from budwood.engine.findings import Finding
from budwood.engine.reading import Reading, reader_of
from budwood.engine.table import Table, Value

__all__ = ["mend", "mended_table", "write_table"]

FIELDS = ("text", "label", "group", "split")


def mend(reading: Reading, findings: Iterable[Finding]) -> Dataset:
    """The rows of `reading` after every fixable finding: spellings merged; empty, repeated, conflicting and leaking
    rows dropped. Apply it to the reading that was diagnosed."""
    return Dataset(tuple(row for _, row in kept_rows(reading, list(findings))), reading.dataset.sources)


def mended_table(reading: Reading, findings: Iterable[Finding]) -> Table:
    """What `mend` gives, with all the columns of the source under their own names, so that it is read as the source is.

    Where a table has no header, or several tables name their texts or labels differently, those columns are called
    `text`, `label` and `group`. `split` is added where the names of files say it. `reading` has its tables, because it
    was read with `keep_empty=True`.
    """
    findings = list(findings)
    sources = [(cells, columns) for table, columns in reading.tables for cells in table.rows]
    first = roles(reading.tables[0][1])
    alike = all(table.header and roles(columns) == first for table, columns in reading.tables)
    own_names = alike and "split" not in first
    relabel = any(finding.fixable and finding.rename for finding in findings)
    make = partial(own_row, relabel=relabel) if own_names else standard_row
    rows = [make(row, *sources[index]) for index, row in kept_rows(reading, findings)]
    names = tuple(dict.fromkeys(name for row in rows for name in row)) or reading.tables[0][0].columns
    return Table(names, rows, range(1, len(rows) + 1), True)


def kept_rows(reading: Reading, findings: Sequence[Finding]) -> list[tuple[int, Row]]:
    """The rows that stay, with their numbers in the reading."""
    fixable = [finding for finding in findings if finding.fixable]
    rename = {old: new for finding in fixable for old, new in finding.rename.items()}
    dropped = {place for finding in fixable if not finding.rename for place in finding.rows}
    rows = enumerate(zip(reading.dataset.rows, reading.places, strict=True))
    return [(index, renamed(row, rename)) for index, (row, place) in rows if place not in dropped]


def roles(columns: Columns) -> tuple[str | None, ...]:
    return (columns.target, columns.group, *columns.inputs)


def own_row(row: Row, cells: Mapping[str, Value], columns: Columns, *, relabel: bool) -> dict[str, Value]:
    """The cells as they were, with the label and the split of the mended row."""
    assert columns.target is not None  # the doctor reads labelled rows
    label = {columns.target: row["label"]} if relabel else {}
    return {**cells, **label, **({"split": row["split"]} if "split" in row else {})}


def standard_row(row: Row, cells: Mapping[str, Value], columns: Columns) -> dict[str, Value]:
    """The fields of the row, then the cells without a role; one that is called like a field gets another name."""
    fields: dict[str, Value] = {name: row[name] for name in FIELDS if name in row}
    taken = {*roles(columns), columns.split if "split" in row else None}
    others = {name: value for name, value in cells.items() if name not in taken}
    return fields | {f"{name}_in_source" if name in fields else name: value for name, value in others.items()}


def renamed(row: Row, rename: dict[str, str]) -> Row:
    label = row["label"]
    if isinstance(label, list):
        return {**row, "label": list(dict.fromkeys(rename.get(name, name) for name in label))}
    return {**row, "label": rename.get(label, label)}


def write_table(content: Dataset | Table, path: Path | str) -> None:
    """Write rows as csv, tsv, jsonl, json or parquet, by the suffix. After a crash the file is whole or absent.

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
    rows: Sequence[Mapping[str, Value]] = content.rows
    if isinstance(content, Table):
        columns = content.columns
    else:
        columns = tuple(name for name in FIELDS if any(name in row for row in rows))
    as_text = textual(rows, columns, path.suffix.lower())
    cells = [{name: cell(row.get(name), as_text=name in as_text) for name in columns} for row in rows]
    write_atomic(path, writer.write(Table(columns, cells, range(1, len(rows) + 1), True), path.name))


def textual(rows: Sequence[Mapping[str, Value]], columns: Sequence[str], suffix: str) -> set[str]:
    """The columns that a format cannot hold as they are: lists in a delimited table, mixed types in parquet."""
    if suffix in (".jsonl", ".ndjson", ".json"):
        return set()
    if suffix not in (".parquet", ".pq"):
        return {name for name in columns if any(isinstance(row.get(name), list) for row in rows)}
    return {name for name in columns if len({kind for row in rows for kind in kinds(row.get(name))}) > 1}


def kinds(value: Value) -> set[str]:
    if isinstance(value, list):
        return {f"list of {type(item).__name__}" for item in value} or {"list of str"}
    return set() if value is None else {type(value).__name__}


def cell(value: Value, *, as_text: bool) -> Value:
    """A cell; as text where asked, a list as its JSON text, which is read back as a list."""
    if not as_text or value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
