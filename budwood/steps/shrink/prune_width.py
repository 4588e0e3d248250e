"""Cut the feed-forward of every layer to a share of its units, and teach the narrow model by the wide one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.engine import graft
from budwood.engine.distilling import Distilling, distil, sizes_report, with_teacher

__all__ = ["PruneWidth"]

LOOKED_AT = 512
"""Training rows whose gradients say which units matter."""
BATCH = 32


@final
@dataclass(frozen=True)
class PruneWidth(Step):
    """The child is an ordinary transformers model, narrower inside its layers and as wide between them."""

    keep: float = 0.5
    """Share of the feed-forward's units to keep in every layer."""
    heads: float = 1.0
    """Share of the attention heads to keep, where the configuration can state the size of a head (ViT)."""
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
    """Weight of 1 - cosine between the states after each layer."""
    round_to: int = 32
    """The width that stays is a multiple of it."""

    name: ClassVar[str] = "shrink.prune_width"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})
    tasks: ClassVar[frozenset[str]] = frozenset({"text_classification", "image_classification", "image_regression"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises StepError when the configuration does not describe a narrower model, or there is none to cut."""
        from budwood.engine.fine_tune import trained_report
        from budwood.engine.width_pruning import cut_feed_forward, cut_heads

        studied, teacher = with_teacher(parent, context)
        if studied.task.name not in self.tasks:
            raise StepError(
                f"models for {studied.task.name} are not cut in width",
                where=self.name,
                fix="quantize it instead: shrink.quantize_dynamic or shrink.quantize_static",
            )
        model = studied.model
        report: dict[str, Any] = {}
        if self.heads != 1:
            report["heads"] = list(cut_heads(model, self.heads, lambda: losses(studied)))
        if self.keep != 1 or self.heads == 1:
            report["width"] = list(cut_feed_forward(model, self.keep, lambda: losses(studied), self.round_to))
        trained = distil(studied, teacher, context, Distilling.of(self), "learning with narrower layers")
        calibrated = graft.calibration(studied, studied.splits.validation.rows) or dict(parent.manifest.calibration)
        report |= trained_report(trained) | sizes_report(teacher, model)
        return graft.save_child(parent, context, self, studied, calibrated, report)


def losses(studied: graft.Lesson) -> Iterator[Any]:
    """The task's loss on some hundred training rows, batch by batch; the rows are spread over the split."""
    import torch

    from budwood.engine.batching import Rows

    every = studied.splits.train.rows
    step = max(1, len(every) // LOOKED_AT)
    rows = Rows(studied.task, studied.encoder, every[::step][:LOOKED_AT])
    for numbers in rows.epoch(BATCH, 0, 0):
        outputs = studied.model(**rows.batch(numbers))
        yield studied.task.loss(outputs, torch.from_numpy(rows.targets[numbers]))
