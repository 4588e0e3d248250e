"""From an image to the numbers that a network reads, as a transformers `preprocessor_config.json` describes it.

The result equals that of the transformers image processor with its PIL back end. The serving half: Pillow, numpy only.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from budwood.core.errors import BundleError
from budwood.engine.images import Source, open_image

__all__ = ["FILE", "MAX_EDGE", "Decoder", "Preprocessing", "usable_cores", "write"]

FILE = "preprocessor_config.json"
DRAFT_GAP = 2
"""A JPEG is decoded at a fraction of its size while that leaves this many times the pixels that resizing needs; then
the result differs by less than the quantisation of the JPEG itself (Pillow's own thumbnails use the same margin)."""
UNDERSTOOD = frozenset(
    {"do_resize", "do_center_crop", "do_rescale", "do_normalize"}
    | {"do_convert_rgb", "do_reduce_labels", "do_flip_channel_order"}
)
"""Switches of image processors that are obeyed here, or that change no pixel."""
MAX_EDGE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop at the centre, and normalise: `(pixel * scale + offset - mean) / std` for each channel."""

    edge: int | None
    """Resize so that the shorter side has this many pixels; or else to `size`."""
    size: tuple[int, int] | None
    """Height and width."""
    crop: tuple[int, int] | None
    """Height and width that are cut out at the centre, padded with black where the image is smaller."""
    resample: int
    """Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming."""
    scale: float
    offset: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The preprocessing that the folder's file states.

        Raises:
            BundleError: the file is missing, damaged, or asks for something that is not understood here.
        """
        path = folder / FILE
        try:
            return cls.from_config(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BundleError(
                f"{FILE} cannot be used: {error}", where=str(path), fix="save the base with its image processor"
            ) from error

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Raises ValueError, TypeError or KeyError when the configuration is not understood."""
        if not isinstance(config, dict):
            raise TypeError("it is not a JSON object")
        if unknown := [key for key, on in config.items() if key.startswith("do_") and on and key not in UNDERSTOOD]:
            raise ValueError(f"it asks for {unknown[0]}, which is not supported")
        edge, size = sizes(config["size"]) if config.get("do_resize") else (None, None)
        crop = pair(config["crop_size"]) if config.get("do_center_crop") else None
        if edge is not None and str(config.get("image_processor_type", "")).startswith("ConvNext"):
            edge, size, crop = convnext(edge, float(config.get("crop_pct") or 224 / 256))
        if size is None and crop is None:
            raise ValueError("images would keep their own sizes, so they cannot share a batch")
        mean: tuple[float, ...] = (0.0,) * 3
        std: tuple[float, ...] = (1.0,) * 3
        if config.get("do_normalize"):
            mean, std = three(config["image_mean"]), three(config["image_std"])
        preprocessing = cls(
            edge,
            size,
            crop,
            int(config["resample"]),
            float(config["rescale_factor"]) if config.get("do_rescale") else 1.0,
            -1.0 if config.get("do_rescale") and config.get("rescale_offset") else 0.0,
            mean,
            std,
            bool(config.get("do_flip_channel_order")),
        )
        if config.get("include_top"):  # EfficientNet's processor divides by the deviation a second time
            twice = three(config["image_std"])
            preprocessing = replace(preprocessing, std=tuple(a * b for a, b in zip(std, twice, strict=True)))
        return preprocessing.checked()

    def checked(self) -> Self:
        """Raises ValueError when a number is out of range."""
        edges = [*(self.size or ()), *(self.crop or ()), *([] if self.edge is None else [self.edge])]
        if not all(1 <= edge <= MAX_EDGE for edge in edges):
            raise ValueError(f"its sizes are not between 1 and {MAX_EDGE}")
        if not 0 <= self.resample <= 5 or not np.isfinite(self.affine).all():
            raise ValueError("its filter or its mean and deviation are out of range")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result."""
        shape = self.crop or self.size
        assert shape is not None  # from_config refuses a configuration without both
        return shape

    @property
    def affine(self) -> NDArray[np.float32]:
        """Factor and summand of each channel, shape (2, 3)."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return np.stack([self.scale / std, (self.offset - mean) / std]).astype(np.float32)

    @property
    def can_resize(self) -> bool:
        """Whether `at` works: for squares in red, green, blue order, which every transformers processor can state."""
        return self.shape[0] == self.shape[1] and not self.bgr

    def at(self, size: int) -> Self:
        """The same for a network input of `size` × `size` pixels; what is cut off stays the same share."""
        if not self.can_resize:
            raise BundleError("this preprocessing has one size only", where=FILE, fix="take another base")
        share = size / self.shape[0]
        edge = None if self.edge is None else round(self.edge * share)
        whole = None if self.size is None else (round(self.size[0] * share), round(self.size[1] * share))
        return replace(self, edge=edge, size=whole, crop=None if self.crop is None else (size, size))

    def to_config(self) -> dict[str, Any]:
        """The same as a transformers configuration, for a processor without rules of its own."""
        config: dict[str, Any] = {
            "image_processor_type": "BitImageProcessor",
            "do_convert_rgb": True,
            "do_resize": self.edge is not None or self.size is not None,
            "resample": self.resample,
            "do_center_crop": self.crop is not None,
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": [mean - self.offset for mean in self.mean],
            "image_std": list(self.std),
        }
        if self.crop is not None:
            config["crop_size"] = {"height": self.crop[0], "width": self.crop[1]}
        if self.edge is not None:
            config["size"] = {"shortest_edge": self.edge}
        elif self.size is not None:
            config["size"] = {"height": self.size[0], "width": self.size[1]}
        return config

    def pixels(self, source: Source | Image.Image) -> NDArray[np.uint8]:
        """Resized and cropped, not yet normalised; shape (height, width, 3). Raises DataError as `open_image`."""
        image = source if isinstance(source, Image.Image) else open_image(source, DRAFT_GAP * self.largest)
        if (target := self.target(*image.size)) not in (None, image.size):
            image = image.resize(target, Image.Resampling(self.resample))
        if self.crop is not None and image.size != self.crop[::-1]:
            image = center_crop(image, *self.crop)
        return np.asarray(image)

    def normalise(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write pixels of shape (height, width, 3) to `out`, shape (3, height, width)."""
        factor, summand = self.affine[:, :, None, None]
        channels = pixels.transpose(2, 0, 1)
        np.multiply(channels[::-1] if self.bgr else channels, factor, out=out)
        out += summand

    def target(self, width: int, height: int) -> tuple[int, int] | None:
        """Width and height to resize to, None to keep the image's own."""
        if self.edge is None:
            return self.size[::-1] if self.size is not None else None
        long = int(self.edge * max(width, height) / min(width, height))
        return (self.edge, long) if width <= height else (long, self.edge)

    @property
    def largest(self) -> int:
        """Pixels that both sides of an image need before it is resized; 0 when it is not."""
        return self.edge or max(self.size or (0,))


def write(preprocessing: Preprocessing, folder: Path) -> None:
    """Write the folder's file, unless it already says the same."""
    if Preprocessing.read(folder) != preprocessing:
        text = json.dumps(preprocessing.to_config(), indent=2, sort_keys=True)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def sizes(size: Any) -> tuple[int | None, tuple[int, int] | None]:
    """The edge or the height and width of a transformers size."""
    if set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"]), None
    return None, pair(size)


def pair(size: Any) -> tuple[int, int]:
    if set(size) != {"height", "width"}:
        raise ValueError(f"the size {dict(size)} is not supported")
    return int(size["height"]), int(size["width"])


def three(values: Any) -> tuple[float, ...]:
    found = tuple(float(value) for value in values) if isinstance(values, list | tuple) else (float(values),) * 3
    if len(found) != 3:
        raise ValueError(f"there are {len(found)} means or deviations, and 3 channels")
    return found


def convnext(edge: int, share: float) -> tuple[int | None, tuple[int, int] | None, tuple[int, int] | None]:
    """ConvNeXt's rule: below 384 pixels resize to more and crop, from there on squeeze into the square."""
    return (int(edge / share), None, (edge, edge)) if edge < 384 else (None, (edge, edge), None)


def center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Cut out the centre; what lies outside is black. Rounds as transformers does."""
    left, top = centre(image.width, width), centre(image.height, height)
    return image.crop((left, top, left + width, top + height))


def centre(have: int, want: int) -> int:
    """Where the cut begins; negative where `have` is padded, more of it in front when the rest is odd."""
    return (have - want) // 2


class Decoder:
    """Images to batches of `pixel_values`, with all cores: Pillow decodes and resizes outside of Python's lock."""

    def __init__(self, preprocessing: Preprocessing, threads: int = 0) -> None:
        self.preprocessing = preprocessing
        self.threads = threads or min(8, usable_cores())
        self.pool = ThreadPoolExecutor(self.threads, "decode")

    def __call__(self, sources: Sequence[Source | Image.Image]) -> NDArray[np.float32]:
        """Float32 of shape (images, 3, height, width). Raises DataError at the first image that cannot be decoded."""
        result = np.empty((len(sources), 3, *self.preprocessing.shape), np.float32)
        if self.threads == 1 or len(sources) == 1:
            for source, out in zip(sources, result, strict=True):
                self.decode(source, out)
        else:
            list(self.pool.map(self.decode, sources, result))
        return result

    def decode(self, source: Source | Image.Image, out: NDArray[np.float32]) -> None:
        self.preprocessing.normalise(self.preprocessing.pixels(source), out)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
