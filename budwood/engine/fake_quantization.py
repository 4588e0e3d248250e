"""Rounding to 8 bits inside a torch module while it trains, with gradients that pass straight through.

Jacob et al. 2018 (arXiv:1712.05877), Bengio et al. 2013 (arXiv:1308.3432). Import only inside functions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ranges", "rounded", "weighted"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
STEPS = 255
Range = tuple[float, float]


def weighted(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that are quantized later: convolutions and products with weights, but for the head, by name."""
    head = getattr(model, "head", None)
    kept = set(head.modules()) if isinstance(head, nn.Module) else set()
    return {name: item for name, item in model.named_modules() if isinstance(item, LAYERS) and item not in kept}


def ranges(model: nn.Module, run: Callable[[], Any]) -> dict[str, Range]:
    """The least and the greatest input of each of these layers during `run`, zero among them."""
    found: dict[str, Range] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = found.get(name, (0.0, 0.0))
            least, most = torch.aminmax(inputs[0].detach())
            found[name] = (min(low, float(least)), max(high, float(most)))

        return look

    hooks = [item.register_forward_pre_hook(watch(name)) for name, item in weighted(model).items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def rounded(model: nn.Module, spans: dict[str, Range], bits: int = 8) -> Iterator[None]:
    """Inside, the layers compute with weights and inputs rounded to integers; the weights themselves stay in float.

    Weights: symmetric, one scale for each output channel, as ONNX graphs have them; folding a BatchNorm into them later
    multiplies channels and changes nothing. Inputs: one range, unsigned with a zero point. A gradient passes a rounding
    unchanged, and stops where a value lies outside its range.

    Args:
        spans: the range of each layer's inputs, as `ranges` gives; other layers stay as they are.
        bits: of the weights; 7, from -64 to 64 as in the graphs, where the CPU adds products in 16 bits.
    """
    layers = {name: item for name, item in weighted(model).items() if name in spans}
    for name, layer in layers.items():
        layer.forward = forward_of(layer, spans[name], bits)  # taken back below
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward


def forward_of(layer: nn.Module, span: Range, bits: int) -> Callable[[Tensor], Tensor]:
    scale = max((span[1] - span[0]) / STEPS, 1e-12)
    zero = min(STEPS, max(0, round(-span[0] / scale)))
    product: Any = layer._conv_forward if isinstance(layer, (nn.Conv1d, nn.Conv2d)) else nn.functional.linear

    def forward(inputs: Tensor) -> Tensor:
        near = torch.fake_quantize_per_tensor_affine(inputs, scale, zero, 0, STEPS)
        result: Tensor = product(near, rounded_weight(layer.weight, bits), layer.bias)
        return result

    return forward


def rounded_weight(weight: Any, bits: int) -> Tensor:
    most = 127 if bits == 8 else 2 ** (bits - 1)  # with fewer than 8 bits the largest is no overflow
    scale = weight.detach().abs().flatten(1).amax(dim=1).clamp_min(1e-12) / most
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -most, most)
