"""Label cells to labels: white space off, 1 and "1" and 1.0 made one, lists recognised as several labels a row."""

import ast
import json
import re
from collections.abc import Sequence

from budwood.engine.table import Value, note

__all__ = ["Label", "is_number", "plain_numbers", "to_labels"]

Label = str | list[str] | None
"""One label, several, or None where the cell is empty."""

NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)?|\.\d+)([eE][+-]?\d+)?%?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}%?")
MOST = 0.8
"""Share of the cells that are numbers from which the others are mistakes."""
WHOLE = re.compile(r"([+-]?\d+)\.0+")
LIST = re.compile(r"\[\s*(['\"].*['\"])?\s*\]", re.DOTALL)
LIST_LIMIT = 100_000
"""Characters of a cell that is tried as a list."""


def is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell.strip()) is not None


def to_labels(values: Sequence[Value]) -> tuple[list[Label], tuple[str, ...]]:
    """The labels of a column and notes on what was changed.

    Once any cell holds a list, every row gets a list. An empty cell, null, and NaN give None.
    """
    lists = [as_list(value) for value in values]
    if any(entry is not None for entry in lists):
        rows = [several(value, entry) for value, entry in zip(values, lists, strict=True)]
        return list(rows), (note("labels", "several a row", "the label cells hold lists"),)
    labels = [as_label(value) for value in values]
    padded = sum(isinstance(value, str) and value != value.strip() and bool(value.strip()) for value in values)
    notes = [note("label white space", f"{padded:,} rows", "removed around the label")] if padded else []
    if all(label is None or is_number(label) for label in labels):
        unified = [whole[1] if label and (whole := WHOLE.fullmatch(label)) else label for label in labels]
        changed = sum(new != old for new, old in zip(unified, labels, strict=True))
        labels = unified
        if changed:
            notes.append(note("label numbers", f"{changed:,} rows", "1.0 and 1 are one label"))
    kinds = sorted({type(value).__name__ for value in values if value is not None})
    if len(kinds) > 1:
        notes.append(note("label types", ", ".join(kinds), "made into texts"))
    return list(labels), tuple(notes)


def plain_numbers(labels: Sequence[Label]) -> tuple[list[Label], tuple[str, ...]]:
    """A column of numbers without decimal commas and percent signs, and notes on what was changed.

    A comma is a decimal one where no number of the column has a point and at least one could not have a comma between
    thousands. `1,200` alone may be either, and stays as it is; so do percent signs that only some have. Neither is a
    number to whoever reads the labels.
    """
    numbers = [label for label in labels if isinstance(label, str) and is_number(label)]
    if len(numbers) < MOST * sum(label is not None for label in labels):
        return list(labels), ()
    commas = [cell for cell in numbers if "," in cell]
    decimal = not any("." in cell for cell in numbers) and not all(map(THOUSANDS.fullmatch, commas))
    percent = all(cell.endswith("%") for cell in numbers)
    notes = [note("decimal comma", f"{len(commas):,} rows", f"{commas[0]} is a number")] if commas and decimal else []
    notes += (
        [note("percent", f"{len(numbers):,} rows", "all numbers have the sign, and it is left out")] if percent else []
    )

    def plain(label: Label) -> Label:
        if not isinstance(label, str) or not is_number(label):
            return label
        bare = label.rstrip("%") if percent else label
        return bare.replace(",", ".") if decimal else bare

    return [plain(label) for label in labels] if numbers else list(labels), tuple(notes) if numbers else ()


def as_label(value: Value) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return None if not text or text.lower() == "nan" else text


def several(value: Value, entry: list[Value] | None) -> Label:
    if entry is None:
        label = as_label(value)
        return None if label is None else [label]
    return list(dict.fromkeys(label for label in map(as_label, entry) if label is not None))


def as_list(value: Value) -> list[Value] | None:
    """The list that a cell holds, as a list or as text (`["a", "b"]` or `['a', 'b']`); None when it holds none."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    text = value.strip()
    if len(text) > LIST_LIMIT or not LIST.fullmatch(text):
        return None
    try:
        items = json.loads(text)
    except ValueError:
        try:
            items = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return items if isinstance(items, list) and all(isinstance(item, str) for item in items) else None
