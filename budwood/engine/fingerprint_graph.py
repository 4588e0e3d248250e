"""Models on molecular fingerprints as ONNX graphs, so that serving needs no scikit-learn. Needs `onnx`: training only.

Every graph takes `fingerprint` (batch, 2048) uint8 counts and gives `logits` and `spread`, both (batch, properties):
log odds for classes or values for a regression, and the standard deviation between the trees (or bootstrap models), of
the probability or of the value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.engine.molecules import BITS

__all__ = ["average_graph", "forest_graph", "linear_graph"]

OPSET = 17
ML_OPSET = 3
IR_VERSION = 8
EDGE = 1e-3
"""Probabilities are kept this far from 0 and 1, where no forest of some hundred trees can see further."""


@dataclass
class Sketch:
    """A graph in the making: nodes and constants; each method adds a node and gives the name of its output."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Attributes go to ONNX as they are."""
        from onnx import helper

        output = name or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def features(self, counts: bool) -> str:
        """The fingerprint as floats: counts, or 1 for each bit that is there."""
        from onnx import TensorProto

        floats = self.add("Cast", "fingerprint", to=TensorProto.FLOAT)
        return floats if counts else self.add("Min", floats, self.constant(1.0))

    def log_odds(self, probability: str, name: str) -> str:
        inside = self.add("Clip", probability, self.constant(EDGE), self.constant(1 - EDGE))
        return self.add("Log", self.add("Div", inside, self.add("Sub", self.constant(1.0), inside)), name=name)

    def deviation(self, mean: str, mean_square: str) -> str:
        variance = self.add("Sub", mean_square, self.add("Mul", mean, mean))
        return self.add("Sqrt", self.add("Max", variance, self.constant(0.0)), name="spread")

    def finish(self, mean: str, classification: bool) -> None:
        """Give the mean as `logits`."""
        if classification:
            self.log_odds(mean, "logits")
        else:
            self.add("Identity", mean, name="logits")

    def model(self, n_properties: int, inputs: Sequence[Any] = ()) -> bytes:
        from onnx import TensorProto, helper

        shape: list[str | int | None] = ["batch", n_properties]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("logits", "spread")]
        fingerprint = helper.make_tensor_value_info("fingerprint", TensorProto.UINT8, ["batch", BITS])
        graph = helper.make_graph(self.nodes, "molecules", [fingerprint, *inputs], outputs, self.constants)
        versions = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION, producer_name="budwood")
        content: bytes = model.SerializeToString()
        return content


def forest_graph(forests: Sequence[Any], *, classification: bool, counts: bool) -> bytes:
    """Fitted scikit-learn forests, one a property, as one tree ensemble.

    Each leaf adds its value to one sum and its square to another, so that the spread between the trees costs nothing.
    """
    from onnx import TensorProto

    sketch = Sketch()
    sums = sketch.add(
        "TreeEnsembleRegressor",
        sketch.features(counts),
        domain="ai.onnx.ml",
        n_targets=2 * len(forests),
        aggregate_function="SUM",
        post_transform="NONE",
        **tree_attributes(forests, classification=classification),
    )
    n_trees = np.asarray([len(forest.estimators_) for forest in forests], np.float32)
    means = sketch.add("Div", sums, sketch.constant(np.concatenate([n_trees, n_trees])))
    axis, edges = sketch.constant([1], np.int64), [0, len(forests), 2 * len(forests)]
    mean, square = (
        sketch.add("Slice", means, sketch.constant([low], np.int64), sketch.constant([high], np.int64), axis)
        for low, high in pairwise(edges)
    )
    # A square minus a square of nearly the same size: in doubles, or the noise of floats is left.
    wide = [sketch.add("Cast", item, to=TensorProto.DOUBLE) for item in (mean, square)]
    variance = sketch.add("Cast", sketch.add("Sub", wide[1], sketch.add("Mul", wide[0], wide[0])), to=TensorProto.FLOAT)
    sketch.add("Sqrt", sketch.add("Max", variance, sketch.constant(0.0)), name="spread")
    sketch.finish(mean, classification)
    return sketch.model(len(forests))


def tree_attributes(forests: Sequence[Any], *, classification: bool) -> dict[str, Any]:
    """The arrays of all trees in the layout of ONNX: nodes in one list, leaves with their two weights in another."""
    parts: dict[str, list[NDArray[Any]]] = {}
    number = 0
    for target, forest in enumerate(forests):
        for estimator in forest.estimators_:
            for name, values in one_tree(estimator, number, target, len(forests), classification).items():
                parts.setdefault(name, []).append(values)
            number += 1
    return {name: np.concatenate(values).tolist() for name, values in parts.items()}


def one_tree(estimator: Any, number: int, target: int, n_targets: int, classification: bool) -> dict[str, NDArray[Any]]:
    tree = estimator.tree_
    inner = tree.children_left >= 0
    value = tree.value[:, 0, 0].astype(np.float32)
    if classification:
        value = positive_share(estimator, tree)
    leaves = np.flatnonzero(~inner)
    weights = np.stack([value[leaves], value[leaves] ** 2], axis=1).ravel()
    n = len(inner)
    return {
        "nodes_treeids": np.full(n, number),
        "nodes_nodeids": np.arange(n),
        "nodes_featureids": np.where(inner, tree.feature, 0),
        "nodes_values": np.where(inner, tree.threshold, 0.0).astype(np.float32),
        "nodes_modes": np.where(inner, "BRANCH_LEQ", "LEAF"),
        "nodes_truenodeids": np.where(inner, tree.children_left, 0),
        "nodes_falsenodeids": np.where(inner, tree.children_right, 0),
        "target_treeids": np.full(2 * len(leaves), number),
        "target_nodeids": np.repeat(leaves, 2),
        "target_ids": np.tile([target, n_targets + target], len(leaves)),
        "target_weights": weights,
    }


def positive_share(estimator: Any, tree: Any) -> NDArray[np.float32]:
    """The share of class 1 in each node; a bootstrap sample may hold one class only."""
    classes = list(estimator.classes_)
    if 1 not in classes:
        return np.zeros(len(tree.value), np.float32)
    shares = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
    return np.asarray(shares[:, classes.index(1)], np.float32)


def linear_graph(weight: NDArray[Any], bias: NDArray[Any], *, classification: bool, counts: bool) -> bytes:
    """Linear models of bootstrap samples, averaged: weight (members, properties, 2048), bias (members, properties)."""
    members, n_properties, _ = weight.shape
    sketch = Sketch()
    table = sketch.constant(weight.reshape(members * n_properties, -1).T)
    product = sketch.add("Add", sketch.add("MatMul", sketch.features(counts), table), sketch.constant(bias.ravel()))
    each = sketch.add("Reshape", product, sketch.constant([-1, members, n_properties], np.int64))
    if classification:
        each = sketch.add("Sigmoid", each)
    mean = sketch.add("ReduceMean", each, axes=[1], keepdims=1)
    gap = sketch.add("Sub", each, mean)
    variance = sketch.add("ReduceMean", sketch.add("Mul", gap, gap), axes=[1], keepdims=0)
    sketch.add("Sqrt", variance, name="spread")
    sketch.finish(sketch.add("Squeeze", mean, sketch.constant([1], np.int64)), classification)
    return sketch.model(n_properties)


def average_graph(
    first: bytes, second: bytes, *, classification: bool, temperatures: tuple[float, float], weight: float = 0.5
) -> bytes:
    """The weighted mean of two graphs with outputs `logits` and `spread`: of calibrated probabilities, or of values.

    The spread is that of the mixture: the mean of both variances, plus the variance between the two means.

    Args:
        weight: that of the second graph, from 0 to 1.
    """
    import onnx
    from onnx import compose, helper

    sketch = Sketch()
    inputs: dict[str, Any] = {}
    domains = {"": OPSET, "ai.onnx.ml": ML_OPSET}
    means, spreads = [], []
    for number, (content, temperature) in enumerate(zip((first, second), temperatures, strict=True)):
        prefix = f"part_{number}_"
        model = compose.add_prefix(onnx.load_model_from_string(content), prefix, rename_inputs=False)
        inputs |= {item.name: item for item in model.graph.input}
        domains |= {item.domain: max(item.version, domains.get(item.domain, 0)) for item in model.opset_import}
        sketch.nodes.extend(model.graph.node)
        sketch.constants.extend(model.graph.initializer)
        logits, spread = f"{prefix}logits", f"{prefix}spread"
        if classification:
            logits = sketch.add("Sigmoid", sketch.add("Div", logits, sketch.constant(temperature)))
        means.append(logits)
        spreads.append(spread)
    shares = [sketch.constant(1 - weight), sketch.constant(weight)]
    mean = sketch.add("Add", *(sketch.add("Mul", *pair) for pair in zip(means, shares, strict=True)))
    gap = sketch.add("Mul", sketch.add("Sub", *means), sketch.constant((weight * (1 - weight)) ** 0.5))
    squares = [sketch.add("Mul", item, item) for item in (*spreads, gap)]
    within = sketch.add("Add", *(sketch.add("Mul", *pair) for pair in zip(squares[:2], shares, strict=True)))
    sketch.add("Sqrt", sketch.add("Add", within, squares[2]), name="spread")
    sketch.finish(mean, classification)
    shape = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    outputs = [helper.make_tensor_value_info(name, 1, ["batch", shape]) for name in ("logits", "spread")]
    graph = helper.make_graph(sketch.nodes, "molecules", list(inputs.values()), outputs, sketch.constants)
    versions = [helper.make_opsetid(name, version) for name, version in domains.items()]
    merged = helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION, producer_name="budwood")
    content_out: bytes = merged.SerializeToString()
    return content_out
