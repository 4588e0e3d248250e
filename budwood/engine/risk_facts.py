"""What a report tells of risks: how predicted and observed shares agree, bin by bin and tenth by tenth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import DataError
from budwood.core.task import Answer, Row, Task
from budwood.engine.measure import Scores
from budwood.engine.molecule_labels import as_number
from budwood.engine.risk_labels import numbers_of
from budwood.engine.statistics import TWO_SIDED, wilson, z_value

__all__ = ["Tenth", "number_pairs", "raw_chances", "tenth_rows", "tenths_of"]

Floats = NDArray[np.float64]
PARTS = 10
LEAST = 50
"""Rows from which a tenth of them says something."""


@dataclass(frozen=True)
class Tenth:
    """One tenth of the rows in the order of their risks: what was foretold of them, and what came."""

    low: float
    high: float
    foretold: float
    """Mean risk."""
    came: float
    """Share in which it happened."""
    ci: tuple[float, float]
    """Its 95 % interval (Wilson)."""
    n: int


def tenths_of(chances: Floats) -> tuple[Tenth, ...]:
    """Ten parts of (risk, happened) pairs, shape (rows, 2), the lowest risks first; none for fewer than 50 rows."""
    if len(chances) < LEAST:
        return ()
    found = []
    for part in np.array_split(chances[np.argsort(chances[:, 0], kind="stable")], PARTS):
        risks, came = part[:, 0], float(part[:, 1].mean())
        ci = wilson(came, len(part), z_value(tail=TWO_SIDED))
        found.append(Tenth(float(risks[0]), float(risks[-1]), float(risks.mean()), came, ci, len(part)))
    return tuple(found)


def tenth_rows(tenths: Sequence[Tenth]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the table."""
    headers = ["tenth", "risks", "mean risk", "happened", "95 % interval", "rows"]
    rows = [
        [
            str(number),
            f"{100 * item.low:.1f} to {100 * item.high:.1f} %",
            f"{100 * item.foretold:.1f} %",
            f"{100 * item.came:.1f} %",
            f"{100 * item.ci[0]:.1f} to {100 * item.ci[1]:.1f}",
            f"{item.n:,}",
        ]
        for number, item in enumerate(tenths, 1)
    ]
    return headers, rows


def raw_chances(task: Task, rows: Sequence[Row], scores: Scores) -> Floats | None:
    """The pairs of `Task.chances` without the calibration; None where the logits were not kept."""
    if scores.logits is None:
        return None
    return task.chances(task.decode({"logits": scores.logits}, {}, 1), rows)


def number_pairs(rows: Sequence[Row], answers: Sequence[Answer]) -> Floats | None:
    """True and given number of each row, shape (rows, 2), where labels are numbers and answers have a `value`."""
    values = [as_number(answer.get("value")) for answer in answers]
    if not values or None in values or any("label" not in row for row in rows):
        return None
    try:
        truth = numbers_of(rows)
    except DataError:
        return None
    return np.stack([truth, np.asarray(values, np.float64)], axis=1)
