"""An ONNX graph as OpenVINO reads it, with the fused attention that our exporter writes put into words it knows.

OpenVINO has a translation of its own for `com.microsoft.Attention`, which fails on batches of texts whose padding is
told by lengths. This one gives its scaled dot-product attention a mask made of these lengths.
"""

from typing import Any

import numpy as np

from budwood.core.errors import BundleError, require

__all__ = ["read_graph"]

FUSED = "Attention"
DOMAIN = "com.microsoft"
MASK = 3
"""The position of the mask among the inputs: tokens, weights, bias, mask, past, added scores."""
REFUSED_ATTRIBUTES = ("unidirectional", "do_rotary", "past_present_share_buffer")


def read_graph(model: bytes) -> tuple[Any, Any]:
    """OpenVINO's core and the graph in it.

    Raises:
        BundleError: the graph holds an operator that OpenVINO does not know, or is damaged.
    """
    openvino = require("openvino", extra="openvino")
    frontend = require("openvino.frontend.onnx", extra="openvino")
    core = openvino.Core()
    core.add_extension(frontend.ConversionExtension(FUSED, DOMAIN, attention))
    try:
        return core, core.read_model(model=model)
    except Exception as error:  # bare RuntimeError for every kind of failure
        raise refused(error) from error


def attention(node: Any) -> Any:
    """Multi-head self-attention (Vaswani et al. 2017) of `com.microsoft.Attention`, as its description states it.

    Raises:
        ValueError: the node uses more of the operator than our exporter does.
    """
    ops = require("openvino.opset13", extra="openvino")
    inputs = [node.get_input(index) for index in range(min(node.get_input_size(), MASK + 1))]
    if node.get_input_size() > MASK + 1 or any(node.get_attribute(name, 0) for name in REFUSED_ATTRIBUTES):
        raise ValueError("fused attention with a cache, a bias or a direction")
    heads = node.get_attribute("num_heads")
    states, weight, bias = inputs[:MASK]
    together = ops.add(ops.matmul(states, weight, False, False), bias)
    # (batch, tokens, 3 * width) to three of (batch, heads, tokens, width / heads)
    parted = ops.reshape(together, np.array([0, 0, 3, heads, -1], np.int64), True)
    thirds = ops.split(ops.transpose(parted, np.array([2, 0, 3, 1, 4], np.int64)), np.int64(0), 3)
    query, key, value = (ops.squeeze(thirds.output(index), np.array([0], np.int64)) for index in range(3))
    masks = [ops.unsqueeze(seen(ops, states, mask), np.array([1, 2], np.int64)) for mask in inputs[MASK:]]
    mixed = ops.scaled_dot_product_attention(query, key, value, *masks)
    joined = ops.reshape(ops.transpose(mixed, np.array([0, 2, 1, 3], np.int64)), np.array([0, 0, -1], np.int64), True)
    return joined.outputs()


def seen(ops: Any, states: Any, mask: Any) -> Any:
    """Which tokens may be looked at, boolean of shape (batch, tokens), from their mask or from each row's length."""
    rank = mask.get_partial_shape().rank
    if rank.is_static and rank.get_length() == 2:
        return ops.not_equal(mask, ops.convert_like(np.int64(0), mask))
    if rank.is_dynamic or rank.get_length() != 1:
        raise ValueError("fused attention with a mask of an unknown shape")
    tokens = ops.gather(ops.shape_of(states), np.int64(1), np.int64(0))
    positions = ops.unsqueeze(ops.range(np.int64(0), tokens, np.int64(1), "i64"), np.int64(0))
    return ops.less(positions, ops.unsqueeze(ops.convert(mask, "i64"), np.int64(1)))


def refused(error: Exception, what: str = "load the graph") -> BundleError:
    """The error of a graph that OpenVINO cannot run, with the operators that it does not know where it names them."""
    text = str(error)
    mark = "No conversion rule found for operations:"
    if mark in text:
        unknown = text.partition(mark)[2].strip().splitlines()[0].strip()
        return BundleError(
            f"OpenVINO does not know these operators: {unknown}",
            where="the ONNX graph",
            fix="--runtime onnxruntime, whose own operators they are; the float parent runs in both",
        )
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    return BundleError(f"OpenVINO cannot {what}: {last[:300]}", where="the ONNX graph", fix="--runtime onnxruntime")
