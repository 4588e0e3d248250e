"""What all tasks on images share: requests, limits, preprocessing, options of the data, variation and the base.

A task in `budwood/tasks/` extends `ImageTask` and adds its labels, its answers, its loss and its scores.
"""

import base64
import json
import statistics
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, UsageError
from budwood.core.task import Answer, Arrays, Calibration, Encoded, Encoder, Row, Run, Task
from budwood.engine import images, occlusion, pixels
from budwood.engine.splits import make_splits

__all__ = ["EXPLANATION", "SMALL_INPUT", "ImageTask", "input_size"]

EXPLANATION = {"type": "string", "description": "the heat map that was asked for, as a PNG in a data: URI"}

SMALL_EDGE = 96
SMALL_INPUT = 128
"""Images whose shorter side is below the first are shown to the network at the second (the BiT rule: Kolesnikov et al.
2020, arXiv:1912.11370): more pixels would only be invented, and cost three times the work."""
LEAST_INPUT = 32
LOOKED_AT = 64
"""Images whose size is looked up."""
LONE = 1 << 20
"""The length of a row that fills a batch by itself."""
BATCH = 32
UPDATES = 400
FEW_ROWS = 500
"""Images below which fine-tuning is gentler."""
ANY_SIZE = frozenset(
    ["bit", "convnext", "convnextv2", "efficientnet", "hgnet_v2", "mobilenet_v1", "mobilenet_v2", "regnet", "resnet"]
)
"""Architectures that read images of any size: convolutions and a mean."""


class ImageEncoder:
    """Images to `pixel_values`, and to what of them the network sees."""

    def __init__(self, preprocessing: pixels.Preprocessing) -> None:
        self.preprocessing, self.decoder = preprocessing, pixels.Decoder(preprocessing)

    def __call__(self, rows: Sequence[Row]) -> Encoded:
        return Encoded({"pixel_values": self.decoder([row["image"] for row in rows])}, [{} for _ in rows])

    def view(self, row: Row) -> NDArray[np.uint8]:
        """Resized and cut, shape (height, width, 3)."""
        return self.preprocessing.pixels(row["image"])


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task, ABC):
    """A task whose rows are `{"image": path or bytes, "sha256": …, "label": …}`."""

    flip: bool = True
    """Whether a mirrored image means the same; not so for text, plates and X-rays."""
    rotate: bool = False
    """Whether an image has no up and down, as galaxies and cells."""
    image_size: int = 0
    """Height and width that the network reads, 0 for what its base was made for."""

    inputs: ClassVar[tuple[str, ...]] = ("image",)
    preprocessing: ClassVar[tuple[str, ...]] = (pixels.FILE,)
    files: ClassVar[tuple[str, ...]] = ("image/*",)
    request_bytes: ClassVar[int] = images.MAX_BYTES
    needs_gain: ClassVar[bool] = True
    penalties: ClassVar[tuple[float, ...]] = (0.2, 0.6, 2.0, 6.0, 20.0)
    default_base: ClassVar[str] = "efficientnet-lite0"

    def checked(self) -> Self:
        """The same task, for `from_json`. Raises BundleError when one of the fields above has the wrong type."""
        switches = isinstance(self.flip, bool) and isinstance(self.rotate, bool)
        if not switches or type(self.image_size) is not int or not 0 <= self.image_size <= pixels.MAX_EDGE:
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        return self

    # Serving half

    @classmethod
    def typed(cls, argument: str) -> Any:
        """The path of a file; an image that stands in a `data:` URI, as rows of arrays do, stays what it is."""
        return argument if argument.startswith("data:") else Path(argument)

    def parse(self, item: object) -> Row:
        """Takes base64 or bytes; a `Path` too, which no request can hold. The header is checked, the pixels later."""
        if not isinstance(item, Mapping):
            raise DataError("each input must be an object", where="input", fix=SEND)
        if unknown := sorted(set(item) - {"image", *(["explain"] if self.explains else [])}, key=str):
            raise DataError(f"unknown field {unknown[0]!r}", where=str(unknown[0]), fix=SEND)
        image, explain = item.get("image"), item.get("explain", False)
        if not isinstance(explain, bool):
            raise DataError("explain must be true or false", where="explain", fix='{"image": "…", "explain": true}')
        wanted = {"explain": True} if explain else {}
        if isinstance(image, Path):
            return {"image": str(image), **wanted}
        if isinstance(image, str):
            image = images.from_base64(image)
        if not isinstance(image, bytes):
            problem = "is missing" if "image" not in item else f"must be base64, not {type(image).__name__}"
            raise DataError(f"image {problem}", where="image", fix=SEND)
        images.inspect_image(image)
        return {"image": image, **wanted}

    def item(self, row: Row) -> dict[str, Any]:
        """The file as base64; a large photo stands in a smaller copy, since bundles keep such items."""
        content = images.read_source(row["image"])
        if len(content) > KEPT_BYTES:
            image = images.open_image(content, KEPT_EDGE)
            image.thumbnail((KEPT_EDGE, KEPT_EDGE))
            stream = BytesIO()
            image.save(stream, "JPEG", quality=90)
            content = stream.getvalue()
        return {"image": base64.b64encode(content).decode()}

    def encoder(self, folder: Path) -> Encoder:
        return ImageEncoder(self.preprocess(folder))

    def answer(
        self, rows: Sequence[Row], encoder: Encoder, run: Run, calibration: Calibration, top: int
    ) -> list[Answer]:
        """Answers for one batch; a row that asks for it gets the heat map of its answer, as a PNG in a `data:` URI."""
        answers = super().answer(rows, encoder, run, calibration, top)
        for row, answer in zip(rows, answers, strict=True):
            if row.get("explain") and isinstance(encoder, ImageEncoder):
                heat = occlusion.heat_map(encoder([row]).inputs["pixel_values"], run, self.evidence)
                answer["explanation"] = occlusion.png_uri(occlusion.overlay(encoder.view(row), heat))
        return answers

    def evidence(self, outputs: Arrays, reference: Arrays) -> NDArray[np.float64]:
        """How strongly outputs speak for the answer of the `reference`, one number a row: the log odds of its class."""
        logits = outputs["logits"].astype(np.float64)
        best = int(reference["logits"][0].argmax())
        others = np.delete(logits, best, axis=1)
        top = others.max(axis=1, keepdims=True)
        return np.asarray(logits[:, best] - top[:, 0] - np.log(np.exp(others - top).sum(axis=1)))

    def preprocess(self, folder: Path) -> pixels.Preprocessing:
        found = pixels.Preprocessing.read(folder)
        return found.at(self.image_size) if self.image_size else found

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        """The same for all, but for a heat map's: it is computed by itself, so that nobody waits with it."""
        return [LONE if row.get("explain") else 1 for row in rows]

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        image = {
            "type": "string",
            "contentEncoding": "base64",
            "minLength": 16,
            "maxLength": images.MAX_BYTES * 4 // 3,
            "description": "a JPEG, PNG, WebP, BMP, GIF or TIFF file in base64",
        }
        explain = {"type": "boolean", "description": f"also a heat map; it costs {occlusion.WINDOWS} answers"}
        properties = {"image": image, **({"explain": explain} if cls.explains else {})}
        return {"type": "object", "properties": properties, "required": ["image"], "additionalProperties": False}

    # Data half

    @classmethod
    def split(cls, dataset: Dataset, *, test: Dataset | None, seed: int, shots: int | None) -> Splits:
        return make_splits(dataset, test=test, seed=seed, shots=shots)

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Takes `flip` and `rotate`, true or false, and `image_size` in pixels."""
        own = {name: value for name, value in options.items() if name in COMMON}
        super().with_options({name: value for name, value in options.items() if name not in own})
        for name, value in own.items():
            if name != "image_size" and not isinstance(value, bool):
                raise UsageError(f"{name} must be true or false, not {value!r}", where=name)
            if name == "image_size" and (type(value) is not int or not LEAST_INPUT <= value <= pixels.MAX_EDGE):
                limits = f"between {LEAST_INPUT} and {pixels.MAX_EDGE} pixels"
                raise UsageError(f"the image size must be {limits}, not {value!r}", where="--image-size")
        return replace(self, **own)

    def fit_to(self, folder: Path) -> Self:
        """With the base's own size where it reads no other, or where ours would be larger.

        Raises:
            UsageError: the user has asked for a size that the base cannot read.
        """
        if not self.image_size:
            return self
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = pixels.Preprocessing.read(folder)
        fits = config.get("model_type") in ANY_SIZE and own.can_resize and self.image_size < max(own.shape)
        if not fits and self.image_size not in (SMALL_INPUT, max(own.shape)):
            raise UsageError(
                f"this base cannot read images at {self.image_size} pixels; its own size is {max(own.shape)}",
                where="--image-size",
                fix="leave out --image-size, or take a convolutional base and a smaller size",
            )
        return self if fits else replace(self, image_size=0)

    # Training half

    @classmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        from budwood.engine.image_base import write_base

        write_base(folder, stage)

    def augment(self, inputs: Arrays, random: np.random.Generator) -> Arrays:
        """Cropped, mirrored and turned where that is allowed, brighter or darker."""
        from budwood.engine.image_augment import vary

        return inputs | {"pixel_values": vary(inputs["pixel_values"], random, flip=self.flip, rotate=self.rotate)}

    def views(self, inputs: Arrays) -> list[Arrays]:
        """Mirrored where `flip` allows it, and turned where `rotate` does."""
        from budwood.engine.image_augment import turned

        images = inputs["pixel_values"]
        views = ([images[..., ::-1]] if self.flip else []) + ([turned(images, 1)] if self.rotate else [])
        return [{"pixel_values": np.ascontiguousarray(view)} for view in views]

    def recipe(self, n_rows: int) -> dict[str, Any]:
        """From the fitted head, about 400 updates of 32 images in 4 to 13 epochs.

        Networks with still BatchNorm bear a higher rate than text encoders. Below 500 images the rate is lower,
        lowest in the first layers, for ten epochs whatever they give: too few are held out to tell epochs apart.
        """
        few = n_rows < FEW_ROWS
        return {
            "learning_rate": 2e-4 if few else 3e-4,
            "head_learning_rate": 2e-4 if few else 1e-3,
            "batch_size": BATCH,
            "epochs": min(10 if few else 20, max(4, -(-UPDATES * BATCH // max(n_rows, 1)))),
            "first_layer": 0.1 if few else 1.0,
            "stop_early": not few,
            "interpolation": None,
            "why": f"{n_rows:,} images are {'few: gently' if few else 'enough for higher rates'}",
        }

    def save_size(self, folder: Path) -> None:
        """Make the preprocessing in a saved folder state the size that was learnt with."""
        if self.image_size and (folder / pixels.FILE).exists():
            pixels.write(self.preprocess(folder), folder)


COMMON = tuple(field.name for field in fields(ImageTask))
SEND = 'send {"image": "<the file in base64>"}, or the file itself as multipart/form-data'
KEPT_BYTES = 64 << 10
KEPT_EDGE = 384


def input_size(rows: Sequence[Row]) -> int:
    """The `image_size` that suits the images of these rows: less where most of them are small, else 0."""
    step = max(1, len(rows) // LOOKED_AT)
    edges = [min(images.inspect_image(row["image"])[1:]) for row in rows[::step]]
    return SMALL_INPUT if edges and statistics.median(edges) < SMALL_EDGE else 0
