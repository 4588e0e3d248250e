"""The data doctor for labels that are numbers or times to an event: what is no number, cannot be, or stands far off."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.findings import Finding
from budwood.engine.molecule_labels import as_class, as_number
from budwood.engine.risk_labels import skewed, time_columns
from budwood.engine.table import Place

__all__ = ["diagnose_numbers"]

FAR = 5.0
"""Robust deviations (1.4826 times the median distance to the median) from which a number stands far off."""
NEARLY_ALL = 0.99
STOPGAPS = frozenset({-1.0, -9.0, -99.0, -999.0, -9999.0, 999.0, 9999.0, 99999.0, 999999.0})
"""What people write where they know nothing."""
NAMED = 3


def diagnose_numbers(rows: Sequence[Row], places: Sequence[Place]) -> Iterable[Finding]:
    """Findings on the labels of rows for which `are_amounts` holds."""
    if any(isinstance(row["label"], Mapping) for row in rows):
        yield from of_times(rows, places)
        return
    numbers = [as_number(row["label"]) for row in rows]
    if odd := [index for index, number in enumerate(numbers) if number is None]:
        examples = ", ".join(sorted({repr(rows[index]["label"]) for index in odd})[:NAMED])
        message = f"{len(odd):,} labels are not numbers, as the others are: {examples}"
        yield Finding("not_a_number", "error", message, at(places, odd), "mend or drop these rows", True)
    known = np.asarray([index for index, number in enumerate(numbers) if number is not None])
    yield from of_numbers(np.asarray([numbers[index] for index in known], np.float64), known, places)


def of_numbers(values: NDArray[np.float64], known: NDArray[np.int64], places: Sequence[Place]) -> Iterable[Finding]:
    """Stop-gaps, numbers below zero where nearly all are above it, and what stands far from the others."""
    fix = "look at them: correct the number, or drop the row"
    unusual = {float(values.min()), float(values.max())} & STOPGAPS
    stopgaps = [value for value in sorted(unusual) if (values == value).sum() > 1]
    if stopgaps:
        rows = np.isin(values, stopgaps)
        names = ", ".join(f"{value:g}" for value in stopgaps)
        message = f"{int(rows.sum()):,} labels are {names}, which often stands for a number that is not known"
        yield Finding("placeholder", "warning", message, at(places, known[rows]), fix)
    positive = values > 0
    if NEARLY_ALL <= positive.mean() < 1:
        message = f"{int((~positive).sum()):,} labels are 0 or below it, and all others above: is that possible?"
        yield Finding("impossible_value", "warning", message, at(places, known[~positive]), fix)
        values, known = values[positive], known[positive]
    scale = np.log(values) if skewed(values) else values
    middle = float(np.median(scale))
    spread = 1.4826 * float(np.median(np.abs(scale - middle)))
    far = np.abs(scale - middle) > FAR * spread if spread > 0 else np.zeros(len(scale), bool)
    if far.any():
        order = np.flatnonzero(far)[np.argsort(-np.abs(scale - middle)[far], kind="stable")]
        examples = ", ".join(f"{values[index]:g} ({places[known[index]]})" for index in order[:NAMED])
        typical = f"half of them lie between {np.quantile(values, 0.25):g} and {np.quantile(values, 0.75):g}"
        message = f"{int(far.sum()):,} labels stand far from the others, {typical}: {examples}"
        yield Finding("outlier", "warning", message, at(places, known[order]), fix)


def of_times(rows: Sequence[Row], places: Sequence[Place]) -> Iterable[Finding]:
    """Times that are none, and events that never or always come."""
    names = list(rows[0]["label"])
    try:
        time, event = time_columns(rows)
    except DataError:
        time = max(names, key=lambda name: len({row["label"].get(name) for row in rows}))
        times = [as_number(row["label"].get(time)) for row in rows]
        bad = [index for index, value in enumerate(times) if value is None or value <= 0]
        message = f"{' and '.join(names)} are not a time above 0 and a yes or no in every row"
        yield Finding("bad_time", "error", message, at(places, bad), "mend or drop these rows", bool(bad))
        return
    ends = [as_class(row["label"].get(event)) for row in rows]
    rare = min(ends.count(end) for end in set(ends))
    if rare < 2 * NAMED:
        message = f"{event} is alike in all but {rare} of {len(rows):,} rows, so that hazards cannot be told"
        yield Finding(
            "few_events", "warning", message, (), f"add rows with other values of {event}; the time is {time}"
        )


def at(places: Sequence[Place], indices: Iterable[int] | NDArray[np.int64]) -> tuple[Place, ...]:
    return tuple(places[int(index)] for index in indices)
