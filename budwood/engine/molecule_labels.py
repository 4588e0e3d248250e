"""Label columns of molecules: which properties there are, classes or numbers, and one spelling of each value."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from budwood.core.errors import DataError

__all__ = [
    "CLASSES",
    "NO_LABEL",
    "NUMBERS",
    "SINGLE",
    "as_class",
    "as_number",
    "columns_of",
    "kind_of",
    "labels_of",
    "property_of",
]

SINGLE = "label"
"""The name of the one property of a table with one target."""
POSITIVE = frozenset({"1", "true", "yes", "y", "active", "positive", "toxic", "+", "p"})
CLASSES, NUMBERS = "classification", "regression"
NO_LABEL = "it has no label"
"""Why the reader skips a molecule whose values are all unknown."""


def columns_of(labels: Sequence[Any]) -> dict[str, list[Any]]:
    """The known values of each property, in the order of the properties."""
    columns: dict[str, list[Any]] = {}
    for label in labels:
        names = label if isinstance(label, Mapping) else (SINGLE,)
        for name in names:
            value = property_of(label, name)
            known = columns.setdefault(name, [])
            if value is not None:
                known.append(value)
    return columns


def property_of(label: Any, name: str) -> Any:
    value = label.get(name) if isinstance(label, Mapping) else label
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def kind_of(values: Sequence[Any], name: str) -> str:
    """Classes where there are two values, numbers where all are numeric. Raises DataError otherwise."""
    distinct = {as_class(value) for value in values}
    if len(distinct) == 2:
        return CLASSES
    if len(distinct) > 2 and all(as_number(value) is not None for value in distinct):
        return NUMBERS
    if len(distinct) < 2:
        only = next(iter(distinct), "none")
        fix = "name another column with --target, or add molecules of another class"
        raise DataError(f"every label of {name!r} is {only!r}", where="the label column", fix=fix)
    fix = "give one column of 0 and 1 for each class"
    raise DataError(f"{name!r} has {len(distinct)} classes; molecules are classified into two", where=name, fix=fix)


def labels_of(columns: Mapping[str, Sequence[Any]]) -> tuple[str, str]:
    """The negative and the positive label. Raises DataError when the properties use different ones."""
    found = {tuple(sorted({as_class(value) for value in values})) for values in columns.values()}
    if len(found) > 1:
        raise DataError("the columns use different labels", where="the labels", fix="write 0 and 1 in all of them")
    first, second = found.pop()
    return (second, first) if first.lower() in POSITIVE and second.lower() not in POSITIVE else (first, second)


def as_class(value: Any) -> str:
    """One spelling of a class: 1, 1.0, "1" and "1.0" are the same."""
    if isinstance(value, bool):
        return str(int(value))
    number = as_number(value)
    return str(int(number)) if number is not None and number.is_integer() else str(value).strip()


def as_number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
