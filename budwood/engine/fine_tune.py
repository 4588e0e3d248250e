"""Supervised fine-tuning of a grafted model: what `full` and `lora` share. Import only inside functions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from budwood.core.step import Context
from budwood.engine.batching import Rows, freeze_lookups, run
from budwood.engine.graft import Lesson
from budwood.engine.planning import epochs_for, within
from budwood.engine.train import Plan, Trained, train

__all__ = ["fine_tune", "trained_report", "validation_score"]

Batch = tuple[dict[str, Tensor], Tensor]


def fine_tune(
    studied: Lesson,
    context: Context,
    what: str,
    *,
    rate: float,
    head_rate: float,
    batch_size: int,
    epochs: int | None,
    first_layer: float = 1.0,
    stop_early: bool = True,
) -> Trained:
    """Train on the train rows; where `stop_early`, stop by the validation rows and keep the best epoch."""
    rows = Rows(studied.task, studied.encoder, studied.splits.train.rows)
    held = Rows(studied.task, studied.encoder, studied.splits.validation.rows)
    freeze_lookups(studied.model)
    per_epoch = rows.steps(batch_size)
    epochs = epochs or epochs_for(per_epoch)
    plan = Plan(epochs, per_epoch, rate, head_rate, seed=context.seed, first_layer=first_layer)

    def batches(epoch: int) -> Iterator[Batch]:
        for index, numbers in enumerate(rows.epoch(batch_size, context.seed, epoch)):
            random = np.random.default_rng([context.seed, epoch, index])  # the same whether the run was resumed or not
            yield rows.batch(numbers, random), torch.from_numpy(rows.targets[numbers])

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        value: Tensor = studied.task.loss(model(**batch[0]), batch[1])
        return value

    return train(
        studied.model,
        within(plan, context.seconds, studied.model, batches, loss, context.work),
        batches,
        loss,
        evaluate=(lambda model: validation_score(studied, model, held)) if stop_early and len(held) else None,
        checkpoints=context.work / "checkpoints",
        progress=context.progress,
        seconds=context.seconds,
        what=what,
    )


def validation_score(studied: Lesson, model: nn.Module, held: Rows) -> float:
    """The headline metric on held-out rows; the loss breaks ties between epochs that few rows cannot tell apart."""
    outputs = run(model, held, "logits")
    answers = studied.task.decode({"logits": outputs}, {}, 1)
    nll = float(studied.task.loss({"logits": torch.from_numpy(outputs)}, torch.from_numpy(held.targets)))
    return float(studied.task.row_scores(answers, held.rows).mean()) - 1e-4 * min(nll, 10.0)


def trained_report(trained: Trained) -> dict[str, Any]:
    """The facts of a run for the bundle."""
    history = [list(item) for item in trained.history]
    return {"steps": trained.steps, "stopped": trained.stopped, "history": history, **trained.not_applied}
