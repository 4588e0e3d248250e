"""Statistics of the training data and of the answers on held-out rows: what a server compares its traffic with."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from budwood.core.task import Answer, Row, Task

__all__ = ["statistics"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 10


def statistics(task: Task, rows: Sequence[Row], answers: Sequence[Answer]) -> dict[str, Any]:
    """Class counts and length quantiles of `rows`, and the histogram of the best score in ten equal bins of [0, 1]."""
    labels = Counter(label for row in rows for label in named(row["label"]))
    best = [max(answer["scores"].values()) for answer in answers]
    return {
        "rows": len(rows),
        "labels": dict(sorted(labels.items())),
        "length_quantiles": np.quantile(task.lengths(rows), QUANTILES).tolist(),
        "confidence_histogram": np.histogram(best, BINS, (0.0, 1.0))[0].tolist(),
    }


def named(label: Any) -> list[str]:
    return list(label) if isinstance(label, list | tuple) else [label]
