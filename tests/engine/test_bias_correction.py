"""Corrected biases: the mean of each channel is that of the float graph again, also behind other quantized layers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from budwood.core.task import Arrays
from budwood.engine import quantized_graph as graphs
from budwood.engine.bias_correction import corrected, means
from budwood.engine.onnx_graph import write_graph


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width, groups in ((8, 1), (8, 8), (8, 1), (8, 8)):
        layers += [nn.Conv2d(3 if not layers else 8, width, 3, padding=1, groups=groups), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("graph")
    path = folder / "model.onnx"
    write_graph(network(), {"images": torch.zeros(1, 3, 16, 16)}, ["logits"], {"images": {0: "batch"}}, path)
    return graphs.prepared(onnx.load(path), folder)


@pytest.fixture
def feeds() -> list[Arrays]:
    random = np.random.default_rng(0)
    # Dark with a few bright pixels: the ranges are wide, the steps coarse.
    return [{"images": (8 * random.random((5, 3, 16, 16)) ** 24).astype(np.float32)} for _ in range(6)]


def quantized(model: onnx.ModelProto, feeds: list[Arrays], folder: Path, left: tuple[str, ...] = ()) -> bytes:
    ranges = graphs.calibrated(model, feeds, "minmax", 99.99, folder)
    return graphs.static_graph(model, ranges, {*graphs.final_layers(model), *left})


def gaps(graph: bytes, model: onnx.ModelProto, feeds: list[Arrays]) -> dict[str, float]:
    """How far the mean of a channel is off, at most, in each convolution."""
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    wanted, loaded = means(model, names, feeds), onnx.load_from_string(graph)
    # One at a time: a tensor that is an output keeps the runtime from fusing what is around it.
    return {name: float(np.abs(means(loaded, [name], feeds)[name] - wanted[name]).max()) for name in names}


def test_each_channel_has_its_mean_again(model: onnx.ModelProto, feeds: list[Arrays], tmp_path: Path) -> None:
    graph = quantized(model, feeds, tmp_path)
    before, after = gaps(graph, model, feeds), gaps(corrected(graph, model, feeds), model, feeds)
    assert len(after) == 4
    assert max(after.values()) < 0.2 * max(before.values())


def test_layers_that_stay_in_float_are_corrected_too(
    model: onnx.ModelProto, feeds: list[Arrays], tmp_path: Path
) -> None:
    name = [node.name for node in model.graph.node if node.op_type == "Conv"][2]
    graph = quantized(model, feeds, tmp_path, (name,))
    before, after = gaps(graph, model, feeds), gaps(corrected(graph, model, feeds), model, feeds)
    assert after[name] < 0.2 * before[name]


def test_only_biases_change(model: onnx.ModelProto, feeds: list[Arrays], tmp_path: Path) -> None:
    graph = onnx.load_from_string(quantized(model, feeds, tmp_path))
    other = onnx.load_from_string(corrected(graph.SerializeToString(), model, feeds))
    assert [node.SerializeToString() for node in graph.graph.node] == [
        node.SerializeToString() for node in other.graph.node
    ]
    changed = [
        a.data_type
        for a, b in zip(graph.graph.initializer, other.graph.initializer, strict=True)
        if a.raw_data != b.raw_data
    ]
    assert changed
    assert set(changed) == {onnx.TensorProto.INT32}
