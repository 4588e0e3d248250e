"""Image classification: one label from a fixed list for each image.

A row: {"image": "/data/flowers/tulip/1.jpg", "sha256": "…", "label": "tulip"}. A request: {"image": "<base64>"}.
"""

import base64
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, UsageError
from budwood.core.task import Answer, Arrays, Calibration, Encoded, Encoder, Row, Task
from budwood.engine import class_scores, images, pixels
from budwood.engine.calibrate import fit_temperature, probabilities
from budwood.engine.splits import make_splits

__all__ = ["ImageClassification"]

SMALL_EDGE = 96
SMALL_INPUT = 128
"""Images whose shorter side is below the first are shown to the network at the second (the BiT rule: Kolesnikov et al.
2020, arXiv:1912.11370): more pixels would only be invented, and cost three times the work."""
LEAST_INPUT = 32
LOOKED_AT = 64
"""Images whose size is looked up."""
BATCH = 32
UPDATES = 400
ANY_SIZE = frozenset(
    ["bit", "convnext", "convnextv2", "efficientnet", "hgnet_v2", "mobilenet_v1", "mobilenet_v2", "regnet", "resnet"]
)
"""Architectures that read images of any size: convolutions and a mean."""


@final
@dataclass(frozen=True)
class ImageClassification(Task):
    labels: tuple[str, ...]
    flip: bool = True
    """Whether a mirrored image means the same; not so for text, plates and X-rays."""
    rotate: bool = False
    """Whether an image has no up and down, as galaxies and cells."""
    image_size: int = 0
    """Height and width that the network reads, 0 for what its base was made for."""

    name: ClassVar[str] = "image_classification"
    metric: ClassVar[str] = "accuracy"
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    pipeline_tag: ClassVar[str] = "image-classification"
    preprocessing: ClassVar[tuple[str, ...]] = (pixels.FILE,)
    files: ClassVar[tuple[str, ...]] = ("image/*",)
    request_bytes: ClassVar[int] = images.MAX_BYTES
    needs_gain: ClassVar[bool] = True
    penalties: ClassVar[tuple[float, ...]] = (0.2, 0.6, 2.0, 6.0, 20.0)
    default_base: ClassVar[str] = "efficientnet-lite0"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            task = cls(**{**fields, "labels": tuple(fields["labels"])})
        except (TypeError, KeyError) as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        well_typed = all(isinstance(label, str) for label in task.labels) and isinstance(task.flip, bool)
        well_typed = well_typed and isinstance(task.rotate, bool)
        if not well_typed or type(task.image_size) is not int or not 0 <= task.image_size <= pixels.MAX_EDGE:
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        if not task.labels:
            raise BundleError("the task has no labels", where="bundle.json, task")
        return task

    # Serving half

    @classmethod
    def typed(cls, argument: str) -> Path:
        return Path(argument)

    def parse(self, item: object) -> Row:
        """Takes base64 or bytes; a `Path` too, which no request can hold. The header is checked, the pixels later."""
        if not isinstance(item, Mapping):
            raise DataError("each input must be an object", where="input", fix=SEND)
        if unknown := sorted(set(item) - {"image"}, key=str):
            raise DataError(f"unknown field {unknown[0]!r}", where=str(unknown[0]), fix=SEND)
        image = item.get("image")
        if isinstance(image, Path):
            return {"image": str(image)}
        if isinstance(image, str):
            image = images.from_base64(image)
        if not isinstance(image, bytes):
            problem = "is missing" if "image" not in item else f"must be base64, not {type(image).__name__}"
            raise DataError(f"image {problem}", where="image", fix=SEND)
        images.inspect_image(image)
        return {"image": image}

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
        decoder = pixels.Decoder(self.preprocess(folder))

        def encode(rows: Sequence[Row]) -> Encoded:
            return Encoded({"pixel_values": decoder([row["image"] for row in rows])}, [{} for _ in rows])

        return encode

    def preprocess(self, folder: Path) -> pixels.Preprocessing:
        found = pixels.Preprocessing.read(folder)
        return found.at(self.image_size) if self.image_size else found

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        scaled = probabilities(outputs["logits"], calibration.get("temperature", 1.0))
        return class_scores.best_labels(self.labels, scaled, top)

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        return [1] * len(rows)

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        image = {
            "type": "string",
            "contentEncoding": "base64",
            "minLength": 16,
            "maxLength": images.MAX_BYTES * 4 // 3,
            "description": "a JPEG, PNG, WebP, BMP, GIF or TIFF file in base64",
        }
        return {"type": "object", "properties": {"image": image}, "required": ["image"], "additionalProperties": False}

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        properties = {
            "label": {"type": "string"},
            "score": probability,
            "scores": {"type": "object", "additionalProperties": probability},
        }
        return {"type": "object", "properties": properties, "required": ["label", "score", "scores"]}

    # Data half

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        step = max(1, len(rows) // LOOKED_AT)
        edges = [min(images.inspect_image(row["image"])[1:]) for row in rows[::step]]
        small = bool(edges) and statistics.median(edges) < SMALL_EDGE
        return cls(class_scores.class_names(rows), image_size=SMALL_INPUT if small else 0)

    @classmethod
    def split(cls, dataset: Dataset, *, test: Dataset | None, seed: int, shots: int | None) -> Splits:
        return make_splits(dataset, test=test, seed=seed, shots=shots)

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Takes `flip` and `rotate`, true or false, and `image_size` in pixels."""
        own = {name: value for name, value in options.items() if name in ("flip", "rotate", "image_size")}
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

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Class numbers, shape (rows,) int64."""
        return class_scores.class_numbers(self.labels, rows)

    # Measuring half

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """1 for a right label, 0 for a wrong one."""
        return np.asarray([float(a["label"] == row["label"]) for a, row in zip(answers, rows, strict=True)])

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """`macro_f1`, the recall of the worst class, and the accuracy when the least sure answers are left out."""
        given, actual = [{answer["label"]} for answer in answers], [{row["label"]} for row in rows]
        right = self.row_scores(answers, rows)
        sure = [float(answer["score"]) for answer in answers]
        return class_scores.class_metrics(self.labels, given, actual) | class_scores.selective(sure, right)

    # Training half

    @classmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        from budwood.engine.image_base import write_base

        write_base(folder, stage)

    def build(self, folder: Path) -> Any:
        from budwood.engine.image_model import load_classifier

        return load_classifier(folder, self.labels)

    def traceable(self, folder: Path) -> Any:
        """With plain attention, which fusion recognises."""
        from budwood.engine.image_model import load_classifier

        return load_classifier(folder, self.labels, attention="eager")

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
        """From the fitted head, about 400 updates of 32 images in 4 to 20 epochs.

        Few images are seen often and varied; networks with still BatchNorm bear a higher rate than text encoders.
        """
        epochs = min(20, max(4, -(-UPDATES * BATCH // max(n_rows, 1))))
        return {"learning_rate": 3e-4, "head_learning_rate": 1e-3, "batch_size": BATCH, "epochs": epochs}

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """The temperature that makes the probabilities honest (Guo et al. 2017)."""
        return {"temperature": fit_temperature(logits, targets)}

    def save(self, model: Any, folder: Path) -> None:
        """An ordinary transformers directory; the preprocessing in it states the size that was learnt with."""
        from budwood.engine.image_model import save_classifier

        save_classifier(model, folder, self.labels)
        if self.image_size and (folder / pixels.FILE).exists():
            pixels.write(self.preprocess(folder), folder)

    def loss(self, outputs: Any, targets: Any) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(outputs["logits"], targets)

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        colours = {"dark": (20, 30, 40), "light": (220, 230, 210)}
        rows: list[Row] = [{"image": images.plain_png(rgb), "label": name} for name, rgb in colours.items()]
        return cls(("dark", "light"), image_size=SMALL_INPUT), rows * 4


SEND = 'send {"image": "<the file in base64>"}, or the file itself as multipart/form-data'
KEPT_BYTES = 64 << 10
KEPT_EDGE = 384
