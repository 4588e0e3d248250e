"""How an image is laid into the square that a detector reads, and how its boxes are carried back.

A bundle states it in `detector.json`: the whole image keeps its proportions and the rest is grey (a letterbox), or it
is stretched, as for the transformers detectors. Training, evaluation and serving all come through here. The serving
half: Pillow, numpy only.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from budwood.core.errors import BundleError
from budwood.engine.images import Source, open_upright
from budwood.engine.pixels import DRAFT_GAP, MAX_EDGE, usable_cores

__all__ = ["FILE", "Frame", "FrameDecoder", "Laid", "as_shown", "made_elsewhere"]

FILE = "detector.json"
GREY = 114
"""Of the bars beside an image: near the mean of photos, so that they look like nothing."""


class Laid(NamedTuple):
    """Where an image lies in the square: `square = image * scale + offset`, and the image's own size."""

    scale_x: float
    scale_y: float
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Frame:
    """A square of `size` pixels and the numbers that normalise it: `(pixel * factor + summand)` for each channel."""

    size: int
    letterbox: bool
    factor: tuple[float, ...]
    summand: tuple[float, ...]
    resample: int = 2
    """Pillow's number of the filter: 2 bilinear, 3 bicubic."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What the folder states. Raises BundleError when the file is missing or damaged."""
        path = folder / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["frame"]
            frame = cls(**{**found, "factor": tuple(found["factor"]), "summand": tuple(found["summand"])})
            fits = type(frame.size) is int and 32 <= frame.size <= MAX_EDGE and 0 <= frame.resample <= 5
            numbers = np.asarray([frame.factor, frame.summand], np.float64)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{FILE} cannot be used: {error}", where=str(path), fix="make the model again") from error
        if not fits or numbers.shape != (2, 3) or not np.isfinite(numbers).all():
            raise BundleError(f"{FILE} has numbers out of range", where=str(path), fix="make the model again")
        return frame

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def place(self, width: int, height: int) -> Laid:
        """Where an image of this size lies."""
        if not self.letterbox:
            return Laid(self.size / width, self.size / height, 0, 0, width, height)
        scale = self.size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (self.size - inner[0]) // 2, (self.size - inner[1]) // 2
        return Laid(inner[0] / width, inner[1] / height, left, top, width, height)

    def pixels(self, source: Source | Image.Image) -> tuple[NDArray[np.uint8], Laid]:
        """The square as uint8 of shape (size, size, 3), and where the image lies. Raises DataError as `open_image`."""
        if isinstance(source, Image.Image):
            image, (width, height) = source, source.size
        else:
            image, width, height = open_upright(source, DRAFT_GAP * self.size)
        laid = self.place(width, height)
        inner = round(width * laid.scale_x), round(height * laid.scale_y)
        if image.size != inner:
            image = image.resize(inner, Image.Resampling(self.resample))
        square = np.full((self.size, self.size, 3), GREY, np.uint8)
        left, top = int(laid.left), int(laid.top)
        square[top : top + inner[1], left : left + inner[0]] = np.asarray(image)
        return square, laid

    def normalise(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write pixels of shape (height, width, 3) to `out`, shape (3, height, width)."""
        factor, summand = (np.asarray(part, np.float32)[:, None, None] for part in (self.factor, self.summand))
        np.multiply(pixels.transpose(2, 0, 1), factor, out=out)
        out += summand


class FrameDecoder:
    """Images to batches of squares, with all cores: Pillow decodes and resizes outside of Python's lock."""

    def __init__(self, frame: Frame, threads: int = 0) -> None:
        self.frame = frame
        self.threads = threads or min(8, usable_cores())
        self.pool = ThreadPoolExecutor(self.threads, "decode")

    def __call__(self, sources: Sequence[Source]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Float32 of shape (images, 3, size, size), and `Laid` of each as float64 of shape (images, 6).

        Raises:
            DataError: at the first image that cannot be decoded.
        """
        squares = np.empty((len(sources), 3, self.frame.size, self.frame.size), np.float32)
        laid = list(self.pool.map(self.decode, sources, squares)) if len(sources) > 1 else []
        if not laid:
            laid = [self.decode(source, out) for source, out in zip(sources, squares, strict=True)]
        return squares, np.asarray(laid, np.float64).reshape(-1, 6)

    def decode(self, source: Source, out: NDArray[np.float32]) -> Laid:
        pixels, laid = self.frame.pixels(source)
        self.frame.normalise(pixels, out)
        return laid


def made_elsewhere(folder: Path) -> bool:
    """Whether the folder holds a detector of transformers. Raises BundleError as `Frame.read`."""
    Frame.read(folder)
    found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return bool(found.get("kind") == "transformers")


def as_shown(boxes: NDArray[Any], laid: NDArray[Any]) -> NDArray[np.float64]:
    """Boxes in pixels of the square, shape (boxes, 4), as boxes in pixels of the image, cut at its edges."""
    scale_x, scale_y, left, top, width, height = laid
    back = (boxes - np.asarray([left, top, left, top])) / np.asarray([scale_x, scale_y, scale_x, scale_y])
    return np.asarray(np.clip(back, 0, np.asarray([width, height, width, height])), np.float64)
