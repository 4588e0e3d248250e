"""torch module to ONNX file, with attention and normalisation fused. Import only inside functions.

The TorchScript exporter is used on purpose: ONNX Runtime's fusion recognises its graphs as a whole (521 nodes become
about 60 for a 6-layer BERT), and only the fused graph quantizes.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["export_graph", "fuse"]

OPSET = 17


class Positional(nn.Module):
    """The exporter wants tensors in and a tuple out."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(result[name] for name in self.outputs)


def export_graph(model: nn.Module, sample: Mapping[str, Tensor], outputs: Sequence[str], path: Path) -> None:
    """Write `model` as ONNX; the batch, and the length of token rows, stay free. `sample` gives names and types."""
    wrapper = Positional(model, list(sample), outputs).eval()
    axes: dict[str, dict[int, str]] = {
        name: {0: "batch", 1: "sequence"} if value.ndim == 2 else {0: "batch"} for name, value in sample.items()
    }
    axes |= {name: {0: "batch"} for name in outputs}
    write_graph(wrapper, sample, outputs, axes, path)


def write_graph(
    wrapper: nn.Module,
    sample: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    """Trace a module that takes the sample's tensors in order and gives a tuple; `axes` names what stays free."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecation and of traced shapes
        torch.onnx.export(
            wrapper,
            tuple(sample.values()),
            str(path),
            input_names=list(sample),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def fuse(path: Path, config: Any) -> dict[str, int]:
    """Fuse attention, layer norms and GELU in place. Gives how many of each were fused; a net without attention, none.

    ONNX Runtime folds convolutions and their activations by itself when it loads the graph.
    """
    from onnxruntime.transformers import optimizer

    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return {}
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    kind = "vit" if hasattr(config, "patch_size") else "bert"
    model = optimizer.optimize_model(
        str(path), model_type=kind, num_heads=heads, hidden_size=int(config.hidden_size), opt_level=0
    )
    model.save_model_to_file(str(path))
    return {name: int(n) for name, n in model.get_fused_operator_statistics().items() if n}
