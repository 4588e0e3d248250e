"""Arithmetic on boxes `[x1, y1, x2, y2]` in pixels: overlap, suppression, matching. The serving half: numpy only."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matched", "areas", "as_array", "iou", "match", "suppress"]

Boxes = NDArray[np.float64]
"""Shape (boxes, 4)."""


def as_array(objects: Sequence[Mapping[str, Any]]) -> Boxes:
    """The boxes of objects that have a `box` each."""
    return np.asarray([item["box"] for item in objects], np.float64).reshape(-1, 4)


def areas(boxes: NDArray[Any]) -> NDArray[Any]:
    """Width times height; 0 where a box is empty or inverted."""
    return np.asarray(np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0))


def iou(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of each pair, shape (first, second)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    union = areas(first)[:, None] + areas(second)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def suppress(
    boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], limit: float, most: int | None = None
) -> NDArray[np.int64]:
    """The boxes that stay, the highest score first: none overlaps a better one of its class by more than `limit`.

    Greedy non-maximum suppression; `most` boxes are enough.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and (most is None or len(kept) < most):
        best, order = order[0], order[1:]
        kept.append(int(best))
        near = (classes[order] == classes[best]) & (iou(boxes[best][None], boxes[order])[0] > limit)
        order = order[~near]
    return np.asarray(kept, np.int64)


class Matched(NamedTuple):
    """How found objects fit the true ones of an image."""

    right: NDArray[np.bool_]
    """For each found object whether it is one of the true ones."""
    counts: NDArray[np.bool_]
    """For each found object whether it counts at all: one on a crowd is neither right nor wrong."""
    n_true: int
    """True objects, crowds left out."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where nothing is there and nothing was found."""
        found = int(self.counts.sum())
        return 2 * int(self.right.sum()) / (found + self.n_true) if found + self.n_true else 1.0


def match(found: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], at_least: float = 0.5) -> Matched:
    """Give each found object, the surest first, the true one of its label that it overlaps most and nobody has taken.

    An overlap of less than `at_least` is no match.
    """
    real = [item for item in truth if not item.get("crowd")]
    crowds = [item for item in truth if item.get("crowd")]
    right, counts = np.zeros(len(found), bool), np.ones(len(found), bool)
    boxes = as_array(found)
    overlap = iou(boxes, as_array(real))
    within = np.asarray(shares_inside(boxes, as_array(crowds)))
    free = np.ones(len(real), bool)
    for index in np.argsort([-float(item.get("score", 1.0)) for item in found], kind="stable"):
        own = found[index]["label"]
        fits = [free[i] and item["label"] == own for i, item in enumerate(real)]
        best = np.where(fits, overlap[index], -1.0)
        if len(best) and best.max() >= at_least:
            right[index], free[int(best.argmax())] = True, False
        elif any(item["label"] == own and within[index, i] >= at_least for i, item in enumerate(crowds)):
            counts[index] = False
    return Matched(right, counts, len(real))


def shares_inside(boxes: Boxes, crowds: Boxes) -> NDArray[Any]:
    """The share of each box's own area that lies in each crowd, shape (boxes, crowds)."""
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    return np.asarray(shared / np.maximum(areas(boxes)[:, None], 1e-9))
