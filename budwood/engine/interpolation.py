"""Weights between those before and after fine-tuning, which on small data are better than either end of the line.

Method: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv:2109.01903). Import inside functions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from budwood.engine.batching import Rows, run
from budwood.engine.graft import Lesson

__all__ = ["SHARES", "mix", "snapshot"]

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the fine-tuned weights that are tried."""

Weights = Mapping[str, Tensor]


def snapshot(model: nn.Module) -> Weights:
    """A copy of the weights and buffers."""
    return {name: item.detach().clone() for name, item in model.state_dict().items()}


def mix(studied: Lesson, before: Weights, share: float | None) -> float:
    """Leave the model with `share` of its weights and the rest of those before; gives the share.

    None takes the share whose answers on the held-out rows are best once they are calibrated, and all of the weights
    where there are no such rows.
    """
    after = snapshot(studied.model)
    if share is None:
        share = best_share(studied, before, after)
    interpolate(studied.model, before, after, share)
    return share


def best_share(studied: Lesson, before: Weights, after: Weights) -> float:
    held = Rows(studied.task, studied.encoder, studied.splits.validation.rows)
    if not len(held):
        return 1.0
    found = {}
    for share in SHARES:
        interpolate(studied.model, before, after, share)
        found[share] = quality(studied, held)
    return max(SHARES, key=found.__getitem__)


def interpolate(model: nn.Module, before: Weights, after: Weights, share: float) -> None:
    """Put `(1 - share) * before + share * after` into the model; whole numbers, such as counters, are those after."""
    mixed = {
        name: torch.lerp(before[name], item, share) if item.is_floating_point() else item
        for name, item in after.items()
    }
    model.load_state_dict(mixed)


def quality(studied: Lesson, held: Rows) -> float:
    """Mean quality of the answers on held-out rows, calibrated on them."""
    logits = run(studied.model, held, "logits")
    calibration = studied.task.calibrate(logits, held.targets)
    answers = studied.task.decode({"logits": logits}, calibration, logits.shape[1])
    return float(studied.task.quality(answers, held.rows).mean())
