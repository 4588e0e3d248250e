"""Calibration rows, the layers that fall back to float, and graphs that are refused."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pictures
import pytest
import tiny

pytest.importorskip("onnx")

import onnx

from budwood.core import registry
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import DataError, StepError, UsageError
from budwood.core.step import Context
from budwood.core.task import Encoded, Row, Task
from budwood.engine import machine, quantization, quantized_graph
from budwood.engine.quantization import Sample, calibration_rows, check_names, strata, with_fallback

CONTEXT = Context(out=Path("unused"), work=Path("unused"))


def context(rows: list[Row], seed: int = 0) -> Context:
    data = Dataset.of(rows, "rows.csv")
    return Context(out=Path("unused"), work=Path("unused"), splits=Splits(data, data, data, seed=seed), seed=seed)


def encode(rows: list[Row]) -> Encoded:
    """An encoder that cannot read what is called broken."""
    if any("broken" in row["text"] for row in rows):
        raise DataError("the text is broken", where="text")
    return Encoded({"ids": np.zeros((len(rows), 4))}, [{} for _ in rows])


def texts(labels: dict[str, int]) -> tuple[Task, list[Row]]:
    rows: list[Row] = [{"text": f"{name} {i}", "label": name} for name, count in labels.items() for i in range(count)]
    return registry.get("tasks", "text_classification").from_rows(rows), rows


def test_each_label_gives_as_many_rows_until_it_has_no_more() -> None:
    task, rows = texts({"rare": 3, "often": 60, "usual": 40})
    found = calibration_rows(task, encode, context(rows), 33, "here")
    assert Counter(row["label"] for row in found) == {"rare": 3, "often": 15, "usual": 15}


def test_the_seed_draws_the_rows() -> None:
    task, rows = texts({"a": 50, "b": 50})
    draws = [[row["text"] for row in calibration_rows(task, encode, context(rows, s), 20, "here")] for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_numbers_are_drawn_from_every_tenth(tmp_path: Path) -> None:
    rows: list[Row] = [{"image": f"{i}.png", "label": str(i * i)} for i in range(100)]
    rows[0] = {"image": pictures.encoded(pictures.noise()), "label": "0"}
    kind = registry.get("tasks", "image_regression")
    task = kind(kind="number", span=(0.0, 9801.0), scale=100.0)
    groups = strata(task, rows)
    assert sorted(map(len, groups)) == [10] * 10
    assert sorted(sorted(group) for group in groups)[3] == list(range(30, 40))


@pytest.mark.parametrize("readable", [0, 1, 9])
def test_too_few_readable_rows_say_what_to_pass(readable: int) -> None:
    task, rows = texts({"good": 20, "bad": 20})
    rows = [row | {"text": row["text"] + (" broken" if i >= readable else "")} for i, row in enumerate(rows)]
    with pytest.raises(DataError, match=f"^{readable} training rows can be used") as caught:
        calibration_rows(task, encode, context(rows), 30, "shrink.quantize_static")
    assert caught.value.exit_code == 3
    assert "--data with 10 or more" in caught.value.fix


def test_without_data_there_is_nothing_to_calibrate_with() -> None:
    task, _ = texts({"good": 2, "bad": 2})
    with pytest.raises(DataError, match=r"^0 training rows"):
        calibration_rows(task, encode, CONTEXT, 30, "here")


def sample(losses: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> Sample:
    """A sample whose noise is the sum of what each quantized layer loses; graphs are lists of quantized layers."""
    monkeypatch.setattr(Sample, "noise", lambda self, graph: sum(losses[name] for name in graph.decode().split()))
    return Sample(SimpleNamespace(), (), np.zeros(1))  # type: ignore[arg-type]


def test_the_layers_that_lose_most_fall_back_until_little_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {"stem": 0.3, "one": 0.01, "two": 0.2, "three": 0.02, "four": 0.05, "five": 0.01}

    def make(kept: Collection[str]) -> bytes:
        return " ".join(name for name in losses if name not in kept).encode()

    held = sample(losses, monkeypatch)
    found = with_fallback(make, list(losses), held, 0.25, CONTEXT)
    assert found.kept == ("stem", "two")
    assert list(found.lost) == ["stem", "two", "four", "three", "one", "five"]
    assert found.noise == pytest.approx(0.09)
    assert found.graph == make(found.kept)
    assert with_fallback(make, list(losses), held, 0.6, CONTEXT).kept == ()
    assert with_fallback(make, list(losses), held, 0.0, CONTEXT).kept == ("stem", "two")  # 4 would be more than half
    report = quantization.facts(found, ["head"])
    assert report["kept_float"] == ["head", "stem", "two"]
    assert report["lost"][0] == ["stem", 0.3]


def test_names_mean_a_layer_or_all_below_it() -> None:
    layers = ["/stem/conv", "/stem2/conv", "/block/one/conv", "/block/two/conv"]
    assert check_names(["/block", "/stem/conv"], layers, "here") == [*layers[2:], layers[0]]
    with pytest.raises(UsageError, match="no layer '/blok'") as caught:
        check_names(["/blok"], layers, "here")
    assert caught.value.where == "here.keep_float"


@pytest.mark.parametrize(("flags", "reduced"), [("avx2", True), ("avx2 avx512f", True), ("avx2 avx512_vnni", False)])
def test_weights_keep_seven_bits_without_vnni(flags: str, reduced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags.split()))
    assert quantization.needs_reduced_range() is reduced


def saved(path: Path, change: object = None) -> Path:
    tensors = tiny.weights(50, 3)
    model = onnx.load_from_string(tiny.graph(tensors))
    if change is not None:
        change(model)  # type: ignore[operator]
    onnx.save(model, str(path / "model.onnx"))
    return path / "model.onnx"


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == "head.weight")
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[0, :2] = np.nan, np.inf
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    with pytest.raises(StepError, match=r"2 of 96 weights in head\.weight are infinite or not a number"):
        quantized_graph.float_graph(saved(tmp_path, spoil), "here")


@pytest.mark.parametrize("operator", ["QuantizeLinear", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits"])
def test_a_graph_with_integer_operators_is_quantized_already(tmp_path: Path, operator: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "MatMul").op_type = operator

    with pytest.raises(UsageError, match=f"already quantized: its graph has {operator}"):
        quantized_graph.float_graph(saved(tmp_path, change), "here")


def test_an_opened_attention_computes_the_same() -> None:
    """With a mask that hides tokens, as the fusion writes it for text encoders."""
    import onnxruntime

    random = np.random.default_rng(0)
    values = {
        "weights": random.normal(size=(8, 24)).astype(np.float32) / 3,
        "bias": random.normal(size=24).astype(np.float32),
    }
    floats, shape = onnx.TensorProto.FLOAT, ["batch", "tokens", 8]
    attention = onnx.helper.make_node(
        "Attention", ["tokens", "weights", "bias", "mask"], ["out"], "attention", domain="com.microsoft", num_heads=2
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [attention],
            "attention",
            [
                onnx.helper.make_tensor_value_info("tokens", floats, shape),
                onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.INT32, ["batch", "tokens"]),
            ],
            [onnx.helper.make_tensor_value_info("out", floats, shape)],
            [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    opened = quantized_graph.opened_attention(model)
    assert [node.op_type for node in opened.graph.node] == ["MatMul", "Split", "MultiHeadAttention"]
    mask = np.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    feed = {"tokens": random.normal(size=(2, 5, 8)).astype(np.float32), "mask": mask}
    expected, found = (
        onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for graph in (model, opened)
    )
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], atol=1e-5)


def test_the_head_is_what_no_layer_follows() -> None:
    model = onnx.load_from_string(tiny.graph(tiny.weights(50, 3)))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    assert quantized_graph.layers(model) == quantized_graph.final_layers(model) == ["MatMul_7"]
