"""Frozen encoder and a linear head on its embeddings: seconds, and the baseline that others must beat."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.core.task import Task
from budwood.engine import graft, head_fit, linear_head

__all__ = ["Head"]

CURVE_ROWS = 1000
"""Rows of the learning curve, which the embeddings give for a second's work."""


@final
@dataclass(frozen=True)
class Head(Step):
    """Fit a linear head on the train rows, in all views of them. The penalty is cross-validated unless it is given."""

    penalty: float | None = None

    name: ClassVar[str] = "adapt.head"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def effort(self, task: Task, n_rows: int) -> tuple[int, int]:
        """Epochs, and rows learnt from in all of them together: no weight of the encoder learns."""
        return 0, 0

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.batching import Rows, embeddings
        from budwood.engine.forecast import forecast

        studied = graft.lesson(parent, context)
        rows = Rows(studied.task, studied.encoder, studied.splits.train.rows)
        context.progress("embedding", 0, len(rows), "")
        views = embeddings(studied.model, rows)
        n_labels = studied.model.head.out_features
        own, n_views = views[0], len(views)
        fitter = head_fit.fitter(studied.task.head)
        penalty = self.penalty or fitter.choose(
            own, rows.targets, n_labels, rows.rows, context.seed, studied.task.penalties
        )
        # All views of a row weigh as much as one row, so that the penalty keeps its meaning.
        seen, targets = views.reshape(-1, views.shape[2]), np.concatenate([rows.targets] * n_views)
        linear_head.install(studied.model, fitter.fit(seen, targets, n_labels, penalty / n_views))
        left_out = fitter.left_out(own, rows.targets, rows.rows, penalty, context.seed) if fitter.honest else None
        known = None if left_out is None else (left_out, rows.targets)
        calibrated = graft.calibration(studied, studied.splits.validation.rows, known)
        few = slice(CURVE_ROWS)  # rows are in the order of their hashes, so these are a draw
        curve = forecast(own[few], rows.targets[few], n_labels, penalty, context.seed)
        report = {"penalty": penalty, "curve": curve.to_json() if curve else None}
        return graft.save_child(parent, context, self, studied, calibrated, report)
