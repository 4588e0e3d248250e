"""A graph that fails while a step runs it is let go of all the same: a search goes on with the next candidate."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from budwood.core import registry
from budwood.engine import causal_graph, conformance
from budwood.engine.causal_quantization import input_moments
from budwood.engine.language_export import exported
from budwood.engine.molecule_bundle import run_graph
from budwood.steps.export import onnx as export

onnx = pytest.importorskip("onnx")


class Broken:
    """A runtime that opens and cannot run."""

    closed = 0

    def __init__(self, graph: bytes) -> None:
        self.graph = graph

    def run(self, inputs: Any) -> Any:
        raise RuntimeError("out of memory")

    def close(self) -> None:
        Broken.closed += 1


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A product with weights; every runtime that is opened on it is broken."""
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("states", "product")]
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "weights")
    node = helper.make_node("MatMul", ["states", "weights"], ["product"])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weights])), path)
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda folder, name: Broken if folder == "runtimes" else get(folder, name))
    monkeypatch.setattr(Broken, "closed", 0)
    return path


def test_a_graph_whose_inputs_are_summed(graph: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        input_moments(graph, [{"attention_mask": np.ones((1, 2))}])
    assert Broken.closed == 1


def test_a_graph_of_molecules(graph: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        run_graph(graph.read_bytes(), {"states": np.ones((1, 2), np.float32)})
    assert Broken.closed == 1


def test_a_graph_that_is_compared_with_torch(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = SimpleNamespace(parse=dict)
    reference: Any = SimpleNamespace(task=task, encoder=None)
    monkeypatch.setattr(conformance, "difference", lambda predictor, golden: predictor.runtime.run({}))
    with pytest.raises(RuntimeError, match="out of memory"):
        export.differs(reference, graph, {})
    assert Broken.closed == 1


def test_a_graph_of_a_writer_that_is_compared_with_torch(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(causal_graph, "export_causal_graph", lambda folder, path: None)
    monkeypatch.setattr(conformance, "choose", lambda task, rows: [{}])
    encoded = SimpleNamespace(inputs={"targets": np.zeros((1, 2), np.int64)})
    task: Any = SimpleNamespace(
        parse=dict,
        encoder=lambda folder: lambda rows: encoded,
        build=lambda folder: lambda **inputs: {"logits": torch.zeros(1, 2, 3)},
        to_json=lambda: {"max_tokens": 2},
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        exported(task, graph.parent, [], graph.parent)
    assert Broken.closed == 1
