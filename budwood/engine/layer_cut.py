"""Leave layers out of a transformer whose configuration says how many it has. Import only inside functions."""

from typing import Any

import numpy as np
from torch import nn

from budwood.core.errors import StepError

__all__ = ["SPACINGS", "depth_of", "find_stack", "keep_layers", "kept_layers"]

EVEN, ALTERNATE = "even", "alternate"
SPACINGS = (EVEN, ALTERNATE)
WHERE = "shrink.drop_layers"


def kept_layers(total: int, layers: int, spacing: str = EVEN) -> list[int]:
    """The numbers of `layers` of `total` layers.

    `even` spreads them with the first and the last among them; `alternate` takes every `total / layers`-th from the
    first on (DistilBERT: Sanh et al. 2019, arXiv:1910.01108).

    Raises:
        StepError: so many cannot be kept, or there is no such spacing.
    """
    if not 1 <= layers < total:
        raise StepError(
            f"the model has {total} layers, so {layers} cannot be kept",
            where=WHERE,
            fix=f"keep between 1 and {total - 1}" if total > 1 else "leave this step out",
        )
    if spacing not in SPACINGS:
        raise StepError(f"there is no spacing {spacing!r}", where=WHERE, fix=f"one of: {', '.join(SPACINGS)}")
    if spacing == ALTERNATE:
        return [number * total // layers for number in range(layers)]
    return [int(number) for number in np.unique(np.linspace(0, total - 1, layers).round())]


def depth_of(encoder: Any) -> int:
    """How many layers the configuration states; 0 where it states none, or counts stages of unlike layers."""
    config = getattr(encoder, "config", None)
    if config is None or not isinstance(getattr(config, "num_attention_heads", None), int):
        return 0
    stated = getattr(config, "num_hidden_layers", None)
    return stated if isinstance(stated, int) else 0


def find_stack(model: Any) -> nn.ModuleList | None:
    """The list of layers of a model, or of its encoder or body; None where its configuration describes none."""
    found = locate(model)
    return None if found is None else getattr(*found)


def locate(model: Any) -> tuple[nn.Module, str] | None:
    """The module that holds the list of layers, and the list's name in it."""
    encoder = encoder_of(model)
    total = depth_of(encoder)
    for module in encoder.modules() if total else ():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == total and alike(child):
                return module, name
    return None


def encoder_of(model: Any) -> Any:
    """The transformers model inside of a model with a head."""
    for name in ("encoder", "body"):
        inner = getattr(model, name, None)
        if inner is not None and hasattr(inner, "config"):
            return inner
    return model


def alike(layers: nn.ModuleList) -> bool:
    """Whether any layer can follow any other: their weights of the same name have the same shape."""
    shapes: dict[str, Any] = {}
    return all(shapes.setdefault(name, item.shape) == item.shape for x in layers for name, item in x.named_parameters())


def keep_layers(model: Any, layers: int, spacing: str = EVEN) -> list[int]:
    """Remove all but `layers` layers in place, say so in the configuration, and return which ones are kept.

    Raises:
        StepError: there is no stack of layers that the configuration describes, or not more than `layers`.
    """
    encoder = encoder_of(model)
    total = depth_of(encoder)
    found = locate(model)
    if total and not 1 <= layers < total:
        kept_layers(total, layers, spacing)
    if found is None:
        raise StepError(
            "the model has no list of layers to cut that its configuration describes",
            where=WHERE,
            fix="leave this step out: convolutional networks lose channels instead, or learn a smaller base",
        )
    holder, name = found
    stack = getattr(holder, name)
    kept = kept_layers(total, layers, spacing)
    setattr(holder, name, nn.ModuleList([stack[number] for number in kept]))
    for place, layer in enumerate(getattr(holder, name)):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):  # its place in a decoder's cache
                module.layer_idx = place
    kinds = getattr(encoder.config, "layer_types", None)
    if isinstance(kinds, list):  # ModernBERT alternates local and global attention
        encoder.config.layer_types = [kinds[number] for number in kept]
    encoder.config.num_hidden_layers = len(kept)
    return kept
