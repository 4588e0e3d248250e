"""Statistics of the training data and of the answers on held-out rows: what a server compares its traffic with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from budwood.core.task import Answer, Row, Task

__all__ = ["statistics"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 10


def statistics(task: Task, rows: Sequence[Row], answers: Sequence[Answer]) -> dict[str, Any]:
    """What there is of: class counts or quantiles of the labels, length quantiles, and the histogram of the best score.

    The histogram has ten equal bins of [0, 1] and is that of the `answers` on held-out rows.
    """
    found: dict[str, Any] = {"rows": len(rows)}
    labels = [label for row in rows for label in named(row.get("label"))]
    if labels and all(isinstance(label, str) for label in labels):
        found["labels"] = dict(sorted(Counter(labels).items()))
    elif labels and all(isinstance(label, int | float) for label in labels):
        found["label_quantiles"] = np.quantile(labels, QUANTILES).tolist()
    found["length_quantiles"] = np.quantile(task.lengths(rows), QUANTILES).tolist()
    best = [max(answer["scores"].values()) for answer in answers if answer.get("scores")]
    if best:
        found["confidence_histogram"] = np.histogram(best, BINS, (0.0, 1.0))[0].tolist()
    return found


def named(label: Any) -> list[Any]:
    if label is None:
        return []
    several = list(label) if isinstance(label, list | tuple) else [label]
    return [item["label"] if isinstance(item, Mapping) and "box" in item else item for item in several]
