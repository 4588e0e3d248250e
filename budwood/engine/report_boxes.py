"""What a report tells of a detector: precision and recall of each label, their curves, the worst images with boxes.

Numbers and small pictures, from answers that were computed anyway; `report_plots` and `report_page` show them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Answer, Row
from budwood.engine.box_drawing import thumbnail
from budwood.engine.box_metrics import average_precision
from budwood.engine.boxes import match
from budwood.engine.card import ClassFacts

__all__ = ["Curves", "curves_of", "label_facts", "worst_image"]

PICTURE = 300
"""Pixels of the longer side of an image with boxes."""


@dataclass(frozen=True)
class Curves:
    """Precision at each of 101 recalls from 0 to 1, at an overlap of 0.5."""

    by_label: Mapping[str, NDArray[np.float64]]
    reported: Mapping[str, tuple[float, float]]
    """Recall and precision of what is reported, from the model's threshold on."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % intervals of `ap50`, and of `ap50 LABEL` where there are several labels."""


def curves_of(labels: Sequence[str], answers: Sequence[Answer], rows: Sequence[Row]) -> Curves:
    """The curves of all labels that are there."""
    truth = [row["label"] for row in rows]
    found = average_precision(labels, [a.get("candidates") or a["objects"] for a in answers], truth, intervals=True)
    kept = {name: span for name, span in found.intervals.items() if name == "ap50" or len(labels) > 1}
    facts = label_facts(labels, answers, rows)
    reported = {item.label: (item.recall, item.precision) for item in facts if item.recall and item.precision}
    return Curves(found.curves, reported, kept)


def label_facts(labels: Sequence[str], answers: Sequence[Answer], rows: Sequence[Row]) -> tuple[ClassFacts, ...]:
    """Recall and precision of the objects of each label that is there, the worst recall first."""
    found = []
    for label in labels:
        matched = [
            match(of_label(answer["objects"], label), of_label(row["label"], label))
            for answer, row in zip(answers, rows, strict=True)
        ]
        right = sum(int(item.right.sum()) for item in matched)
        said, true = sum(int(item.counts.sum()) for item in matched), sum(item.n_true for item in matched)
        if true:
            found.append(ClassFacts(label, right / true, right / said if said else None, true))
    return tuple(sorted(found, key=lambda item: (item.recall or 0.0, item.label)))


def of_label(objects: Sequence[Mapping[str, Any]], label: str) -> list[Mapping[str, Any]]:
    return [item for item in objects if item["label"] == label]


def worst_image(row: Row, answer: Answer, labels: Sequence[str]) -> bytes:
    """A small JPEG of an image with what was found and what is there."""
    return thumbnail(row["image"], answer["objects"], row["label"], labels, PICTURE)
