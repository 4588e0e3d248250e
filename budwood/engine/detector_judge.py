"""Scores of a detector while it is trained, through the path that serves. Import only inside functions."""

import time
from collections.abc import Sequence
from typing import Any

from budwood.core import registry
from budwood.core.task import Answer, Row
from budwood.engine.box_answers import with_one_label
from budwood.engine.box_metrics import Precision, average_precision, best_threshold
from budwood.engine.graft import Lesson
from budwood.engine.predictor import Predictor

__all__ = ["Judge"]


class Judge:
    """What a model in training finds, and how right that is."""

    def __init__(self, studied: Lesson) -> None:
        self.task: Any = studied.task.measuring()
        self.encoder = studied.encoder

    def answers(self, model: Any, rows: Sequence[Row]) -> list[Answer]:
        runtime = registry.get("runtimes", "torch")(model)
        return Predictor(self.task, self.encoder, runtime, {}).predict_all(rows)

    def precision(self, model: Any, rows: Sequence[Row]) -> Precision:
        found = [answer["candidates"] for answer in self.answers(model, rows)]
        return average_precision(self.task.labels, found, [row["label"] for row in rows])

    @staticmethod
    def can_tell(rows: Sequence[Row]) -> bool:
        """Whether there is an object by which weights and thresholds could be told apart."""
        return any(not item.get("crowd") for row in rows for item in row["label"])

    def quality(self, model: Any, rows: Sequence[Row]) -> float:
        """What the best weights are chosen by: AP from 0.5 to 0.95."""
        return self.precision(model, rows).ap

    def ap50(self, model: Any, rows: Sequence[Row]) -> float:
        return self.precision(model, rows).ap50

    def seconds(self, model: Any, rows: Sequence[Row]) -> float:
        """How long scoring takes for each of these rows, once it runs; 0 without rows."""
        if not rows:
            return 0.0
        self.answers(model, rows)
        began = time.monotonic()
        self.precision(model, rows)
        return (time.monotonic() - began) / len(rows)

    def threshold(self, model: Any, rows: Sequence[Row]) -> float:
        """The score from which objects are reported: the one with the best F1 on these rows."""
        found = [with_one_label(answer["candidates"]) for answer in self.answers(model, rows)]
        return best_threshold(found, [row["label"] for row in rows])
