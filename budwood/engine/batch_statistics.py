"""BatchNorm after a cut: each channel gets the mean and the spread again that it had before.

Fewer channels sum to other means, and statistics that stay still would pass them on. Setting them anew on some rows
repairs most of it without training (as He et al. 2017, arXiv:1707.06168, found). Import only inside functions.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from budwood.engine.channel_cuts import Cuts

__all__ = ["moments", "restore_moments"]

Moments = Mapping[str, tuple[Tensor, Tensor]]
"""Module name to the mean and the variance of what enters it, each of shape (channels,)."""
LEAST = 1e-8
MOST = 100.0
"""The largest factor by which a spread is changed: what hardly varied at all says nothing."""


def moments(model: nn.Module, inputs: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of what enters each BatchNorm, in one pass in evaluation mode."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, module: Any, entering: Tensor) -> None:
        found[name] = of(entering)

    with before_norms(model, look):
        run(model, inputs)
    return found


def restore_moments(model: nn.Module, inputs: Any, before: Moments, cuts: Cuts) -> None:
    """Change the statistics so that what leaves each BatchNorm has its mean and spread of `before`, in place.

    One pass does it for all: each norm is set before it is used, so that the next one sees what it will see. Networks
    whose statistics were folded into the convolutions keep what they compute, since ratios are set and not values.

    Args:
        inputs: those that `before` is of.
        cuts: what was cut in between.
    """

    def settle(name: str, module: Any, entering: Tensor) -> None:
        if name not in before or module.running_mean is None:
            return
        old_mean, old_variance = before[name]
        if kept := cuts.get(name, {}).get("outputs"):
            old_mean, old_variance = old_mean[kept], old_variance[kept]
        mean, variance = of(entering)
        ratio = ((old_variance + LEAST) / (variance + LEAST)).clamp(1 / MOST, MOST)
        offset = (old_mean - module.running_mean) / ratio.sqrt()
        module.running_mean = mean - offset
        module.running_var = ((module.running_var + module.eps) / ratio - module.eps).clamp(min=0.0)

    with before_norms(model, settle):
        run(model, inputs)


def of(entering: Tensor) -> tuple[Tensor, Tensor]:
    across = [0, *range(2, entering.ndim)]
    variance, mean = torch.var_mean(entering.float(), dim=across, correction=0)
    return mean, variance


@contextmanager
def before_norms(model: nn.Module, look: Any) -> Any:
    """Call `look(name, module, what enters it)` for each BatchNorm of each pass."""
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: look(name, module, inputs[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def run(model: nn.Module, inputs: Any) -> Any:
    """One pass with a tensor, a tuple of positional or a dictionary of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
