"""The dense control of a search: the parent, uncut, trained on exactly as a cut copy of it is.

A cut model that was trained further may seem to have lost nothing only because training longer was good for it. The
uncut parent with the same training shows what that alone gives.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.engine import graft

__all__ = ["TrainOn"]


@final
@dataclass(frozen=True)
class TrainOn(Step):
    """The same rows, loss, rates and epochs as of `shrink.drop_layers`; its teacher is what it was before."""

    further: int = 0
    """Epochs beyond those of a cut: of candidates that were trained once more."""
    learning_rate: float = 1e-4
    batch_size: int = 32

    name: ClassVar[str] = "shrink.train_on"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.distilling import Distilling, distil, students_epochs, with_teacher
        from budwood.engine.fine_tune import trained_report

        studied, teacher = with_teacher(parent, context)
        n_rows = len(studied.splits.train) + len(context.unlabelled)
        full = students_epochs(None, math.ceil(n_rows / self.batch_size))
        settings = Distilling(full + self.further, self.learning_rate, self.batch_size)
        trained = distil(studied, teacher, context, settings, "training the dense control")
        calibrated = graft.calibration(studied, studied.splits.validation.rows) or dict(parent.manifest.calibration)
        return graft.save_child(parent, context, self, studied, calibrated, trained_report(trained))
