"""Answers and metrics of tasks with one label a row out of a fixed list: what text and image classification share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import DataError
from budwood.core.task import Answer, Row

__all__ = [
    "COVERAGE",
    "best_labels",
    "class_metrics",
    "class_names",
    "class_numbers",
    "label_number",
    "one_label",
    "selective",
]

COVERAGE = 0.8
"""Share of the rows, the surest ones, whose accuracy is reported."""
WANTED_ACCURACY = 0.95
LEAST_ROWS = 20
"""Answers from which on an accuracy above a threshold is worth telling."""


def class_names(rows: Sequence[Row]) -> tuple[str, ...]:
    """The labels of the rows, sorted. Raises DataError when there are fewer than two, or a row has several."""
    if any(not isinstance(row["label"], str) for row in rows):
        raise DataError("a row has no label or several", where="the label column", fix="give each row one label")
    labels = tuple(sorted({row["label"] for row in rows}))
    if len(labels) < 2:
        raise one_label(labels)
    return labels


def one_label(labels: Sequence[str]) -> DataError:
    return DataError(
        f"every row has the same label {labels[0]!r}" if labels else "there are no labelled rows",
        where="the label column",
        fix="name another column with --target, or add rows of other classes",
    )


def class_numbers(labels: Sequence[str], rows: Sequence[Row]) -> NDArray[np.int64]:
    """Positions of the rows' labels in `labels`, shape (rows,). Raises DataError on an unknown label."""
    index = {label: number for number, label in enumerate(labels)}
    return np.asarray([label_number(index, row["label"], i) for i, row in enumerate(rows)], np.int64)


def label_number(index: Mapping[str, int], label: Any, row: int) -> int:
    """The position of a label. Raises DataError that names the row, counted from 0 here and from 1 in the message."""
    if not isinstance(label, str) or label not in index:
        known = list(index)
        raise DataError(
            f"label {label!r} is unknown to the model",
            where=f"row {row + 1}",
            fix=f"known labels: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}",
        )
    return index[label]


def best_labels(labels: Sequence[str], probabilities: NDArray[np.float64], top: int) -> list[Answer]:
    """The most probable label of each row, its probability, and the `top` best."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : max(top, 1)]
    answers: list[Answer] = []
    for row, best in zip(probabilities, order, strict=True):
        scores = {labels[i]: round(float(row[i]), 6) for i in best}
        answers.append({"label": labels[best[0]], "score": round(float(row[best[0]]), 6), "scores": scores})
    return answers


def class_metrics(labels: Sequence[str], given: Sequence[set[str]], actual: Sequence[set[str]]) -> dict[str, float]:
    """`macro_f1` over the labels that occur, and the recall of the worst of them."""
    f1, recall = [], []
    for label in labels:
        hits = sum(label in a and label in b for a, b in zip(given, actual, strict=True))
        said, true = sum(label in a for a in given), sum(label in b for b in actual)
        if true:
            f1.append(2 * hits / (said + true))
            recall.append(hits / true)
    if not f1:
        return {}
    return {"macro_f1": float(np.mean(f1)), "worst_class_recall": float(min(recall))}


def selective(confidence: Sequence[float], right: NDArray[np.float64]) -> dict[str, float]:
    """Accuracy when the least sure answers go to a person (selective prediction: Geifman and El-Yaniv 2017).

    Gives `accuracy_at_80_coverage`, and where it can be reached `threshold_for_95_accuracy`: the lowest confidence
    from which on at least 20 answers are right in 95 % of the cases, with the share of rows that reach it.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    if not len(order):
        return {}
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    kept = max(1, round(COVERAGE * len(order)))
    metrics = {"accuracy_at_80_coverage": float(accuracy[kept - 1])}
    sorted_confidence = np.asarray(confidence)[order]
    # Only where the confidence changes is a threshold possible.
    ends = np.append(sorted_confidence[1:] < sorted_confidence[:-1], True)
    reached = np.flatnonzero(ends & (accuracy >= WANTED_ACCURACY) & (np.arange(len(order)) >= LEAST_ROWS - 1))
    if len(reached):
        last = int(reached[-1])
        metrics["threshold_for_95_accuracy"] = float(sorted_confidence[last])
        metrics["coverage_at_95_accuracy"] = (last + 1) / len(order)
    return metrics
