"""Text classification: one label, or a set of labels, from a fixed list for each text.

A row: {"text": "Where is my parcel?", "label": "delivery"}, or {"text": …, "label": ["delivery", "refund"]}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import BundleError
from budwood.core.task import Answer, Arrays, Calibration, Row
from budwood.engine import class_scores
from budwood.engine.calibrate import fit_temperature, probabilities
from budwood.engine.text_task import TextTask

__all__ = ["TextClassification"]

THRESHOLD = 0.5
"""A label of a multi-label task is given when its calibrated probability reaches this."""


@final
@dataclass(frozen=True)
class TextClassification(TextTask):
    labels: tuple[str, ...]
    multi_label: bool = False

    name: ClassVar[str] = "text_classification"
    pipeline_tag: ClassVar[str] = "text-classification"

    @property
    def metric(self) -> str:  # type: ignore[override]  # it depends on the kind of labels
        return "samples_f1" if self.multi_label else "accuracy"

    @property
    def self_trains(self) -> bool:  # type: ignore[override]  # it depends on the kind of labels
        return not self.multi_label

    @property
    def n_outputs(self) -> int:
        return len(self.labels)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            task = cls(**{**fields, "labels": tuple(fields["labels"])})
        except (TypeError, KeyError) as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        if not task.labels or not all(isinstance(label, str) for label in task.labels):
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        return task.checked()

    # Serving half

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        temperature = calibration.get("temperature", 1.0)
        scaled = probabilities(outputs["logits"], temperature, multi_label=self.multi_label)
        if not self.multi_label:
            return class_scores.best_labels(self.labels, scaled, top)
        order = np.argsort(-scaled, axis=1, kind="stable")[:, : max(top, 1)]
        return [
            {
                "labels": [label for label, value in zip(self.labels, row, strict=True) if value >= THRESHOLD],
                "scores": {self.labels[i]: round(float(row[i]), 6) for i in best},
            }
            for row, best in zip(scaled, order, strict=True)
        ]

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        properties = {
            "label": {"type": "string"},
            "labels": {"type": "array", "items": {"type": "string"}},
            "score": probability,
            "scores": {"type": "object", "additionalProperties": probability},
            "truncated": {"type": "boolean", "description": "the text was longer than the model reads and was cut"},
        }
        return {"type": "object", "properties": properties, "required": ["scores"]}

    # Data half

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        multi_label = any(isinstance(row["label"], list | tuple) for row in rows)
        names = {name for row in rows for name in (label_set(row["label"]) if multi_label else [row["label"]])}
        labels = tuple(sorted(names))
        if len(labels) < 2:
            raise class_scores.one_label(labels)
        return cls(labels, multi_label)

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Class numbers, shape (rows,) int64; for multi-label 0/1 rows, shape (rows, labels) float32."""
        if not self.multi_label:
            return class_scores.class_numbers(self.labels, rows)
        index = {label: number for number, label in enumerate(self.labels)}
        result = np.zeros((len(rows), len(self.labels)), np.float32)
        for i, row in enumerate(rows):
            for label in label_set(row["label"]):
                result[i, class_scores.label_number(index, label, i)] = 1.0
        return result

    # Measuring half

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """1 for a right label, 0 for a wrong one; multi-label: the F1 of each row's label set (1 if both are empty)."""
        pairs = zip(answers, rows, strict=True)
        if not self.multi_label:
            return np.asarray([float(answer["label"] == row["label"]) for answer, row in pairs])
        return np.asarray([set_f1(set(answer["labels"]), set(label_set(row["label"]))) for answer, row in pairs])

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """`macro_f1` over the labels that occur, and for single-label the recall of the worst class."""
        key = "labels" if self.multi_label else "label"
        given = [set(label_set(answer[key])) for answer in answers]
        actual = [set(label_set(row["label"])) for row in rows]
        return class_scores.class_metrics(self.labels, given, actual)

    # Training half

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """The temperature that makes the probabilities honest (Guo et al. 2017)."""
        return {"temperature": fit_temperature(logits, targets)}

    def loss(self, outputs: Any, targets: Any) -> Any:
        from torch.nn import functional

        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(outputs["logits"], targets)
        return functional.cross_entropy(outputs["logits"], targets)

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        rows = [{"text": "fine work", "label": "good"}, {"text": "it came broken", "label": "bad"}] * 4
        return cls(("bad", "good")), [dict(row) for row in rows]


def label_set(label: Any) -> list[str]:
    return list(label) if isinstance(label, list | tuple) else [label]


def set_f1(given: set[str], actual: set[str]) -> float:
    if not given and not actual:
        return 1.0
    return 2 * len(given & actual) / (len(given) + len(actual))
