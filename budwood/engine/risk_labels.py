"""Labels of a regression: a number, a yes or no, or a time with what ended it; one spelling of each.

A row's label is `"869500"`, `"yes"`, or `{"days": "812", "died": "1"}` where two columns were named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.molecule_labels import POSITIVE, as_class, as_number

__all__ = [
    "NUMBER",
    "RISK",
    "SURVIVAL",
    "are_numbers",
    "kind_of",
    "numbers_of",
    "outcomes_of",
    "skewed",
    "time_columns",
]

NUMBER, RISK, SURVIVAL = "number", "risk", "survival"
MANY_VALUES = 10
MANY_SHARE = 0.1
"""Different values, and their share of the rows, from which whole numbers are amounts and not names of classes."""
SKEWED = 1.0
"""Skewness from which a logarithm is tried; that of an exponential distribution is 2."""
NO = frozenset({"0", "false", "no", "n", "negative", "alive", "censored", "-"})
FIX = "name another column with --target"


def kind_of(rows: Sequence[Row]) -> str:
    """What the labels of these rows are. Raises DataError when they are nothing that a regression learns."""
    labels = [row["label"] for row in rows]
    if labels and all(isinstance(label, Mapping) for label in labels):
        return SURVIVAL
    if any(isinstance(label, Mapping | list | tuple) for label in labels):
        raise DataError("a row has several labels", where="the label column", fix=FIX)
    values = {as_class(label) for label in labels}
    if len(values) < 2:
        only = next(iter(values), None)
        cause = "there are no labelled rows" if only is None else f"every row has the same label {only!r}"
        raise DataError(cause, where="the label column", fix=FIX)
    if len(values) == 2:
        return RISK
    if odd := sorted(value for value in values if as_number(value) is None):
        fix = f"mend or drop those rows (budwood doctor lists them), or {FIX}"
        raise DataError(f"{odd[0]!r} is not a number", where=f"the labels; {len(odd)} such values", fix=fix)
    return NUMBER


def are_numbers(labels: Sequence[Any]) -> bool:
    """Whether labels are amounts rather than classes: numbers, of which many are different or some have fractions."""
    values = {as_class(label) for label in labels if not isinstance(label, Mapping | list | tuple)}
    found = [as_number(value) for value in values]
    if len(values) < MANY_VALUES or any(number is None for number in found):
        return False
    return any(number is not None and not number.is_integer() for number in found) or len(values) >= MANY_SHARE * len(
        labels
    )


def numbers_of(rows: Sequence[Row], field: str | None = None) -> NDArray[np.float64]:
    """The labels, or one field of them, as numbers, shape (rows,). Raises DataError naming the row."""
    found = np.empty(len(rows))
    for place, row in enumerate(rows):
        label = row["label"]
        value = label.get(field) if isinstance(label, Mapping) else label
        number = None if isinstance(value, list | tuple) else as_number(value)
        if number is None:
            raise DataError(f"label {value!r} is not a number", where=f"row {place + 1}", fix=FIX)
        found[place] = number
    return found


def outcomes_of(values: Sequence[Any]) -> tuple[str, str]:
    """What does not happen, and what does. Raises DataError unless there are two values.

    `1`, `yes`, `true`, `positive` and the like happen, `0`, `no` and `normal` do not; of other words the second in
    the alphabet does.
    """
    found = sorted({as_class(value) for value in values})
    if len(found) != 2:
        raise DataError(
            f"a yes or no has two values, and these are {', '.join(map(repr, found[:5]))}", where="the labels", fix=FIX
        )
    first, second = found
    swap = first.lower() in POSITIVE or second.lower() in NO | {"normal", "healthy", "benign", "control"}
    return (second, first) if swap and second.lower() not in POSITIVE else (first, second)


def time_columns(rows: Sequence[Row]) -> tuple[str, str]:
    """The names of the time and of what ended it, whichever comes first. Raises DataError when they cannot be told."""
    names = list(rows[0]["label"])
    if len(names) == 2:
        for time, event in (names, names[::-1]):
            values = [as_number(row["label"].get(time)) for row in rows]
            ends = {as_class(row["label"].get(event)) for row in rows}
            if len(ends) == 2 and all(value is not None and value > 0 for value in values):
                return time, event
    raise DataError(
        "a time to an event needs a column of times above 0 and a column that says whether it came",
        where=f"columns {', '.join(names)}",
        fix="--target days,died with 1 and 0 (or yes and no) in the second",
    )


def skewed(values: NDArray[np.float64]) -> bool:
    """Whether a logarithm suits values: all are above 0, they lean far to the right, and their logarithms do not."""
    if len(values) < 20 or values.min() <= 0:
        return False
    plain, logged = skewness(values), abs(skewness(np.log(values)))
    return plain > SKEWED and logged < 0.7 * plain


def skewness(values: NDArray[np.float64]) -> float:
    spread = float(values.std())
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0
