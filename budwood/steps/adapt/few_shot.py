"""Fine-tuning for a few examples a class: every batch compares classes, and pulls rows of one class together.

SetFit's idea (Tunstall et al. 2022, arXiv:2209.11055) with all pairs of a batch at once (supervised contrastive loss:
Khosla et al. 2020, arXiv:2004.11362), beside the cross-entropy of the fitted head. On Banking77 with 10 rows a class
the contrast alone did not beat the frozen encoder; the two together gained about two points.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.core.task import Task
from budwood.engine import graft

__all__ = ["FewShot"]

CLASSES = 16
"""Classes in a batch of 32 rows, two rows each; with fewer classes each gives more rows."""


@final
@dataclass(frozen=True)
class FewShot(Step):
    """From the fitted head, on batches that are balanced by class. For up to about 64 rows a class."""

    learning_rate: float = 1e-4
    head_learning_rate: float = 5e-4
    contrast: float = 0.1
    """Weight of the contrastive loss; the cross-entropy weighs 1."""
    temperature: float = 0.1
    batch_size: int = 32
    passes: int = 7
    """How often each row is seen, within the bounds below."""
    least_steps: int = 30
    most_steps: int = 300
    """Caps the pairs that are compared: what is learnt saturates, the time does not."""

    name: ClassVar[str] = "adapt.few_shot"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def steps(self, n_rows: int) -> int:
        return min(self.most_steps, max(self.least_steps, self.passes * n_rows // self.batch_size))

    def effort(self, task: Task, n_rows: int) -> tuple[int, int]:
        """Epochs after which held-out rows are read, and rows learnt from in all."""
        return 0, self.steps(n_rows) * min(self.batch_size, n_rows)

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.batching import Rows
        from budwood.engine.fine_tune import trained_report

        studied = graft.lesson(parent, context)
        rows = Rows(studied.task, studied.encoder, studied.splits.train.rows)
        if rows.targets.ndim > 1:
            raise StepError("contrastive pairs need one label a row", fix="use --method full for multi-label data")
        trained = self.tune(studied, rows, context)
        calibrated = graft.calibration(studied, studied.splits.validation.rows)
        report = trained_report(trained)
        return graft.save_child(parent, context, self, studied, calibrated, report)

    def tune(self, studied: graft.Lesson, rows: Any, context: Context) -> Any:
        import torch
        from torch.nn import functional

        from budwood.engine.batching import forward_by_length, freeze_lookups
        from budwood.engine.planning import within
        from budwood.engine.train import Plan, train

        freeze_lookups(studied.model)
        members = [np.flatnonzero(rows.targets == label) for label in np.unique(rows.targets)]
        plan = Plan(1, self.steps(len(rows)), self.learning_rate, self.head_learning_rate, seed=context.seed)

        def batches(epoch: int) -> Iterator[NDArray[Any]]:
            random = np.random.default_rng([context.seed, epoch])
            for _ in range(plan.steps_per_epoch):
                yield draw(members, self.batch_size, random)

        def loss(model: Any, numbers: NDArray[Any]) -> Any:
            states = forward_by_length(model, rows, numbers, "embedding")
            targets = torch.from_numpy(rows.targets[numbers])
            apart = supervised_contrastive(functional.normalize(states, dim=-1), targets, self.temperature)
            return studied.task.loss({"logits": model.head(states)}, targets) + self.contrast * apart

        return train(
            studied.model,
            within(plan, context.seconds, studied.model, batches, loss, context.work),
            batches,
            loss,
            checkpoints=context.work / "checkpoints",
            progress=context.progress,
            seconds=context.seconds,
            what="few-shot tuning",
        )


def draw(members: list[NDArray[Any]], size: int, random: np.random.Generator) -> NDArray[Any]:
    """A batch: some classes, and the same number of rows of each (fewer where a class has fewer)."""
    classes = random.permutation(len(members))[:CLASSES]
    each = max(2, size // len(classes))
    return np.concatenate([random.choice(members[c], min(each, len(members[c])), replace=False) for c in classes])


def supervised_contrastive(states: Any, labels: Any, temperature: float) -> Any:
    """Mean over rows of the log likelihood of the rows of the same label among all others, negated."""
    import torch

    itself = torch.eye(len(states), dtype=torch.bool)
    similarity = (states @ states.T / temperature).masked_fill(itself, -1e9)
    same = (labels[:, None] == labels[None, :]) & ~itself
    likelihood = similarity - torch.logsumexp(similarity, dim=1, keepdim=True)
    return -((likelihood * same).sum(1) / same.sum(1).clamp(min=1)).mean()
