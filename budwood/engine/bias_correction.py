"""Biases of a quantized graph such that each convolution gives, on average, what it gave in float.

Rounding shifts the mean of a channel, and the shifts of fifty layers add up: in networks of thin convolutions they cost
more than the rounding itself. The layers are corrected one after the other, each behind those that are corrected
already (Nagel et al. 2019, arXiv:1906.04721, section 4.2, with measured means). Import only inside functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from budwood.core import registry
from budwood.core.task import Arrays

__all__ = ["corrected"]

CORRECTED = ("Conv",)
Means = dict[str, NDArray[np.float64]]


def corrected(graph: bytes, model: ModelProto, feeds: Sequence[Arrays]) -> bytes:
    """The quantized `graph` with other biases; what is no convolution with a bias stays.

    Args:
        graph: in QDQ form, its nodes named as in `model`.
        model: the float graph.
        feeds: rows in batches; the rows that set the ranges will do.
    """
    quantized = onnx.load_from_string(graph)
    biases = stored_biases(quantized)
    names = [node.name for node in quantized.graph.node if node.op_type in CORRECTED and node.name in biases]
    known = {node.name for node in model.graph.node}
    names = [name for name in names if name in known]
    if not names:
        return graph
    wanted = means(model, names, feeds)
    for name in names:
        shift(*biases[name], wanted[name] - means(quantized, [name], feeds)[name])
    content: bytes = quantized.SerializeToString()
    return content


def stored_biases(model: ModelProto) -> dict[str, tuple[TensorProto, NDArray[np.float64]]]:
    """By the names of their nodes: the stored bias of each convolution, and the value of one of its steps.

    A bias in 32 bits has the step of its DequantizeLinear; a float one, of a layer that was left in float, has 1.
    """
    stored = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type not in CORRECTED or len(node.input) < 3:
            continue
        source = node.input[2]
        maker = makers.get(source)
        if maker is not None and maker.op_type == "DequantizeLinear":
            tensor, scale = stored.get(maker.input[0]), stored.get(maker.input[1])
            if tensor is not None and scale is not None:
                found[node.name] = (tensor, numpy_helper.to_array(scale).astype(np.float64))
        elif source in stored:
            found[node.name] = (stored[source], np.ones(1))
    return found


def shift(tensor: TensorProto, step: NDArray[np.float64], change: NDArray[np.float64]) -> None:
    """Add to a stored bias, in whole steps where it is stored in 32 bits."""
    value = numpy_helper.to_array(tensor)
    moved = value.astype(np.float64) + change / step
    if value.dtype.kind == "i":
        limits = np.iinfo(value.dtype)
        moved = np.clip(np.rint(moved), limits.min, limits.max)
    tensor.CopyFrom(numpy_helper.from_array(moved.astype(value.dtype), tensor.name))


def means(model: ModelProto, names: Iterable[str], feeds: Sequence[Arrays]) -> Means:
    """The mean output of each channel of these nodes, over all rows and places."""
    outputs = {node.output[0]: node.name for node in model.graph.node if node.name in set(names)}
    sums: Means = {}
    rows = 0
    with closing(registry.get("runtimes", "onnxruntime")(part(model, outputs).SerializeToString())) as runtime:
        for feed in feeds:
            size = len(next(iter(feed.values())))
            rows += size
            for output, value in runtime.run(feed).items():
                mean = value.astype(np.float64).mean(axis=(0, *range(2, value.ndim)))
                sums[outputs[output]] = sums.get(outputs[output], 0.0) + size * mean
    return {name: total / rows for name, total in sums.items()}


def part(model: ModelProto, outputs: Mapping[str, str]) -> ModelProto:
    """The nodes that these tensors need, with the tensors as outputs."""
    nodes = list(model.graph.node)
    makers = {name: number for number, node in enumerate(nodes) for name in node.output}
    needed, tensors, waiting = set[int](), set(outputs), list(outputs)
    while waiting:
        number = makers.get(waiting.pop())
        if number is not None and number not in needed:
            needed.add(number)
            fresh = {name for name in nodes[number].input if name} - tensors
            tensors |= fresh
            waiting.extend(fresh)
    graph = helper.make_graph(
        [nodes[number] for number in sorted(needed)],
        "part",
        [item for item in model.graph.input if item.name in tensors],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [item for item in model.graph.initializer if item.name in tensors],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
