"""From a detector's outputs to objects: candidates, what is compared between runtimes, and what is reported.

The serving half: numpy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Arrays
from budwood.engine.box_frame import as_shown
from budwood.engine.boxes import areas, as_array, suppress

__all__ = [
    "LEAST_SCORE",
    "MOST_OBJECTS",
    "OVERLAP",
    "SAME_PLACE",
    "candidates",
    "objects_of",
    "with_one_label",
]

MOST_CANDIDATES = 2000
"""Of an image, before suppression: a detector of our own gives each object a dozen places, so 100 objects need more
than a thousand.
"""
MOST_OBJECTS = 100
"""As in the COCO measure."""
LEAST_SCORE = 0.01
"""Of candidates; lower ones change no measure."""
OVERLAP = 0.55
"""Overlap with a better box of its label above which a box is the same object once more."""
SAME_PLACE = 0.85
"""Overlap above which two reported boxes are one object, whatever their labels."""
COMPARED = 64
"""Logits of an image that runtimes are compared by."""


def candidates(outputs: Arrays, laid: NDArray[Any]) -> Arrays:
    """The best candidates of each image, in pixels of the image, and `logits` to compare runtimes by.

    Args:
        outputs: `logits` (batch, places, labels) and `boxes` (batch, places, 4) in pixels of the square.
        laid: where each image lies in the square, shape (batch, 6): `Laid`.

    Returns:
        `found` of shape (batch, 2000, 6): x1, y1, x2, y2, score, label number, the best first, zeros where there are
        fewer. `logits` of shape (batch, 68): the highest logits in order and the mean box, weighted by score, which do
        not depend on the order of the places: some detectors sort these, and runtimes break ties in their own ways.
    """
    found = np.zeros((len(laid), MOST_CANDIDATES, 6), np.float64)
    compared = np.zeros((len(laid), COMPARED + 4), np.float32)
    for image, (logits, boxes) in enumerate(zip(outputs["logits"], outputs["boxes"], strict=True)):
        best = highest(logits.ravel(), MOST_CANDIDATES)
        top = logits.ravel()[best].astype(np.float64)
        scores = 0.5 * (1 + np.tanh(0.5 * top))
        place, label = np.divmod(best, logits.shape[1])
        shown = as_shown(boxes[place], laid[image])
        good = (scores >= LEAST_SCORE) & (areas(shown) > 0)
        rows = np.column_stack([shown, scores, label])[good]
        found[image, : len(rows)] = rows
        compared[image, : len(top[:COMPARED])] = top[:COMPARED]
        weights = np.exp(logits.max(axis=1) - logits.max())
        compared[image, COMPARED:] = (boxes * weights[:, None]).sum(axis=0) / (weights.sum() * max(boxes.max(), 1.0))
    return {"found": found, "logits": compared}


def highest(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The places of the highest values, the highest first and equal ones in order, without sorting the others."""
    places = np.arange(len(values))
    if len(values) > count:
        places = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return np.asarray(places[np.argsort(-values[places], kind="stable")[:count]], np.int64)


def objects_of(found: NDArray[Any], labels: Sequence[str], least: float = 0.0) -> list[dict[str, Any]]:
    """The objects of one image from a score on, the surest first; of boxes that show the same one, the best."""
    rows = found[found[:, 4] >= max(least, LEAST_SCORE)]
    kept = suppress(rows[:, :4], rows[:, 4], rows[:, 5], OVERLAP, MOST_OBJECTS)
    return [
        {"label": labels[int(row[5])], "score": round(float(row[4]), 6), "box": [round(float(v), 2) for v in row[:4]]}
        for row in rows[kept]
    ]


def with_one_label(objects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects, the surest first, without those that give a better one's place another label."""
    if len(objects) < 2:
        return list(objects)
    scores = np.asarray([item["score"] for item in objects])
    kept = suppress(as_array(objects), scores, np.zeros(len(objects)), SAME_PLACE)
    return [objects[index] for index in kept.tolist()]
