"""Labels of a regression: a number, a yes or no, or a time with what ended it; one spelling of each.

A row's label is `"869500"`, `"yes"`, or `{"days": "812", "died": "1"}` where two columns were named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    "are_amounts",
    "kind_of",
    "numbers_of",
    "outcome_told",
    "outcomes_of",
    "skewed",
    "spread_of",
    "time_columns",
]

NUMBER, RISK, SURVIVAL = "number", "risk", "survival"
MOST = 0.8
"""Share of the labels that are numbers from which the others are mistakes."""
MANY_VALUES = 10
"""Different values from which numbers may be amounts and not names of classes."""
MANY_WHOLE = 20
MANY_SHARE = 0.1
ONCE = 0.1
"""Of whole numbers: the same, their share of the rows, and the share of them that only one row has."""
MOSTLY_DIFFERENT = 0.5
"""Share of different values from which whole numbers are amounts, however few."""
EXTREME = 1e30
"""Numbers larger than this, or that differ by less than its inverse, have squares that floats cannot hold."""
SKEWED = 1.0
"""Skewness from which a logarithm is tried; that of an exponential distribution is 2."""
NO = frozenset(
    {
        "-", "absent", "alive", "benign", "censored", "clear", "control", "false", "free", "healthy", "living", "lived",
        "n", "neg", "negative", "never", "no", "none", "normal", "ok", "stable", "survived", "survivor", "unaffected",
    }
)  # fmt: skip
"""What people write for what did not happen."""
NEGATIONS = ("no", "not", "non", "un", "without")
FIX = "name another column with --target"
UNIT = "give the numbers in another unit, or mend that row"


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


def are_amounts(rows: Sequence[Row]) -> bool:
    """Whether the labels are numbers or times rather than classes, but for a few mistakes among them.

    The names of the folders that the inputs lie in are classes, whatever they are called.
    """
    labels = [row["label"] for row in rows if "label" in row]
    if any(isinstance(label, Mapping) for label in labels):
        return True
    plain = [label for label in labels if not isinstance(label, list | tuple)]
    numbers = [number for label in plain if (number := as_number(label)) is not None]
    if len(numbers) < MOST * max(len(labels), 1) or all(names_folder(row) for row in rows):
        return False
    return differ(numbers)


def names_folder(row: Row) -> bool:
    """Whether the label is the name of a folder on the way to the image."""
    image = row.get("image")
    return isinstance(image, str) and str(row.get("label")) in Path(image).parts[:-1]


def differ(numbers: Sequence[float]) -> bool:
    """Whether numbers are different enough for amounts: many, and some with fractions or some that come once.

    Numbers of classes come again and again, each of them.
    """
    counts = Counter(numbers)
    if len(counts) < MANY_VALUES:
        return False
    if len(counts) >= MOSTLY_DIFFERENT * len(numbers) or not all(number.is_integer() for number in counts):
        return True
    once = sum(count == 1 for count in counts.values())
    return len(counts) >= max(MANY_WHOLE, MANY_SHARE * len(numbers)) and once >= ONCE * len(counts)


def numbers_of(rows: Sequence[Row], field: str | None = None) -> NDArray[np.float64]:
    """The labels, or one field of them, as numbers, shape (rows,). Raises DataError naming the row."""
    found = np.empty(len(rows))
    for place, row in enumerate(rows):
        label = row["label"]
        value = label.get(field) if isinstance(label, Mapping) else label
        number = None if isinstance(value, list | tuple) else as_number(value)
        if number is None:
            raise DataError(f"label {value!r} is not a number", where=f"row {place + 1}", fix=FIX)
        if abs(number) > EXTREME:
            raise DataError(f"label {value!r} is too large to learn", where=f"row {place + 1}", fix=UNIT)
        found[place] = number
    return found


def outcomes_of(values: Sequence[Any]) -> tuple[str, str]:
    """What does not happen, and what does. Raises DataError unless there are two values.

    Of two numbers the larger happens. `yes`, `true`, `positive` and the like happen, `no`, `normal`, `alive` and the
    like do not; of other words the second in the alphabet happens, which is a guess (`outcome_told`).
    """
    found = sorted({as_class(value) for value in values})
    if len(found) != 2:
        raise DataError(
            f"a yes or no has two values, and these are {', '.join(map(repr, found[:5]))}", where="the labels", fix=FIX
        )
    first, second = found
    return (second, first) if sign(first, second) > sign(second, first) else (first, second)


def outcome_told(first: str, second: str) -> bool:
    """Whether the labels say which of them happens."""
    return sign(first, second) != sign(second, first)


def sign(value: str, other: str) -> float:
    """How much a label sounds like something that happens, beside the other one."""
    numbers = as_number(value), as_number(other)
    if numbers[0] is not None and numbers[1] is not None:
        return float(np.sign(numbers[0] - numbers[1]))
    word, rest = value.lower(), other.lower()
    negated = any(word in (f"{prefix}{rest}", f"{prefix} {rest}", f"{prefix}-{rest}") for prefix in NEGATIONS)
    return float(word in POSITIVE) - float(word in NO or negated)


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


def spread_of(values: NDArray[np.float64]) -> float:
    """The standard deviation. Raises DataError where it is too small to divide by."""
    spread = float(values.std())
    if spread * EXTREME < 1:
        raise DataError("the numbers differ too little to be told apart", where="the label column", fix=UNIT)
    return spread


def skewed(values: NDArray[np.float64]) -> bool:
    """Whether a logarithm suits values: all are above 0, they lean far to the right, and their logarithms do not."""
    if len(values) < 20 or values.min() <= 0:
        return False
    plain, logged = skewness(values), abs(skewness(np.log(values)))
    return plain > SKEWED and logged < 0.7 * plain


def skewness(values: NDArray[np.float64]) -> float:
    values = values / (np.abs(values).max() or 1.0)  # so that no square is beyond the range of floats
    spread = float(values.std())
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0
