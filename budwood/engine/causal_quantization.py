"""Decoder graphs with 8-bit or 4-bit weights. Import only inside functions.

Use it where a generator is quantized. The vocabulary's weights stand in the graph twice, as a lookup and as the last
product; here both read one table of 8-bit blocks, because a wrong word costs more than a wrong weight inside.
"""

from collections.abc import Container, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from budwood.core import registry
from budwood.core.errors import StepError
from budwood.core.task import Arrays
from budwood.engine.weight_rounding import in_blocks, rounded

__all__ = ["Weights", "input_moments", "quantize_decoder"]

FUSED, GATHER = "com.microsoft", "GatherBlockQuantized"
INT8_ACCURACY = 4
"""ONNX Runtime's name for sums of 8-bit numbers: activations are rounded to 8 bits, too, block by block."""

Weights = Literal["int8", "blocks-8", "blocks-4"]
"""`int8`: a scale for each output, the fastest for many texts at once. `blocks-8`, `blocks-4`: one for each block of
weights, the nearest and the smallest. In all of them each row of activations is rounded at run time, by itself."""


def quantize_decoder(
    source: Path,
    target: Path,
    weights: Weights,
    *,
    block: int = 32,
    reduce_range: bool = False,
    moments: Mapping[str, NDArray[Any]] | None = None,
) -> int:
    """Write the float decoder graph of `source` with quantized weights to `target`. Gives how many products it has.

    Args:
        block: inputs that share a scale, a power of two from 16; of the vocabulary too.
        reduce_range: 7 of 8 bits for `int8`, where the CPU's sums of 8-bit products overflow.
        moments: what `input_moments` gave for this graph; 4-bit weights are then rounded for these inputs.

    Raises:
        StepError: the graph has no matrix product with weights, or a weight is no number.
    """
    graph = Rewriter(onnx.load(str(source)), moments or {})
    count = graph.rewrite(weights, block, reduce_range)
    if not count:
        raise StepError("the graph has no matrix product with weights to quantize", where=str(source))
    onnx.save_model(graph.model, str(target))
    return count


def input_moments(source: Path, batches: Iterable[Arrays]) -> dict[str, NDArray[np.float32]]:
    """For each product's weights, the sums of products of the inputs that it got: (inputs, inputs).

    Args:
        batches: inputs of the graph; columns that `attention_mask` leaves out do not count.
    """
    model = onnx.load(str(source))
    known = {item.name for item in model.graph.initializer}
    places = {node.input[1]: node.input[0] for node in model.graph.node if is_inner_product(node, known)}
    wanted = sorted(set(places.values()))
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    sums = dict.fromkeys(wanted, np.float32(0))
    with closing(registry.get("runtimes", "onnxruntime")(model.SerializeToString())) as runtime:
        for batch in batches:
            outputs = runtime.run(batch)
            there = batch["attention_mask"].astype(bool)
            for name in wanted:
                states = outputs[name].reshape(*there.shape, -1)[there]
                sums[name] = sums[name] + states.T @ states
    return {weights: np.asarray(sums[states], np.float32) for weights, states in places.items()}


def is_inner_product(node: onnx.NodeProto, weights: Container[str]) -> bool:
    return node.op_type in ("MatMul", "Gemm") and node.input[1] in weights and "logits" not in node.output


class Rewriter:
    """One graph that is changed in place."""

    def __init__(self, model: onnx.ModelProto, moments: Mapping[str, NDArray[Any]]) -> None:
        self.model, self.graph, self.moments = model, model.graph, moments
        self.weights = {item.name: item for item in model.graph.initializer}
        # A product with weights that are also looked up has them transposed.
        turned = (node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in self.weights)
        self.turned = {str(node.output[0]): str(node.input[0]) for node in turned}
        self.nodes: list[onnx.NodeProto] = []
        self.tables: dict[str, list[str]] = {}

    def rewrite(self, weights: Weights, block: int, reduce_range: bool) -> int:
        count = 0
        for node in self.graph.node:
            if node.op_type in ("MatMul", "Gemm") and self.source(node) in self.weights:
                count += 1
                head = "logits" in node.output
                if weights == "int8" and not head:
                    self.whole_rows(node, reduce_range)
                else:
                    self.in_blocks(node, block, 4 if weights == "blocks-4" and not head else 8)
            elif node.op_type == "Gather" and node.input[1] == "input_ids":
                self.look_up(node, block)
            else:
                self.nodes.append(node)
        self.finish()
        return count

    def source(self, node: onnx.NodeProto) -> str:
        name = str(node.input[1])
        return self.turned.get(name, name)

    def matrix(self, node: onnx.NodeProto) -> NDArray[np.float32]:
        """What a product multiplies with, as (inputs, outputs)."""
        values = self.array(self.source(node))
        turns = any(item.name == "transB" and item.i for item in node.attribute)
        return values.T if turns != (node.input[1] in self.turned) else values

    def array(self, name: str) -> NDArray[np.float32]:
        """Raises StepError when a weight is not a number."""
        values = np.asarray(numpy_helper.to_array(self.weights[name]), np.float32)
        if not np.isfinite(values).all():
            raise StepError(f"{name} has weights that are infinite or no numbers", fix="train the model again")
        return values

    def add(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.weights[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def replace(
        self, node: onnx.NodeProto, kind: str, inputs: list[str], domain: str = FUSED, **attributes: Any
    ) -> None:
        """Put another node in the place of a product, and behind it the bias that a `Gemm` has."""
        outputs = list(node.output)
        if biased := len(node.input) > 2:
            outputs = [f"{node.output[0]}.product"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=node.name, domain=domain, **attributes))
        if biased:
            self.nodes.append(helper.make_node("Add", [outputs[0], node.input[2]], list(node.output)))

    def whole_rows(self, node: onnx.NodeProto, reduce_range: bool) -> None:
        """Signed weights with a scale for each output, and activations with a scale for each row.

        ONNX Runtime's own dynamic quantization has one scale for a whole batch: a text would depend on those beside
        it, and one token with large activations, such as the first of a text, would make those of all others coarse.
        So rows are divided by their largest number, and all of them are rounded on the same fixed scale.
        """
        numbers, scales = rounded(self.matrix(node), 63 if reduce_range else 127)
        name, states = self.source(node), node.input[0]
        most = self.put("ReduceMax", [self.put("Abs", [states], f"{name}.sizes")], f"{name}.largest", axes=[-1])
        size = self.put("Max", [most, self.add("least", np.float32(1e-9))], f"{name}.size")
        unit = self.put("Div", [states, size], f"{name}.unit")
        scale, zero = self.add("unit.scale", np.float32(1 / 127)), self.add("unit.zero", np.uint8(128))
        whole = self.put("QuantizeLinear", [unit, scale, zero], f"{name}.whole")
        inputs = [whole, self.add(f"{name}.numbers", numbers), scale, self.add(f"{name}.scales", scales), zero]
        product = self.put("MatMulIntegerToFloat", inputs, f"{name}.units", domain=FUSED)
        self.replace(node, "Mul", [product, size], "")

    def put(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def in_blocks(self, node: onnx.NodeProto, block: int, bits: int) -> None:
        matrix = self.matrix(node).T
        outputs, width = matrix.shape
        sizes: dict[str, Any] = {
            "K": width,
            "N": outputs,
            "bits": bits,
            "block_size": block,
            "accuracy_level": INT8_ACCURACY,
        }
        self.replace(node, "MatMulNBits", [node.input[0], *self.table(self.source(node), matrix, block, bits)], **sizes)

    def table(self, name: str, matrix: NDArray[np.float32], block: int, bits: int) -> list[str]:
        """The names of a matrix's blocks, scales and zeros, made once for all that use it."""
        if name not in self.tables:
            found = in_blocks(matrix, block, bits, self.moments.get(name))._asdict()
            self.tables[name] = [self.add(f"{name}.{part}", found[part]) for part in found]
        return self.tables[name]

    def look_up(self, node: onnx.NodeProto, block: int) -> None:
        """The embedding of each token, from the table that the last product reads where the two are tied."""
        name = node.input[0]
        values = self.array(name)
        if values.shape[1] % block:  # the lookup takes whole blocks only
            self.nodes.append(node)
            return
        numbers, scales, zeros = self.table(name, values, block, 8)
        shape = self.add(f"{name}.shape", np.asarray(values.shape, np.int64))
        self.nodes.append(helper.make_node("Reshape", [numbers, shape], [f"{name}.rows"]))
        inputs = [f"{name}.rows", node.input[1], scales, zeros]
        sizes: dict[str, Any] = {"bits": 8, "block_size": block, "quantize_axis": 1, "gather_axis": 0}
        self.replace(helper.make_node("Gather", inputs[:2], node.output, name=node.name), GATHER, inputs, **sizes)

    def finish(self) -> None:
        """Leave out what nothing reads any more."""
        read = {name for node in self.nodes for name in node.input}
        nodes = [node for node in self.nodes if node.output[0] not in self.turned or node.output[0] in read]
        read = {name for node in nodes for name in node.input}
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(item for name, item in self.weights.items() if name in read)
