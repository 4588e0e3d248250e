"""Contrastive fine-tuning for a few examples a class, then a linear head on the new embeddings.

SetFit's idea (Tunstall et al. 2022, arXiv:2209.11055), with all pairs of a batch at once instead of drawn pairs
(supervised contrastive loss: Khosla et al. 2020, arXiv:2004.11362).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.engine import graft, linear_head

__all__ = ["FewShot"]

CLASSES = 16
"""Classes in a batch of 32 rows, two rows each; with fewer classes each gives more rows."""
PENALTY = 10.0


@final
@dataclass(frozen=True)
class FewShot(Step):
    """Pull rows of one class together and push classes apart. For up to about 64 rows a class."""

    learning_rate: float = 5e-5
    temperature: float = 0.1
    batch_size: int = 32
    pairs: int = 5000
    """Cap on the positive pairs that are seen: what is learnt saturates, the time does not."""
    passes: int = 12
    """How often each row is seen, up to the cap."""

    name: ClassVar[str] = "adapt.few_shot"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.batching import Rows, run
        from budwood.engine.fine_tune import trained_report

        studied = graft.lesson(parent, context)
        rows = Rows(studied.task, studied.encoder, studied.splits.train.rows)
        if rows.targets.ndim > 1:
            raise StepError("contrastive pairs need one label a row", fix="use --method full for multi-label data")
        trained = self.contrast(studied, rows, context)
        embeddings = run(studied.model, rows, "embedding")
        # The embeddings have seen these rows, so cross-validation on them would tell nothing.
        linear = linear_head.fit(embeddings, rows.targets, studied.model.head.out_features, PENALTY)
        linear_head.install(studied.model, linear)
        calibrated = graft.calibration(studied, studied.splits.validation.rows)
        report = trained_report(trained)
        return graft.save_child(parent, context, self, studied, calibrated, report)

    def contrast(self, studied: graft.Lesson, rows: Any, context: Context) -> Any:
        import torch
        from torch.nn import functional

        from budwood.engine.batching import forward_by_length, freeze_lookups
        from budwood.engine.planning import within
        from budwood.engine.train import Plan, train

        freeze_lookups(studied.model)
        members = [np.flatnonzero(rows.targets == label) for label in np.unique(rows.targets)]
        plan = Plan(1, self.steps(len(rows), len(members)), self.learning_rate, seed=context.seed)

        def batches(epoch: int) -> Iterator[NDArray[Any]]:
            random = np.random.default_rng([context.seed, epoch])
            for _ in range(plan.steps_per_epoch):
                yield draw(members, self.batch_size, random)

        def loss(model: Any, numbers: NDArray[Any]) -> Any:
            states = functional.normalize(forward_by_length(model, rows, numbers, "embedding"), dim=-1)
            return supervised_contrastive(states, torch.from_numpy(rows.targets[numbers]), self.temperature)

        def probe() -> None:
            studied.model.train()
            loss(studied.model, next(batches(0))).backward()
            studied.model.zero_grad(set_to_none=True)

        return train(
            studied.model,
            within(plan, context.seconds, probe, context.work),
            batches,
            loss,
            checkpoints=context.work / "checkpoints",
            progress=context.progress,
            what="contrasting",
        )

    def steps(self, n_rows: int, n_classes: int) -> int:
        """Updates: `passes` over the rows, as far as the cap on pairs allows."""
        per_class = self.batch_size // min(CLASSES, n_classes)
        in_batch = min(CLASSES, n_classes) * per_class * (per_class - 1) // 2
        return max(20, min(self.passes * n_rows // self.batch_size, self.pairs // max(1, in_batch)))


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
