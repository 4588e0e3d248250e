"""A task of your own in one file: how many stars, from 1 to 5, the writer of a text gives.

A row: {"text": "It broke on the second day.", "label": "2"}. The answer has the likeliest number of stars and the
expected one: {"label": "2", "value": 1.8, "score": 0.61, "scores": {…}}. `docs/add-a-task.md` explains the parts and
says how Budwood finds the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import BundleError, DataError
from budwood.core.task import Answer, Arrays, Calibration, Row
from budwood.engine import class_scores
from budwood.engine.calibrate import fit_temperature, probabilities
from budwood.engine.text_task import TextTask

__all__ = ["StarRating"]

STARS = ("1", "2", "3", "4", "5")


@final
@dataclass(frozen=True)
class StarRating(TextTask):
    name: ClassVar[str] = "star_rating"
    metric: ClassVar[str] = "closeness"
    """1 for the right number of stars, and a quarter less for each star that it is off."""
    pipeline_tag: ClassVar[str] = "text-classification"

    # Identity: what stands in bundle.json

    @property
    def n_outputs(self) -> int:
        return len(STARS)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            return cls(**fields).checked()
        except TypeError as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error

    # Serving half: numpy only

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        scaled = probabilities(outputs["logits"], calibration.get("temperature", 1.0), multi_label=False)
        expected = scaled @ np.arange(1, len(STARS) + 1)
        answers = class_scores.best_labels(STARS, scaled, top)
        return [answer | {"value": round(float(value), 3)} for answer, value in zip(answers, expected, strict=True)]

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        properties = {
            "label": {"type": "string", "enum": list(STARS)},
            "value": {"type": "number", "minimum": 1, "maximum": len(STARS), "description": "the expected stars"},
            "score": probability,
            "scores": {"type": "object", "additionalProperties": probability},
            "truncated": {"type": "boolean", "description": "the text was longer than the model reads and was cut"},
        }
        return {"type": "object", "properties": properties, "required": ["label", "value", "scores"]}

    # Data half

    @classmethod
    def suits(cls, rows: Sequence[Row]) -> float:
        """`--task auto` takes it when every label is a number of stars, before classification, which says 0.5."""
        return 0.6 if all(row.get("label") in STARS for row in rows) else 0.0

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        for number, row in enumerate(rows, 1):
            if row["label"] not in STARS:
                fix = "give whole numbers from 1 to 5"
                raise DataError(f"{row['label']!r} is no number of stars", where=f"row {number}", fix=fix)
        return cls()

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Class numbers, shape (rows,)."""
        return class_scores.class_numbers(STARS, rows)

    # Measuring half

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        off = [abs(int(answer["label"]) - int(row["label"])) for answer, row in zip(answers, rows, strict=True)]
        return 1 - np.asarray(off, np.float64) / (len(STARS) - 1)

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """`mae`, the mean distance of the expected stars from the given ones, and how often the stars are right."""
        pairs = list(zip(answers, rows, strict=True))
        distance = [abs(answer["value"] - int(row["label"])) for answer, row in pairs]
        right = [answer["label"] == row["label"] for answer, row in pairs]
        return {"mae": float(np.mean(distance)), "accuracy": float(np.mean(right))}

    # Training half: torch inside the methods

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        return {"temperature": fit_temperature(logits, targets)}

    def loss(self, outputs: Any, targets: Any) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(outputs["logits"], targets)

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        rows = [{"text": "It broke on the second day.", "label": "2"}, {"text": "I love it.", "label": "5"}] * 4
        return cls(), [dict(row) for row in rows]
