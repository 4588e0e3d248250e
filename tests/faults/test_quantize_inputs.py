"""What int8 steps meet in the wild: a quantized model, an odd operator, one row to calibrate with, spoilt weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

pytest.importorskip("onnx")

import onnx

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BudwoodError, DataError, StepError, UsageError
from budwood.core.step import Context
from budwood.engine import conformance
from budwood.engine.predictor import Predictor, task_of

STEPS = ["quantize_static", "quantize_dynamic", "quantize_openvino"]


def made(folder: Path, change: object = None) -> Bundle:
    """A text classifier with a hidden layer between the mean and the head, and golden rows."""
    files = folder / "files"
    files.mkdir(parents=True)
    tiny.write_files(files)
    model = onnx.load(str(files / "onnx/model.onnx"))
    weight = np.random.default_rng(1).normal(size=(tiny.HIDDEN, tiny.HIDDEN)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight / 6, "hidden.weight"))
    nodes = list(model.graph.node)
    nodes[7].input[0] = "active"
    extra = [
        onnx.helper.make_node("MatMul", ["pooled", "hidden.weight"], ["wide"], "hidden"),
        onnx.helper.make_node("Celu", ["wide"], ["active"], "odd"),  # no integer kernel knows it
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:7], *extra, *nodes[7:]])
    if change is not None:
        change(model)  # type: ignore[operator]
    onnx.save(model, str(files / "onnx/model.onnx"))

    def write(stage: Path) -> None:
        shutil.copytree(files, stage, dirs_exist_ok=True)

    return with_golden(Bundle.create(folder / "plain", tiny.draft(), write), folder)


def with_golden(bundle: Bundle, folder: Path) -> Bundle:
    inputs = conformance.choose(task_of(bundle), tiny.rows())
    predictor = Predictor.open(bundle)
    outputs = {"logits": np.nan_to_num(predictor.outputs([{"text": row["text"]} for row in inputs])["logits"])}

    def write(stage: Path) -> None:
        shutil.copytree(bundle.path, stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bundle.json"))
        conformance.write(stage, inputs, outputs, 1e-3)

    return Bundle.create(folder / "golden", tiny.draft(), write)


def run(name: str, parent: Bundle, folder: Path, rows: int = 36) -> Bundle:
    if name == "quantize_openvino":
        pytest.importorskip("nncf")
    data = Dataset.of(tiny.rows(4)[:rows], "rows.csv")
    context = Context(out=folder / "child", work=folder / "work", splits=Splits(data, data, data, seed=0))
    return registry.get("steps/shrink", name)().apply(parent, context)


@pytest.mark.parametrize("name", STEPS)
def test_an_operator_without_an_integer_kernel_stays_in_float_and_is_listed(name: str, tmp_path: Path) -> None:
    child = run(name, made(tmp_path), tmp_path)
    assert child.manifest.report["float_operators"]["Celu"] == 1
    assert child.formats == {"onnx-int8"}


@pytest.mark.parametrize("name", STEPS)
def test_a_quantized_model_says_so_and_nothing_is_done(name: str, tmp_path: Path) -> None:
    first = run("quantize_dynamic", made(tmp_path), tmp_path)
    with pytest.raises(UsageError, match="already quantized") as caught:
        run(name, first, tmp_path / "again")
    assert "models lineage" in caught.value.fix
    assert not (tmp_path / "again/child").exists()


@pytest.mark.parametrize("name", STEPS)
def test_a_float_name_hides_no_integer_graph(name: str, tmp_path: Path) -> None:
    """As when somebody exports a quantized graph to `model.onnx`."""
    first = run("quantize_dynamic", made(tmp_path), tmp_path)

    def write(stage: Path) -> None:
        shutil.copytree(first.path, stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bundle.json"))
        (stage / "onnx/model_quantized.onnx").rename(stage / "onnx/model.onnx")

    with pytest.raises(UsageError, match="already quantized: its graph has"):
        run(name, Bundle.create(tmp_path / "renamed", tiny.draft(), write), tmp_path / "again")


@pytest.mark.parametrize("name", ["quantize_static", "quantize_openvino"])
@pytest.mark.parametrize("rows", [1, 9])
def test_too_few_rows_to_calibrate_with_exit_3(name: str, rows: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{rows} training rows can be used") as caught:
        run(name, made(tmp_path), tmp_path, rows)
    assert caught.value.exit_code == 3
    assert "--data" in caught.value.fix


def test_ranges_found_at_run_time_need_no_rows(tmp_path: Path) -> None:
    report = run("quantize_dynamic", made(tmp_path), tmp_path, 1).manifest.report
    assert report["noise"] is None
    assert report["fell_back"] == []


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_name_their_tensor(name: str, value: float, tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == "hidden.weight")
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[3, 4] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    with pytest.raises(StepError, match=r"1 of 1,024 weights in hidden\.weight"):
        run(name, made(tmp_path, spoil), tmp_path)


def test_a_model_of_a_head_alone_is_not_called_int8(tmp_path: Path) -> None:
    parent = with_golden(tiny.bundle(tmp_path / "bundle"), tmp_path)
    with pytest.raises(BudwoodError, match="none of the 1 layers is left to quantize"):
        run("quantize_static", parent, tmp_path)
