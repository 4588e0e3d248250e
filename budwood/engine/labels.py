"""Where to write the names of points in a picture so that none covers another, a marker or a line. Plain geometry."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Box", "Spot", "place"]

DISTANCES = (5.0, 10.0, 17.0, 26.0, 38.0, 53.0, 71.0, 92.0)
"""Points between a marker and its label."""
SIDES = (
    *((1, 0.0), (1, 0.5), (1, -0.5), (1, 1.0), (1, -1.0)),
    *((-1, 0.0), (-1, 0.5), (-1, -0.5), (-1, 1.0), (-1, -1.0)),
    *((0, 1.0), (0, -1.0)),
)
"""Right, left or centred, and how far up or down: 1 is wholly above the point."""
PASSES = 10


@dataclass(frozen=True)
class Box:
    """An upright rectangle; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)

    def overlap(self, other: "Box") -> float:
        """The area that two boxes share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return across * up if across > 0 and up > 0 else 0.0


@dataclass(frozen=True)
class Spot:
    """A point that wants a label: its place, the radius of its marker, and the label's size."""

    x: float
    y: float
    radius: float
    width: float
    height: float


def place(spots: Sequence[Spot], markers: Sequence[Box], lines: Sequence[Box], inside: Box, unit: float) -> list[Box]:
    """One box for each spot, in order.

    Each label tries places around its point; then each in turn moves to its best place given all the others, which
    settles within a few passes. The order of what is avoided: leaving `inside`, covering another label, a marker, a
    line, and being far from the point.

    Args:
        lines: thin ones, such as error bars, or pieces of them; they may be crossed where nothing near is better.
        unit: how many pixels make one point (1/72 inch).
    """
    options = [around(spot, unit) for spot in spots]
    fixed = [[fixed_cost(box, rank, markers, lines, inside) for rank, box in enumerate(boxes)] for boxes in options]
    chosen = [costs.index(min(costs)) for costs in fixed]
    for _ in range(PASSES):
        before = list(chosen)
        for index, boxes in enumerate(options):
            others = [options[other][chosen[other]] for other in range(len(spots)) if other != index]
            costs = [fixed[index][rank] + crowding(box, others) for rank, box in enumerate(boxes)]
            chosen[index] = costs.index(min(costs))
        if chosen == before:
            break
    return [boxes[pick] for boxes, pick in zip(options, chosen, strict=True)]


def around(spot: Spot, unit: float) -> list[Box]:
    """Boxes around a spot, the nearest first."""
    boxes = []
    for away in DISTANCES:
        gap = spot.radius + away * unit
        for side, level in SIDES:
            left = spot.x + {1: gap, -1: -gap - spot.width, 0: -spot.width / 2}[side]
            rise = level * (spot.height / 2 + (gap if side == 0 else gap * 0.6))
            bottom = spot.y + rise - spot.height / 2
            boxes.append(Box(left, bottom, left + spot.width, bottom + spot.height))
    return boxes


def fixed_cost(box: Box, rank: int, markers: Sequence[Box], lines: Sequence[Box], inside: Box) -> float:
    outside = 1 - box.overlap(inside) / box.area
    hidden = sum(2 + 4 * box.overlap(other) / box.area for other in markers if box.overlap(other) > 0)
    # A line through the middle of a label hurts more than one that touches its edge.
    crossed = sum(0.1 + 6 * box.overlap(other) / box.area for other in lines if box.overlap(other) > 0)
    away, side = divmod(rank, len(SIDES))
    return 20 * outside + hidden + crossed + 0.012 * side + 0.015 * DISTANCES[away]


def crowding(box: Box, others: Sequence[Box]) -> float:
    return sum(4 + 4 * box.overlap(other) / box.area for other in others if box.overlap(other) > 0)
