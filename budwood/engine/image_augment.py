"""Varied copies of training images, in numpy on normalised pixels: a crop, a mirror, a turn, a change of brightness."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["turned", "vary"]

LEAST_CROP = 0.7
"""Side of the smallest crop by the side of the image; both sides are drawn, so a crop may be stretched a little."""
STRETCH = 1.15
CONTRAST = 0.2
BRIGHTNESS = 0.2
"""In units of the normalised pixels, whose deviation is about 1."""

Pixels = NDArray[np.float32]


def vary(images: Pixels, random: np.random.Generator, *, flip: bool, rotate: bool = False) -> Pixels:
    """Randomly cropped and resized back, mirrored (`flip`), turned (`rotate`), brightened; the shape stays.

    Images have the shape (batch, 3, height, width). The crops are those of Szegedy et al. 2015 (arXiv:1409.4842), but
    milder: small data cannot spare its objects.
    """
    return np.stack([vary_one(image, random, flip=flip, rotate=rotate) for image in images])


def vary_one(image: Pixels, random: np.random.Generator, *, flip: bool, rotate: bool) -> Pixels:
    height, width = image.shape[1:]
    side = random.uniform(LEAST_CROP, 1.0)
    stretch = STRETCH ** random.uniform(-0.5, 0.5)
    rows = span(height, min(side * stretch, 1.0), random)
    columns = span(width, min(side / stretch, 1.0), random)
    if flip and random.random() < 0.5:
        columns = columns[::-1]
    result = sample(sample(image, rows, 1), columns, 2)
    if rotate:
        result = np.ascontiguousarray(turned(result, int(random.integers(4))))
    result *= np.float32(1 + random.uniform(-CONTRAST, CONTRAST))
    result += np.float32(random.uniform(-BRIGHTNESS, BRIGHTNESS))
    return result


def turned(images: Pixels, quarters: int) -> Pixels:
    """Turned anticlockwise about the last two axes by quarters; those that are not square by half a turn at a time."""
    square = images.shape[-1] == images.shape[-2]
    return np.rot90(images, quarters if square else 2 * quarters, axes=(-2, -1))


def span(size: int, share: float, random: np.random.Generator) -> NDArray[np.float64]:
    """`size` positions, evenly spread over a random stretch that is `share` of the side."""
    length = share * (size - 1)
    start = random.uniform(0.0, size - 1 - length)
    return np.linspace(start, start + length, size)


def sample(image: Pixels, positions: NDArray[np.float64], axis: int) -> Pixels:
    """Linear interpolation along one axis."""
    low = np.floor(positions).astype(np.int64)
    high = np.minimum(low + 1, image.shape[axis] - 1)
    weight = (positions - low).astype(np.float32)
    weight = weight[:, None] if axis == 1 else weight
    below = image.take(low, axis)
    return np.asarray(below + (image.take(high, axis) - below) * weight, np.float32)
