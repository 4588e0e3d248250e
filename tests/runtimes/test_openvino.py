"""OpenVINO: what it refuses and how it says so, and that it reports nothing to anyone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.engine.predictor import Predictor
from budwood.runtimes import openvino as plugin
from budwood.runtimes.openvino import OpenVinoRuntime

pytest.importorskip("openvino")
pytest.importorskip("onnx")
Bundles = Callable[[str], Bundle]


def attention_graph(attributes: dict[str, object], mask: list[str]) -> bytes:
    """One fused attention of two heads over states of width 8, with a mask of the given shape."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {"weight": random.normal(size=(8, 24)), "bias": random.normal(size=24)}
    floats = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("states", floats, ["batch", "tokens", 8])]
    inputs += [helper.make_tensor_value_info("mask", TensorProto.INT32, mask)] if mask else []
    names = ["states", "weight", "bias", *(["mask"] if mask else [])]
    node = helper.make_node("Attention", names, ["mixed"], domain="com.microsoft", num_heads=2, **attributes)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "attention",
            inputs,
            [helper.make_tensor_value_info("mixed", floats, ["batch", "tokens", 8])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("shape", [["batch"], ["batch", "tokens"], []])
def test_fused_attention_is_that_of_onnx_runtime(shape: list[str]) -> None:
    from budwood.runtimes.onnxruntime import OnnxRuntime

    model = attention_graph({}, shape)
    states = np.random.default_rng(1).normal(size=(3, 5, 8)).astype(np.float32)
    lengths = np.array([5, 2, 3], np.int32)
    mask = lengths if len(shape) == 1 else (np.arange(5) < lengths[:, None]).astype(np.int32)
    inputs = {"states": states, "mask": mask} if shape else {"states": states}
    found = OpenVinoRuntime(model, 1).run(inputs)["mixed"]
    np.testing.assert_allclose(found, OnnxRuntime(model, 1).run(inputs)["mixed"], atol=1e-5)


def test_attention_of_another_kind_is_refused_and_never_computed_wrongly() -> None:
    with pytest.raises(BundleError, match="OpenVINO cannot load the graph"):
        OpenVinoRuntime(attention_graph({"unidirectional": 1}, ["batch"]))


def test_operators_that_only_onnx_runtime_has_are_named(bundles: Bundles, tmp_path: Path) -> None:
    from budwood.steps.shrink.quantize_dynamic import QuantizeDynamic

    context = Context(out=tmp_path / "unused", work=tmp_path / "work", splits=tiny.splits())
    int8 = Recipe((QuantizeDynamic(),)).run(bundles("text"), context, tmp_path / "steps")
    with pytest.raises(BundleError, match=r"does not know these operators: com\.microsoft\.Q") as caught:
        Predictor.open(int8, "openvino")
    assert "--runtime onnxruntime" in caught.value.fix


def test_a_damaged_graph_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="OpenVINO cannot load"):
        OpenVinoRuntime(b"no graph at all")


def test_it_computes_in_float32_and_shares_the_cores(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "usable_cores", lambda: 8)
    assert plugin.settings(2)["NUM_STREAMS"] == 4
    assert plugin.settings(2)["INFERENCE_NUM_THREADS"] == 8
    assert plugin.settings(0)["NUM_STREAMS"] == 1
    assert plugin.settings(3)["INFERENCE_NUM_THREADS"] == 6
    runtime = OpenVinoRuntime.open(bundles("text"), 1)
    assert runtime._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_no_usage_statistics_are_begun(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = pytest.importorskip("openvino_telemetry")

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("statistics were begun")

    for name in ("__init__", "init", "send_event", "start_session"):
        monkeypatch.setattr(telemetry.Telemetry, name, refuse)
    predictor = Predictor.open(bundles("text"), "openvino", 1)
    predictor.predict([{"text": "Where is my parcel?"}])
    predictor.close()
