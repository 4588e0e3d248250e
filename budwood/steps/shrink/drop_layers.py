"""Keep some layers of the adapted model and teach the short one by the long one.

Layers copied from the teacher, then soft targets, hard labels and the pooled state's direction
(DistilBERT: Sanh et al. 2019, arXiv:1910.01108).
"""

from dataclasses import dataclass
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.core.task import Task
from budwood.engine import graft
from budwood.engine.distilling import Distilling, distil, sizes_report, with_teacher
from budwood.engine.predictor import task_of

__all__ = ["DropLayers"]


@final
@dataclass(frozen=True)
class DropLayers(Step):
    """The child is an ordinary transformers model of fewer layers, distilled from its parent on the train rows."""

    layers: int = 3
    """Layers to keep."""
    spacing: str = "even"
    """`even`, with the first and the last layer among the kept ones, or `alternate`, every second from the first on."""
    epochs: int | None = None
    """None: at least 600 updates in 6 to 40 epochs; 0 cuts and does not train, which is enough to measure its speed."""
    learning_rate: float = 1e-4
    batch_size: int = 32
    temperature: float = 2.0
    hard: float = 0.3
    """Weight of the labels; the rest is the teacher's probabilities."""
    direction: float = 1.0
    """Weight of 1 - cosine between the pooled states."""
    hidden: float = 0.0
    """Weight of 1 - cosine between the states after layers at like depths."""

    name: ClassVar[str] = "shrink.drop_layers"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises StepError when the model has no layers that its configuration describes, or too few."""
        from budwood.engine.fine_tune import trained_report
        from budwood.engine.layer_cut import keep_layers

        refuse_others(context.task or task_of(parent))
        studied, teacher = with_teacher(parent, context)
        kept = keep_layers(studied.model, self.layers, self.spacing)
        trained = distil(studied, teacher, context, Distilling.of(self), f"distilling to {self.layers} layers")
        # Without held-out rows the teacher's temperature is the best guess.
        calibrated = graft.calibration(studied, studied.splits.validation.rows) or dict(parent.manifest.calibration)
        report = trained_report(trained) | {"kept_layers": kept} | sizes_report(teacher, studied.model)
        return graft.save_child(parent, context, self, studied, calibrated, report)


def refuse_others(task: Task) -> None:
    """Raise StepError for models that learn in another way, naming the step that is for them."""
    other = "shrink.drop_layers_language" if task.writes else "shrink.distill_detector" if task.finds_objects else ""
    if other:
        raise StepError(f"{task.name} learns in another way", where=DropLayers.name, fix=f"take {other}")
