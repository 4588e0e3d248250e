"""ONNX graphs with 8-bit weights: what may be quantized, with which ranges, and what stays in float.

Import only inside functions: onnx and the quantization package of ONNX Runtime come with the extra `train`.
"""

import contextlib
import copy
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from budwood.core.errors import StepError, UsageError
from budwood.core.task import Arrays

__all__ = [
    "calibrated",
    "compact",
    "dynamic_graph",
    "dynamic_layers",
    "final_layers",
    "float_graph",
    "float_operators",
    "is_transformer",
    "layers",
    "prepared",
    "quiet",
    "static_graph",
    "unsigned",
]

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Attention")
"""Operators whose weights are worth storing in 8 bits. `Attention` has an integer kernel only where activations are
quantized at run time; `opened_attention` shows its matrix product to the others."""
DYNAMIC = ("Attention", "EmbedLayerNormalization", "Gather", "Gemm", "LSTM", "MatMul")
"""Operators that are quantized where ranges are found at run time: convolutions have no kernel for signed weights."""
INTEGER = ("Quantize", "Dequantize", "Integer", "QLinear", "QAttention", "QGemm", "NBits")
"""Parts of the names of operators that take or give integers for floats."""
TRANSFORMER = frozenset({"LayerNormalization", "SkipLayerNormalization", "Attention", "MultiHeadAttention"})
ACTIVATIONS = (
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Pad"),
    *("Relu", "Reshape", "Resize", "Sigmoid", "Split", "Squeeze", "Transpose"),
)
"""Operators between the layers of a convolutional network that have kernels for 8-bit numbers."""
FREE = frozenset({"Constant", "Shape", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"})
FREE |= {"Cast", "Concat", "Gather", "Identity", "Expand", "ConstantOfShape", "Range", "Where", "Equal"}
"""Operators that move numbers and compute none."""
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
MS_DOMAIN = "com.microsoft"


def float_graph(path: Path, where: str) -> ModelProto:
    """The graph of a file, whose nodes all have names.

    Raises:
        UsageError: the graph is quantized already.
        StepError: a weight is not a number, or infinite; the tensor is named.
    """
    model = onnx.load(str(path))
    integer = next(filter(is_integer, model.graph.node), None)
    if integer is not None:
        raise UsageError(
            f"the model is already quantized: its graph has {integer.op_type}",
            where=where,
            fix="quantize the float version it came from: budwood models lineage NAME",
        )
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise StepError(
                f"{bad:,} of {values.size:,} weights in {tensor.name} are infinite or not a number",
                where=where,
                fix="train it again with a lower learning rate, or take an earlier version",
            )
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def is_integer(node: NodeProto) -> bool:
    return any(part in node.op_type for part in INTEGER)


def prepared(model: ModelProto, work: Path) -> ModelProto:
    """Constants folded, padding and normalisation taken into convolutions, shapes inferred, attention opened.

    A fused attention hides the product with its weights; it becomes a matrix product and a multi-head attention.
    """
    work.mkdir(parents=True, exist_ok=True)
    source, target = work / "float.onnx", work / "prepared.onnx"
    onnx.save(opened_attention(model), str(source))
    with quiet():
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    found = float_graph(target, "the ONNX graph")
    source.unlink()
    target.unlink()
    return typed(found)


def typed(model: ModelProto) -> ModelProto:
    """The same graph, stating that fused operators give floats: the quantizer passes by what has no known type."""
    known = {item.name for item in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        outputs = node.output[:1] if node.domain == MS_DOMAIN else ()
        model.graph.value_info.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs if name not in known
        )
    return onnx.shape_inference.infer_shapes(model)


def opened_attention(model: ModelProto) -> ModelProto:
    """The same graph, with a product, a split and `MultiHeadAttention` for each `Attention` with packed weights."""
    opened = copy.deepcopy(model)
    nodes: list[NodeProto] = []
    for node in opened.graph.node:
        plain = node.op_type == "Attention" and node.domain == MS_DOMAIN and len(node.output) == 1
        nodes.extend(opened_one(node) if plain and not any(node.input[4:]) else [node])
    del opened.graph.node[:]
    opened.graph.node.extend(nodes)
    return opened


def opened_one(node: NodeProto) -> list[NodeProto]:
    values, weights, bias, *rest = node.input
    parts = [f"{node.name}_{part}" for part in ("packed", "query", "key", "value")]
    kept = [item for item in node.attribute if item.name in ("num_heads", "scale", "mask_filter_value")]
    attention = helper.make_node(
        "MultiHeadAttention", [*parts[1:], bias, *rest[:1]], list(node.output), name=node.name, domain=MS_DOMAIN
    )
    attention.attribute.extend(kept)
    return [
        helper.make_node("MatMul", [values, weights], [parts[0]], name=f"{node.name}_projection"),
        helper.make_node("Split", [parts[0]], parts[1:], name=f"{node.name}_split", axis=-1),
        attention,
    ]


def layers(model: ModelProto) -> list[str]:
    """Names of the nodes that multiply with constant weights, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED and any(i in constants for i in node.input[1:2])
    ]


def dynamic_layers(model: ModelProto) -> list[str]:
    """Of these layers, those that have an integer kernel for activations that are quantized at run time."""
    kinds = {node.name: node.op_type for node in model.graph.node}
    return [name for name in layers(model) if kinds[name] in DYNAMIC]


def final_layers(model: ModelProto) -> list[str]:
    """Layers that no further layer follows: the head of a classifier, the last convolutions of a detector."""
    known = set(layers(model))
    leads: dict[str, bool] = {}
    final = []
    for node in reversed(model.graph.node):
        behind = any(leads.get(name, False) for name in node.output)
        if node.name in known and not behind:
            final.append(node.name)
        for name in node.input:
            leads[name] = leads.get(name, False) or behind or node.name in known
    return final[::-1]


def is_transformer(model: ModelProto) -> bool:
    return any(node.op_type in TRANSFORMER for node in model.graph.node)


def calibrated(model: ModelProto, feeds: Iterable[Arrays], method: str, percentile: float, work: Path) -> Any:
    """The range of each activation over the feeds, as ONNX Runtime's quantizer takes them.

    Args:
        feeds: inputs of the graph in batches; they are read one at a time, so that few activations are held.
        method: `minmax` takes the extremes; `entropy` the cut that changes the distribution least (Migacz 2017, 8-bit
            Inference with TensorRT); `percentile` cuts off what lies beyond a share of the values.
        percentile: that share, in percent.
    """
    kind = quantization.CalibrationMethod[METHODS[method]]
    options: dict[str, Any] = {"percentile": percentile} if method == "percentile" else {}
    with tempfile.TemporaryDirectory(dir=work) as folder, quiet():
        path = Path(folder) / "graph.onnx"
        onnx.save(model, str(path))
        calibrator = create_calibrator(
            path, operators(model), str(Path(folder) / "watched.onnx"), kind, extra_options=options
        )
        for feed in feeds:
            calibrator.collect_data(One(feed))
        return calibrator.compute_data()


class One(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    """A reader of a single batch."""

    def __init__(self, feed: Arrays) -> None:
        self.feeds = [feed]

    def get_next(self) -> Arrays | None:
        return self.feeds.pop() if self.feeds else None


def operators(model: ModelProto) -> list[str]:
    """Between the products of a transformer are sums and functions that lose most in 8 bits, so those stay float."""
    present = {node.op_type for node in model.graph.node}
    wanted = WEIGHTED[:-1] if is_transformer(model) else (*WEIGHTED[:-1], *ACTIVATIONS)
    return sorted(present.intersection(wanted))


def static_graph(
    model: ModelProto,
    ranges: Any,
    keep_float: Collection[str],
    *,
    signed: bool = False,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> bytes:
    """QDQ form: activations and weights in 8 bits with fixed ranges, biases in 32.

    Args:
        keep_float: names of nodes that stay as they are.
        signed: whether activations are signed and symmetric (S8S8), instead of unsigned with a zero point (U8S8).
        reduce_range: 7 bits for the weights, where sums of pairs of products are held in 16 bits.
    """
    kinds = quantization.QuantType
    float_weights = [n.name for n in model.graph.node if n.op_type in WEIGHTED and n.name not in set(layers(model))]
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel,
        reduce_range,
        kinds.QInt8,
        kinds.QInt8 if signed else kinds.QUInt8,
        ranges,
        [],
        [*keep_float, *float_weights],
        operators(model),
        {
            "ActivationSymmetric": signed,
            "WeightSymmetric": True,
            "DefaultTensorType": 1,  # FLOAT, for tensors whose type inference leaves open
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"] if is_transformer(model) else [],
        },
    )
    with quiet():
        quantizer.quantize_model()
    content: bytes = compact(quantizer.model.model).SerializeToString()
    return content


def compact(model: ModelProto) -> ModelProto:
    """Short names inside the graph, and no inferred shapes: a tenth of a small file. Nodes keep their names."""
    graph = model.graph
    del graph.value_info[:]
    fixed = {item.name for item in (*graph.input, *graph.output)} | {""}
    inside = [item.name for item in graph.initializer] + [name for node in graph.node for name in node.output]
    short = {name: f"t{number}" for number, name in enumerate(dict.fromkeys(inside)) if name not in fixed}
    for item in graph.initializer:
        item.name = short.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
    return model


def unsigned(model: ModelProto) -> ModelProto:
    """The same numbers with unsigned activations, by 128 higher: x86 is several times as fast with them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    signed = numpy_helper.from_array(np.zeros(0, np.int8)).data_type
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in constants:
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.data_type != signed:
            continue
        name = f"{zero.name}_unsigned"
        if name not in constants:
            moved = numpy_helper.to_array(zero).astype(np.int16) + 128
            constants[name] = numpy_helper.from_array(moved.astype(np.uint8), name)
            model.graph.initializer.append(constants[name])
        node.input[2] = name
    return model


def dynamic_graph(
    model: ModelProto, keep_float: Collection[str], per_channel: bool, reduce_range: bool, work: Path
) -> bytes:
    """Signed 8-bit weights, symmetric, in every matrix product and lookup that has an integer kernel.

    The ranges of activations are found at run time, for each input by itself.
    """
    with tempfile.TemporaryDirectory(dir=work) as folder, quiet():
        target = Path(folder) / "quantized.onnx"
        quantization.quantize_dynamic(
            copy.deepcopy(model),
            target,
            op_types_to_quantize=list(DYNAMIC),
            nodes_to_exclude=list(keep_float),
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},  # FLOAT, for tensors whose type inference leaves open
        )
        return target.read_bytes()


def float_operators(content: bytes) -> dict[str, int]:
    """Operators of a quantized graph that compute in float, with how many there are of each."""
    graph = onnx.load_from_string(content).graph
    unpacked = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}

    def in_float(node: NodeProto) -> bool:
        # What scales a product that was quantized at run time is part of it, and fused with it when it is loaded.
        if node.op_type in FREE or is_integer(node) or "_quant" in node.name:
            return False
        if node.op_type not in (*WEIGHTED, *ACTIVATIONS):
            return True
        # A product in 8 bits needs both sides in them; other operators have one.
        needed = node.input[1:2] if node.op_type in WEIGHTED else node.input[:1]
        return not all(name in unpacked for name in needed)

    return dict(sorted(Counter(node.op_type for node in graph.node if in_float(node)).items()))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The quantizer advises what has been done, and prints how it looks for ranges."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
