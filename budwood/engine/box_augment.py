"""Varied copies of training images with their boxes: zoomed, shifted, mirrored, brightened, four in one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from budwood.engine.box_frame import GREY
from budwood.engine.boxes import areas

__all__ = ["Scene", "Variation", "varied"]

ZOOM = (0.6, 1.6)
"""Of the whole image within the square; drawn evenly in its logarithm."""
STRETCH = 1.15
COLOUR = 0.25
"""Contrast of each channel varies by up to this share, and brightness by as much of the full range, divided by 2."""
MOSAIC = 0.3
"""Share of scenes that are made of four."""
LEAST_SHARE = 0.35
"""Share of a box that must stay visible for it to be kept."""
LEAST_SIDE = 2.0
"""Pixels below which a box is no longer kept."""


class Scene(NamedTuple):
    """A square of pixels and the boxes in it."""

    pixels: NDArray[np.uint8]
    """Shape (size, size, 3)."""
    boxes: NDArray[np.float32]
    """Shape (objects, 4), in pixels of the square."""
    labels: NDArray[np.int64]
    """Class numbers; -1 marks a crowd."""


class Variation(NamedTuple):
    """What may be done to an image."""

    flip: bool
    rotate: bool
    mosaic: bool
    """Whether some scenes are made of four images; off at the end of a training, so that it ends with what is real."""


def varied(draw: Callable[[int], Scene], number: int, count: int, how: Variation, random: np.random.Generator) -> Scene:
    """A varied copy of scene `number`, perhaps with three others of the `count` around it.

    Args:
        draw: gives a scene by its number.
    """
    if not how.mosaic or random.random() >= MOSAIC:
        return coloured(moved(turned(draw(number), how, random), random), random)
    others = [number, *(int(other) for other in random.integers(0, count, 3))]
    return coloured(four(draw, others, how, random), random)


def turned(scene: Scene, how: Variation, random: np.random.Generator) -> Scene:
    """Mirrored at random where that is allowed, and turned by quarters where an image has no up and down."""
    pixels, boxes, labels = scene
    size = pixels.shape[0]
    if how.flip and random.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=1)
    if how.rotate:
        for _ in range(int(random.integers(4))):  # a quarter anticlockwise: (x, y) becomes (y, size - x)
            pixels = np.rot90(pixels)
            boxes = np.stack([boxes[:, 1], size - boxes[:, 2], boxes[:, 3], size - boxes[:, 0]], axis=1)
    return Scene(np.ascontiguousarray(pixels), boxes.astype(np.float32), labels)


def moved(scene: Scene, random: np.random.Generator) -> Scene:
    """Zoomed and shifted within its square; what is laid bare is grey."""
    size = scene.pixels.shape[0]
    zoom = np.exp(random.uniform(*np.log(ZOOM)))
    stretch = STRETCH ** random.uniform(-1, 1)
    wide, high = size * zoom * np.sqrt(stretch), size * zoom / np.sqrt(stretch)
    left, top = (
        random.uniform(min(size - wide, 0), max(size - wide, 0)),
        random.uniform(min(size - high, 0), max(size - high, 0)),
    )
    return laid(scene, (left, top, wide, high), np.full_like(scene.pixels, GREY), (0, 0, size, size))


def four(draw: Callable[[int], Scene], numbers: list[int], how: Variation, random: np.random.Generator) -> Scene:
    """Four scenes around a random point near the middle, each shrunken to about its quarter (Bochkovskiy et al. 2020,
    arXiv:2004.10934)."""
    first = draw(numbers[0])
    size = first.pixels.shape[0]
    canvas = np.full_like(first.pixels, GREY)
    x, y = (round(float(part)) for part in random.uniform(0.35, 0.65, 2) * size)
    quarters = ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size))
    parts = []
    for number, window in zip(numbers, quarters, strict=True):
        side = size * float(random.uniform(0.5, 0.9))
        left = (
            window[0] + random.uniform(-0.25, 0.0) * side if window[0] else window[2] - random.uniform(0.75, 1) * side
        )
        top = window[1] + random.uniform(-0.25, 0.0) * side if window[1] else window[3] - random.uniform(0.75, 1) * side
        part = laid(turned(draw(number), how, random), (float(left), float(top), side, side), canvas, window)
        parts.append(part)
    return Scene(canvas, np.concatenate([p.boxes for p in parts]), np.concatenate([p.labels for p in parts]))


def laid(
    scene: Scene, place: tuple[float, float, float, float], canvas: NDArray[np.uint8], window: tuple[int, int, int, int]
) -> Scene:
    """The scene resized to `place` (left, top, width, height), drawn into the window of the canvas, with its boxes."""
    left, top, wide, high = place
    size = scene.pixels.shape[0]
    x1, y1 = max(window[0], int(np.ceil(left))), max(window[1], int(np.ceil(top)))
    x2, y2 = min(window[2], int(left + wide)), min(window[3], int(top + high))
    if x2 > x1 and y2 > y1:
        source = ((x1 - left) / wide, (y1 - top) / high, (x2 - left) / wide, (y2 - top) / high)
        box = tuple(min(max(part * size, 0.0), float(size)) for part in source)
        image = Image.fromarray(scene.pixels).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=box)
        canvas[y1:y2, x1:x2] = np.asarray(image)
    factor, shift = np.asarray([wide, high] * 2) / size, np.asarray([left, top] * 2)
    whole = scene.boxes * factor + shift
    limits = np.asarray([x1, y1, x1, y1]), np.asarray([x2, y2, x2, y2])
    cut = np.clip(whole, limits[0], np.maximum(limits[1], limits[0]))
    visible = areas(cut) >= LEAST_SHARE * np.maximum(areas(whole), 1e-6)
    visible &= (cut[:, 2:] - cut[:, :2]).min(axis=1, initial=size) >= LEAST_SIDE
    return Scene(canvas, cut[visible].astype(np.float32), scene.labels[visible])


def coloured(scene: Scene, random: np.random.Generator) -> Scene:
    """With another contrast and brightness of each channel, most of it the same for all three."""
    gain = 1 + COLOUR * (0.7 * random.uniform(-1, 1) + 0.3 * random.uniform(-1, 1, 3))
    lift = 0.5 * COLOUR * 255 * (0.7 * random.uniform(-1, 1) + 0.3 * random.uniform(-1, 1, 3))
    table = np.clip(np.arange(256)[:, None] * gain + lift, 0, 255).astype(np.uint8)
    pixels = np.stack([table[:, i][scene.pixels[..., i]] for i in range(3)], axis=-1)
    return Scene(pixels, scene.boxes, scene.labels)
