"""Whether the numbers of boxes mean what was thought: shares or pixels, corners or sizes; told from all boxes at once.

One wrong box is a slip. Where most boxes leave their images or have no area, and another meaning of the same numbers
puts nearly all of them inside, the file was written in that other convention.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from budwood.engine.box_rows import Settled

__all__ = ["CONVENTIONS", "Convention", "misread"]

Boxes = NDArray[np.float64]
"""Shape (boxes, 4): x1, y1, x2, y2 as they were read, in pixels."""

LEAST_BOXES = 5
FITS, BETTER = 0.95, 0.15
"""Share of boxes that another meaning has to put inside, and by how much that has to be more."""
SLACK = 0.02
"""Of the image's sides: boxes may leave it by so much."""
LARGEST_SHARE = 1.5
"""No box in pixels has all of its numbers below this."""


class Convention(NamedTuple):
    """Another meaning of the numbers."""

    name: str
    means: Callable[[Boxes, Boxes], Boxes]
    """The boxes by that meaning, of the boxes as read and of (width, height, width, height) of their images."""


def sides(boxes: Boxes) -> Boxes:
    return boxes[:, 2:] - boxes[:, :2]


CONVENTIONS = (
    Convention("shares of the image, not pixels", lambda boxes, size: boxes * size),
    Convention("pixels, not shares of the image", lambda boxes, size: boxes / size),
    Convention(
        "left, top, width and height, not corners",
        lambda boxes, size: np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
    ),
    Convention(
        "corners, not left, top, width and height",
        lambda boxes, size: np.concatenate([boxes[:, :2], sides(boxes)], axis=1),
    ),
    Convention(
        "centre, width and height, not left, top, width and height",
        lambda boxes, size: boxes - np.tile(sides(boxes), 2) / 2,
    ),
    Convention(
        "corners, not centre, width and height",
        lambda boxes, size: np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, sides(boxes)], axis=1),
    ),
    Convention(
        "corners in pixels, not centre, width and height as shares",
        lambda boxes, size: np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, sides(boxes)], axis=1) / size,
    ),
    Convention(
        "left, top, width and height in pixels, not centre, width and height as shares",
        lambda boxes, size: (boxes + np.tile(sides(boxes), 2) / 2) / size,
    ),
    Convention("rows before columns", lambda boxes, size: boxes[:, [1, 0, 3, 2]]),
)


def misread(settled: Sequence[Settled]) -> Convention | None:
    """The convention that fits these images far better than the one that they were read in; None as a rule."""
    boxes = np.asarray([box for one in settled for box in one.boxes], np.float64).reshape(-1, 4)
    if len(boxes) < LEAST_BOXES:
        return None
    size = np.asarray([(one.width, one.height) * 2 for one in settled for _ in one.boxes], np.float64)
    if not any(one.item.relative for one in settled) and np.abs(boxes).max() <= LARGEST_SHARE:
        return CONVENTIONS[0]
    now = inside(boxes, size)
    if now >= FITS:
        return None
    shares = [inside(convention.means(boxes, size), size) for convention in CONVENTIONS]
    best = int(np.argmax(shares))
    return CONVENTIONS[best] if shares[best] >= max(FITS, now + BETTER) else None


def inside(boxes: Boxes, size: Boxes) -> float:
    """The share of the boxes that have an area of a pixel or more and lie in their image."""
    low, high = -SLACK * size, (1 + SLACK) * size
    good = (sides(boxes) >= 1).all(axis=1) & (boxes >= low).all(axis=1) & (boxes <= high).all(axis=1)
    return float(good.mean())
