"""Keep every k-th layer of the adapted model and teach the short one by the long one.

Layers copied from the teacher, then soft targets, hard labels and the pooled state's direction
(DistilBERT: Sanh et al. 2019, arXiv:1910.01108).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.engine import graft

__all__ = ["DropLayers"]


@final
@dataclass(frozen=True)
class DropLayers(Step):
    """The child is an ordinary transformers model of fewer layers, distilled from its parent on the train rows."""

    layers: int = 3
    """Layers to keep, evenly spaced, the first and the last among them."""
    epochs: int | None = None
    learning_rate: float = 1e-4
    batch_size: int = 32
    temperature: float = 2.0
    hard: float = 0.3
    """Weight of the labels; the rest is the teacher's probabilities."""
    direction: float = 1.0
    """Weight of 1 - cosine between the pooled states."""

    name: ClassVar[str] = "shrink.drop_layers"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.fine_tune import trained_report

        studied = graft.lesson(parent, context)
        teacher = graft.lesson(parent, context).model
        kept = keep_layers(studied.model.encoder, self.layers)
        trained = self.distill(studied, teacher, context)
        # Without held-out rows the teacher's temperature is the best guess.
        calibrated = graft.calibration(studied, studied.splits.validation.rows) or dict(parent.manifest.calibration)
        report = trained_report(trained) | {"kept_layers": kept}
        return graft.save_child(parent, context, self, studied, calibrated, report)

    def distill(self, studied: graft.Lesson, teacher: Any, context: Context) -> Any:
        import torch
        from torch.nn import functional

        from budwood.engine.batching import Rows, freeze_lookups, run
        from budwood.engine.fine_tune import validation_score
        from budwood.engine.planning import epochs_for, within
        from budwood.engine.train import Plan, train

        rows = Rows(studied.task, studied.encoder, studied.splits.train.rows)
        held = Rows(studied.task, studied.encoder, studied.splits.validation.rows)
        freeze_lookups(studied.model)
        context.progress("asking the teacher", 0, len(rows), "")
        soft = {name: torch.from_numpy(run(teacher, rows, name)) for name in ("logits", "embedding")}
        per_epoch = rows.steps(self.batch_size)
        plan = Plan(self.epochs or epochs_for(per_epoch, 6, 40), per_epoch, self.learning_rate, seed=context.seed)

        def batches(epoch: int) -> Iterator[list[int]]:
            return rows.epoch(self.batch_size, context.seed, epoch)

        def loss(model: Any, numbers: list[int]) -> Any:
            outputs = model(**rows.batch(numbers))
            targets = torch.from_numpy(rows.targets[numbers])
            hard = studied.task.loss(outputs, targets)
            learned = soft_loss(outputs["logits"], soft["logits"][numbers], self.temperature, targets.ndim == 2)
            cosine = functional.cosine_similarity(outputs["embedding"], soft["embedding"][numbers]).mean()
            return self.hard * hard + (1 - self.hard) * learned + self.direction * (1 - cosine)

        return train(
            studied.model,
            within(plan, context.seconds, studied.model, batches, loss, context.work),
            batches,
            loss,
            evaluate=(lambda model: validation_score(studied, model, held)) if len(held) else None,
            checkpoints=context.work / "checkpoints",
            progress=context.progress,
            seconds=context.seconds,
            what=f"distilling to {self.layers} layers",
        )


def soft_loss(student: Any, teacher: Any, temperature: float, multi_label: bool) -> Any:
    """Cross-entropy with the teacher's softened probabilities, scaled by T² (Hinton et al. 2015, arXiv:1503.02531)."""
    from torch.nn import functional

    if multi_label:
        return functional.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    log_probabilities = functional.log_softmax(student / temperature, dim=-1)
    soft = functional.softmax(teacher / temperature, dim=-1)
    return functional.kl_div(log_probabilities, soft, reduction="batchmean") * temperature**2


def keep_layers(encoder: Any, layers: int) -> list[int]:
    """Remove all but `layers` evenly spaced layers in place, and say so in the configuration.

    Raises:
        StepError: the encoder has no stack of layers that its configuration describes, or not more than `layers`.
    """
    import numpy as np
    from torch import nn

    total = int(encoder.config.num_hidden_layers)
    if not 1 <= layers < total:
        raise StepError(
            f"the model has {total} layers, so {layers} cannot be kept",
            where="shrink.drop_layers",
            fix=f"keep between 1 and {total - 1}",
        )
    for module in encoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == total:
                kept = sorted({int(i) for i in np.linspace(0, total - 1, layers).round()})
                setattr(module, name, nn.ModuleList([child[i] for i in kept]))
                kinds = getattr(encoder.config, "layer_types", None)
                if isinstance(kinds, list):  # ModernBERT alternates local and global attention
                    encoder.config.layer_types = [kinds[i] for i in kept]
                encoder.config.num_hidden_layers = len(kept)
                return kept
    raise StepError("the model has no list of layers to cut", where="shrink.drop_layers", fix="leave this step out")
