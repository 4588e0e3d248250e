"""Object detection: which objects are in an image, and where.

A row: {"image": "/data/1.jpg", "sha256": "…", "label": [{"label": "cat", "box": [12, 30, 96, 88]}, …]}, boxes as left,
top, right and bottom in pixels of the upright image. A request: {"image": "<base64>"}.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, UsageError
from budwood.core.task import Answer, Arrays, Calibration, Encoded, Encoder, Row
from budwood.engine import box_frame
from budwood.engine.box_answers import MOST_OBJECTS, candidates, objects_of, with_one_label
from budwood.engine.box_splits import box_splits, fitting_size
from budwood.engine.boxes import match
from budwood.engine.image_task import ImageTask
from budwood.engine.images import plain_png
from budwood.engine.pixels import FILE as PIXELS

__all__ = ["ObjectDetection"]

THRESHOLD = 0.5
"""Score from which objects are reported, where no held-out rows have told a better one."""
SIZES = (320, 416, 512, 640)


@final
@dataclass(frozen=True)
class ObjectDetection(ImageTask):
    labels: tuple[str, ...]
    advised_size: int = 320
    """The `image_size` that the objects ask for, where nobody has said one and the base leaves it open."""
    measured: bool = False
    """Whether answers also hold the objects that are too unsure to be reported, as average precision needs them."""

    name: ClassVar[str] = "object_detection"
    metric: ClassVar[str] = "f1"
    pipeline_tag: ClassVar[str] = "object-detection"
    preprocessing: ClassVar[tuple[str, ...]] = (PIXELS, box_frame.FILE)
    learning: ClassVar[str] = "detection"
    batch_size: ClassVar[int] = 16
    finds_objects: ClassVar[bool] = True
    default_top: ClassVar[int] = MOST_OBJECTS

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self) | {"labels": list(self.labels)}
        del fields["measured"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            task = cls(**{**fields, "labels": tuple(fields["labels"])})
        except (TypeError, KeyError) as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        known = bool(task.labels) and all(isinstance(label, str) for label in task.labels) and not task.measured
        if not known or type(task.advised_size) is not int:
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        return task.checked()

    # Serving half

    def parse(self, item: object) -> Row:
        """As of every image, with `min_score`: the score from which objects are reported."""
        if not isinstance(item, Mapping) or "min_score" not in item:
            return super().parse(item)
        wanted = item["min_score"]
        if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 <= wanted <= 1:
            raise DataError("min_score must be a number from 0 to 1", where="min_score", fix="leave it out")
        return {**super().parse({k: v for k, v in item.items() if k != "min_score"}), "min_score": float(wanted)}

    def encoder(self, folder: Path) -> Encoder:
        decoder = box_frame.FrameDecoder(self.frame(folder))

        def encode(rows: Sequence[Row]) -> Encoded:
            values, laid = decoder([row["image"] for row in rows])
            wanted = np.asarray([row.get("min_score", np.nan) for row in rows], np.float64)
            return Encoded({"pixel_values": values, "laid": laid, "min_score": wanted}, [{} for _ in rows])

        return encode

    def frame(self, folder: Path) -> box_frame.Frame:
        found = box_frame.Frame.read(folder)
        return replace(found, size=self.image_size) if self.image_size else found

    def finish(self, inputs: Arrays, outputs: Arrays) -> Arrays:
        """The best candidates in pixels of each image, of the thousands that a detector gives."""
        return candidates(outputs, inputs["laid"]) | {"min_score": inputs["min_score"]}

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        """At most `top` objects an image, the surest first, from the threshold on or from the row's own `min_score`."""
        answers: list[Answer] = []
        for found, wanted in zip(outputs["found"], outputs["min_score"], strict=True):
            least = float(wanted) if np.isfinite(wanted) else calibration.get("threshold", THRESHOLD)
            objects = objects_of(found, self.labels, 0.0 if self.measured else least)
            reported = with_one_label([item for item in objects if item["score"] >= least])
            answer: Answer = {"objects": reported[:top]}
            answers.append(answer | ({"candidates": objects} if self.measured else {}))
        return answers

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        schema = super().request_schema()
        least = {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "report objects from this score on; when left out, from the one with the best F1",
        }
        return {**schema, "properties": {**schema["properties"], "min_score": least}}

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        side = {"type": "number", "minimum": 0}
        box = {"type": "array", "items": side, "minItems": 4, "maxItems": 4}
        properties = {
            "label": {"type": "string"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "box": box | {"description": "left, top, right, bottom in pixels of the upright image"},
        }
        thing = {"type": "object", "properties": properties, "required": ["label", "score", "box"]}
        return {"type": "object", "properties": {"objects": {"type": "array", "items": thing}}, "required": ["objects"]}

    # Data half

    @classmethod
    def suits(cls, rows: Sequence[Row]) -> float:
        labels = [row.get("label") for row in rows]
        return 1.0 if any(labels) and all(map(are_objects, labels)) else 0.0

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        """The labels in alphabetical order, and the smallest input at which all but the smallest objects show."""
        if not cls.suits(rows):
            raise DataError("there is no image with a box", where="the labels", fix="annotate objects, then try again")
        labels = sorted({str(item["label"]) for row in rows for item in row["label"]})
        return cls(tuple(labels), advised_size=fitting_size(rows, SIZES))

    @classmethod
    def split(cls, dataset: Dataset, *, test: Dataset | None, seed: int, shots: int | None) -> Splits:
        """By image; groups stay together, and each label comes into each part where there are enough images."""
        if shots is not None:
            raise UsageError("images with boxes are not drawn by class", where="--shots", fix="leave it out")
        return box_splits(dataset, test=test, seed=seed)

    def fit_to(self, folder: Path) -> Self:
        """What was asked for; or else what the objects ask for, or a detector of transformers was made for.

        Raises:
            UsageError: the user has asked for a size that the network cannot read.
        """
        if not self.image_size:
            given = box_frame.Frame.read(folder).size if box_frame.made_elsewhere(folder) else self.advised_size
            return replace(self, image_size=given)
        if self.image_size % 32 or self.image_size < 64:
            near = max(64, 32 * round(self.image_size / 32))
            problem = f"{self.image_size} pixels are no multiple of 32"
            raise UsageError(problem, where="--image-size", fix=f"--image-size {near}")
        return self

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Objects of each label, shape (rows, labels) int64. Raises DataError where a row has no list of objects."""
        result = np.zeros((len(rows), len(self.labels)), np.int64)
        places = {label: number for number, label in enumerate(self.labels)}
        for number, row in enumerate(rows):
            if not are_objects(row["label"]):
                fix = "give images with boxes: COCO, Pascal VOC or YOLO"
                raise DataError(f"label {row['label']!r} is no list of boxes", where=f"row {number + 1}", fix=fix)
            for label, count in Counter(item["label"] for item in row["label"]).items():
                if label not in places:
                    known = f"known labels: {', '.join(self.labels[:20])}"
                    raise DataError(f"label {label!r} is unknown to the model", where=f"row {number + 1}", fix=known)
                result[number, places[label]] = count
        return result

    # Measuring half

    def measuring(self) -> Self:
        return replace(self, measured=True)

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """The F1 of each image: objects reported against true ones of the same label, at an overlap of half or more."""
        pairs = zip(answers, rows, strict=True)
        return np.asarray([match(answer["objects"], row["label"]).f1 for answer, row in pairs], np.float64)

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """`ap50` and `ap` (0.5 to 0.95) by pycocotools, `ap50 LABEL`, and recall and precision of what is reported.

        Average precision and recall are left out where there is no true object.
        """
        from budwood.engine.box_metrics import average_precision, shares

        truth = [row["label"] for row in rows]
        found = average_precision(self.labels, everything(answers), truth)
        precision, recall = shares(
            [match(answer["objects"], true) for answer, true in zip(answers, truth, strict=True)]
        )
        if not found.counts:
            return {"precision": precision}
        several = len(self.labels) > 1 or len(found.by_label) > 1
        each = {f"ap50 {label}": value for label, value in found.by_label.items()} if several else {}
        return {"ap50": found.ap50, "ap": found.ap, "precision": precision, "recall": recall, **each}

    def intervals(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
        """Of `ap50`; images resampled."""
        from budwood.engine.box_metrics import average_precision

        truth = [row["label"] for row in rows]
        spans = average_precision(self.labels, everything(answers), truth, intervals=True).intervals
        return {name: span for name, span in spans.items() if name == "ap50"}

    # Training half

    @classmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        from budwood.engine.detector_base import take_base

        take_base(folder, stage)

    def build(self, folder: Path) -> Any:
        from budwood.engine.detector_base import load_detector

        return load_detector(folder, self.labels, self.frame(folder).size)

    def save(self, model: Any, folder: Path) -> None:
        """A transformers directory: the backbone with the head beside it, or a detector of theirs."""
        from budwood.engine.detector_base import save_detector

        save_detector(model, folder, self.labels, self.frame(folder))

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Of our own detector; `targets` are one `Targets` an image. Those of transformers bring their loss."""
        from budwood.engine.detector_loss import detection_loss
        from budwood.engine.detector_network import places

        return detection_loss(outputs, targets, *places(self.image_size or self.advised_size))

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        colours = {"dark": (20, 30, 40), "light": (220, 230, 210)}
        rows: list[Row] = [
            {"image": plain_png(rgb), "label": [{"label": name, "box": [1.0, 1.0, 7.0, 6.0]}]}
            for name, rgb in colours.items()
        ]
        return cls(("dark", "light")), rows * 4


def are_objects(label: object) -> bool:
    """Whether a label is a list of objects with boxes, perhaps an empty one."""
    return isinstance(label, list | tuple) and all(isinstance(item, Mapping) and "box" in item for item in label)


def everything(answers: Sequence[Answer]) -> list[list[dict[str, Any]]]:
    """The objects of each image down to the least score, where answers hold them."""
    return [answer.get("candidates") or answer["objects"] for answer in answers]
