"""Narrower transformers that their configuration still describes: fewer units in each feed-forward, fewer heads.

Every layer loses as many, the ones that matter least to it on training rows, so that one number in the configuration
says it. Import only inside functions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from budwood.core.errors import StepError
from budwood.engine.layer_cut import encoder_of, find_stack

__all__ = ["cut_feed_forward", "cut_heads", "feed_forward_width"]

WHERE = "shrink.prune_width"
FIELDS = ("intermediate_size", "hidden_dim", "n_inner")
"""What configurations call the width of the feed-forward."""
HEAD_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")

Losses = Callable[[], Iterable[Tensor]]
"""Gives the model's loss on batch after batch."""


@dataclass(frozen=True)
class Feed:
    """The feed-forward of one layer: what makes its units, and what reads them."""

    makers: tuple[nn.Module, ...]
    reader: nn.Module
    gated: int
    """2 where one layer makes the units and their gates side by side, else 1."""


def feed_forward_width(model: Any) -> tuple[str, int]:
    """What the configuration calls the width of the feed-forward, and the width.

    Raises:
        StepError: the configuration does not say it.
    """
    config = encoder_of(model).config
    for field in FIELDS:
        stated = getattr(config, field, None)
        if isinstance(stated, int):
            return field, stated
        if field == "n_inner" and hasattr(config, field):
            return field, 4 * int(config.hidden_size)
    raise StepError(
        "the configuration does not say how wide the feed-forward is",
        where=f"{WHERE}: {type(encoder_of(model)).__name__}",
        fix="use shrink.drop_layers, or shrink.prune_channels for networks of convolutions",
    )


def cut_feed_forward(model: Any, keep: float, losses: Losses, round_to: int = 32) -> tuple[int, int]:
    """Keep a share of the units of every layer, in place, and return the width before and after.

    A unit's importance is what the loss would change by without it, to first order (Michel et al. 2019,
    arXiv:1905.10650; Molchanov et al. 2019, arXiv:1906.10771). Their mean does not go into the bias: a few tokens with
    huge values make it, and it would harm all the others.

    Args:
        keep: share of the units.
        losses: the loss on training rows, batch by batch; `model` is in evaluation mode while it is asked.
        round_to: the new width is a multiple of it where the old one allows it.

    Raises:
        StepError: there is no feed-forward that the configuration describes, or nothing is left to cut.
    """
    field, width = feed_forward_width(model)
    feeds = feed_forwards(model, width)
    new = rounded(keep * width, width, round_to)
    seen = [Seen(feed.reader) for feed in feeds]
    look(model, seen, losses)
    for feed, found in zip(feeds, seen, strict=True):
        kept = strongest(found.importance(), new)
        for maker in feed.makers:
            sides = [unit + side * width for side in range(feed.gated) for unit in kept]
            keep_units(maker, outputs=sides)
        keep_units(feed.reader, inputs=kept)
    setattr(encoder_of(model).config, field, new)
    for module in model.modules():
        if getattr(module, "intermediate_size", None) == width:  # a copy of the configuration's number
            module.intermediate_size = new
    demand_described(model)
    return width, new


def rounded(wanted: float, width: int, round_to: int) -> int:
    step = round_to if width > round_to and width % round_to == 0 else 1
    new = max(step, round(wanted / step) * step)
    if not 0 < wanted < width or new >= width:
        raise StepError(f"of {width} units {wanted:g} cannot be kept", where=WHERE, fix="keep a share between 0 and 1")
    return new


def feed_forwards(model: Any, width: int) -> list[Feed]:
    """The feed-forward of each layer, found by its shape.

    Raises:
        StepError: a layer has none, or several parts that look like one.
    """
    stack = find_stack(model)
    if stack is None:
        raise StepError("the model has no list of like layers", where=WHERE, fix="use shrink.prune_channels")
    return [feed_of(layer, width) for layer in stack]


def feed_of(layer: nn.Module, width: int) -> Feed:
    parts = [module for module in layer.modules() if sizes(module)[0]]
    readers = [module for module in parts if sizes(module)[0] == width]
    makers = [module for module in parts if sizes(module)[1] == width and sizes(module)[0] != width]
    gated = [module for module in parts if sizes(module)[1] == 2 * width]
    found, times = (makers, 1) if makers else (gated, 2)
    if len(readers) != 1 or not 1 <= len(found) <= 2 or (times == 2 and len(found) != 1) or readers[0] in found:
        raise StepError(
            f"no feed-forward of {width} units is found in {type(layer).__name__}",
            where=WHERE,
            fix="use shrink.drop_layers",
        )
    return Feed(tuple(found), readers[0], times)


def sizes(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer, in either of the two forms that transformers has; 0 for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # GPT-2's: its weight lies the other way round
        return module.weight.shape[0], module.weight.shape[1]
    return 0, 0


def keep_units(module: Any, outputs: Sequence[int] | None = None, inputs: Sequence[int] | None = None) -> None:
    """Keep some outputs or inputs of a linear layer, in place."""
    across = 0 if isinstance(module, nn.Linear) else 1
    for numbers, dimension in ((outputs, across), (inputs, 1 - across)):
        if numbers is not None:
            module.weight = chosen(module.weight, numbers, dimension)
    if outputs is not None and module.bias is not None:
        module.bias = chosen(module.bias, outputs, 0)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    else:
        module.nx, module.nf = module.weight.shape


def chosen(parameter: Tensor, numbers: Sequence[int], dimension: int) -> nn.Parameter:
    part = parameter.detach().index_select(dimension, torch.as_tensor(numbers)).contiguous()
    return nn.Parameter(part, requires_grad=parameter.requires_grad)


class Seen:
    """How much the loss hangs on each unit that passes into a layer, shape (units,)."""

    def __init__(self, reader: nn.Module) -> None:
        self.change = torch.zeros(sizes(reader)[0])
        self.hook = reader.register_forward_pre_hook(lambda _, inputs: self.watch(inputs[0]))

    def watch(self, units: Tensor) -> None:
        if units.requires_grad:
            held = units.detach()
            units.register_hook(lambda gradient: self.add(held, gradient))  # type: ignore[no-untyped-call]

    def add(self, units: Tensor, gradient: Tensor) -> None:
        units, gradient = units.flatten(0, -2), gradient.flatten(0, -2)
        self.change += (units * gradient).abs().sum(dim=0)

    def importance(self) -> Tensor:
        if not bool(torch.isfinite(self.change).all()):
            raise StepError("the weights are not finite numbers", where=WHERE, fix="shrink another model")
        return self.change


def look(model: Any, seen: Sequence[Seen], losses: Losses) -> None:
    """Let rows pass forwards and backwards; the weights stay as they are."""
    frozen = [item for item in model.parameters() if not item.requires_grad]
    model.requires_grad_(True)
    model.eval()
    try:
        with torch.enable_grad():
            for loss in losses():
                loss.backward()  # type: ignore[no-untyped-call]
                model.zero_grad(set_to_none=True)
    finally:
        for item in seen:
            item.hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)


def strongest(importance: Tensor, count: int) -> list[int]:
    return sorted(importance.argsort(descending=True, stable=True)[:count].tolist())


def cut_heads(model: Any, keep: float, losses: Losses) -> tuple[int, int]:
    """Keep a share of the attention heads of every layer, in place, and return their number before and after.

    Only where the configuration can state the size of a head by itself (`head_dim`), as for ViT and Llama: elsewhere it
    is the width over the number of heads, so that fewer heads would be larger ones. Heads that share keys and values
    go together.

    Raises:
        StepError: the architecture ties the size of its heads to their number, or does not allow so many.
    """
    config = encoder_of(model).config
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    layers = [attention_of(layer, heads, groups) for layer in find_stack(model) or ()]
    size = next((item.head_dim for item in layers if item is not None), 0)
    if not layers or None in layers:
        raise StepError(
            "the size of a head is tied to their number here, so heads cannot be left out",
            where=f"{WHERE}: {type(encoder_of(model)).__name__}",
            fix="leave heads at 1",
        )
    new = rounded(keep * groups, groups, 1)
    seen = [Seen(layer.o_proj) for layer in layers]
    look(model, seen, losses)
    for layer, found in zip(layers, seen, strict=True):
        kept = strongest(found.importance().reshape(groups, -1).sum(dim=1), new)
        keep_units(layer.q_proj, outputs=spread(kept, heads // groups * size))
        keep_units(layer.k_proj, outputs=spread(kept, size))
        keep_units(layer.v_proj, outputs=spread(kept, size))
        keep_units(layer.o_proj, inputs=spread(kept, heads // groups * size))
    config.num_attention_heads, config.head_dim = new * heads // groups, size
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = new
    for layer in layers:
        for name in ("num_attention_heads", "num_heads"):
            if hasattr(layer, name):
                setattr(layer, name, config.num_attention_heads)
    demand_described(model)
    return heads, int(config.num_attention_heads)


def attention_of(layer: nn.Module, heads: int, groups: int) -> Any:
    """The attention of a layer; None where its parts are not those of the configuration's heads."""
    for module in layer.modules():
        parts: list[Any] = [getattr(module, name, None) for name in HEAD_PARTS]
        size = getattr(module, "head_dim", None)
        if isinstance(size, int) and all(isinstance(part, nn.Linear) for part in parts):
            outputs = [part.out_features // size for part in parts[:3]]
            if outputs == [heads, groups, groups] and parts[3].in_features == heads * size:
                return module
    return None


def demand_described(model: Any) -> None:
    """Raise StepError when a network of the configuration would have other shapes than the one at hand."""
    encoder = encoder_of(model)
    try:
        with torch.device("meta"):
            fresh = type(encoder)(encoder.config).state_dict()
    except Exception as error:  # each configuration in transformers raises its own kinds
        raise undescribed(encoder, str(error).splitlines()[0]) from error
    for name, item in encoder.state_dict().items():
        if name not in fresh or fresh[name].shape != item.shape:
            raise undescribed(encoder, f"{name} has the shape {tuple(item.shape)}")


def undescribed(encoder: Any, detail: str) -> StepError:
    return StepError(
        f"the configuration does not describe the narrower network: {detail}",
        where=f"{WHERE}: {type(encoder).__name__}",
        fix="keep another share, or use shrink.drop_layers",
    )


def spread(numbers: Sequence[int], size: int) -> list[int]:
    return [number * size + place for number in numbers for place in range(size)]
