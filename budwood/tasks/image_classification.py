"""Image classification: one label from a fixed list for each image.

A row: {"image": "/data/flowers/tulip/1.jpg", "sha256": "…", "label": "tulip"}. A request: {"image": "<base64>"}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import BundleError
from budwood.core.task import Answer, Arrays, Calibration, Row
from budwood.engine import class_scores
from budwood.engine.calibrate import fit_temperature, probabilities
from budwood.engine.image_task import EXPLANATION, SMALL_INPUT, ImageTask, input_size
from budwood.engine.images import plain_png

__all__ = ["ImageClassification"]


@final
@dataclass(frozen=True)
class ImageClassification(ImageTask):
    labels: tuple[str, ...]

    name: ClassVar[str] = "image_classification"
    metric: ClassVar[str] = "accuracy"
    self_trains: ClassVar[bool] = True
    pipeline_tag: ClassVar[str] = "image-classification"
    explains: ClassVar[bool] = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            task = cls(**{**fields, "labels": tuple(fields["labels"])})
        except (TypeError, KeyError) as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        if not all(isinstance(label, str) for label in task.labels):
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        if not task.labels:
            raise BundleError("the task has no labels", where="bundle.json, task")
        return task.checked()

    # Serving half

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        scaled = probabilities(outputs["logits"], calibration.get("temperature", 1.0))
        return class_scores.best_labels(self.labels, scaled, top)

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        properties = {
            "label": {"type": "string"},
            "score": probability,
            "scores": {"type": "object", "additionalProperties": probability},
            "explanation": EXPLANATION,
        }
        return {"type": "object", "properties": properties, "required": ["label", "score", "scores"]}

    # Data half

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        return cls(class_scores.class_names(rows), image_size=input_size(rows))

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Class numbers, shape (rows,) int64."""
        return class_scores.class_numbers(self.labels, rows)

    # Measuring half

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """1 for a right label, 0 for a wrong one."""
        return np.asarray([float(a["label"] == row["label"]) for a, row in zip(answers, rows, strict=True)])

    quality_name: ClassVar[str] = "Brier score"

    def quality(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """One less half the squared error of the probabilities, summed over the labels (Brier 1950)."""
        shares = np.asarray([[answer["scores"].get(label, 0.0) for label in self.labels] for answer in answers])
        truth = np.eye(len(self.labels))[self.targets(rows)]
        return np.asarray(1 - ((shares - truth) ** 2).sum(axis=1) / 2)

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """`macro_f1`, the recall of the worst class, and the accuracy when the least sure answers are left out."""
        given, actual = [{answer["label"]} for answer in answers], [{row["label"]} for row in rows]
        right = self.row_scores(answers, rows)
        sure = [float(answer["score"]) for answer in answers]
        return class_scores.class_metrics(self.labels, given, actual) | class_scores.selective(sure, right)

    # Training half

    def build(self, folder: Path) -> Any:
        from budwood.engine.image_model import load_classifier

        return load_classifier(folder, self.labels)

    def traceable(self, folder: Path) -> Any:
        """With plain attention, which fusion recognises."""
        from budwood.engine.image_model import load_classifier

        return load_classifier(folder, self.labels, attention="eager")

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """The temperature that makes the probabilities honest (Guo et al. 2017)."""
        return {"temperature": fit_temperature(logits, targets)}

    def save(self, model: Any, folder: Path) -> None:
        """An ordinary transformers directory; the preprocessing in it states the size that was learnt with."""
        from budwood.engine.image_model import save_classifier

        save_classifier(model, folder, self.labels)
        self.save_size(folder)

    def loss(self, outputs: Any, targets: Any) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(outputs["logits"], targets)

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        colours = {"dark": (20, 30, 40), "light": (220, 230, 210)}
        rows: list[Row] = [{"image": plain_png(rgb), "label": name} for name, rgb in colours.items()]
        return cls(("dark", "light"), image_size=SMALL_INPUT), rows * 4
