"""The int8 steps on tiny models of several tasks: what they give, what they refuse, what they leave in float."""

import shutil
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
import scenes
import tiny

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import MissingExtraError, StepError, UsageError
from budwood.core.recipe import Recipe, key_after
from budwood.core.step import Context, Step
from budwood.engine import conformance, machine
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found
from budwood.engine.measure import score
from budwood.engine.predictor import Predictor
from budwood.engine.reading import read_dataset
from budwood.steps.shrink.quantize_aware import QuantizeAware, refuse_others
from budwood.steps.shrink.quantize_dynamic import QuantizeDynamic
from budwood.steps.shrink.quantize_static import QuantizeStatic

EMPTY = Context(out=Path("unused"), work=Path("unused"))
HEAD, ONNX = registry.get("steps/adapt", "head")(), registry.get("steps/export", "onnx")()


def made(base: Path, task: object, splits: object, cache: Path, *steps: Step) -> tuple[Bundle, Context]:
    """The bundle that the steps make of a base, and the context for a further one."""
    context = Context(out=cache / "unused", work=cache / "work", splits=splits, task=task)  # type: ignore[arg-type]
    bundle = import_base(Found(base, "tiny", "asked for"), cache, type(task))  # type: ignore[arg-type]
    return Recipe(steps).run(bundle, context, cache / "cache"), context


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Context]:
    """A float classifier of colours on a tiny MobileNetV2."""
    home = tmp_path_factory.mktemp("images")
    rows = read_dataset(pictures.folder(home / "photos", each=16)).dataset
    kind = registry.get("tasks", "image_classification")
    splits = kind.split(rows, test=None, seed=0, shots=None)
    base = pictures.base(home / "base", "resnet")
    return made(base, kind.from_rows(splits.train.rows), splits, home, HEAD, ONNX)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[Bundle, Context]:
    """A float classifier of sentences on a tiny BERT."""
    home = tmp_path_factory.mktemp("texts")
    splits = tiny.splits()
    task = registry.get("tasks", "text_classification").from_rows(splits.train.rows)
    return made(tiny_bert, task, splits, home, HEAD, ONNX)


def child(step: Step, parent: Bundle, context: Context, out: Path) -> Bundle:
    return step.apply(parent, Context(out=out / "child", work=out / "work", splits=context.splits))


def graph_of(bundle: Bundle) -> object:
    return onnx.load_from_string(bundle.read_model("onnx-int8"))


def weights_of(bundle: Bundle) -> list[np.ndarray]:
    return [onnx.numpy_helper.to_array(item) for item in graph_of(bundle).graph.initializer]


def accuracy(bundle: Bundle, context: Context) -> float:
    assert context.splits is not None
    with closing(Predictor.open(bundle)) as predictor:
        return score(predictor, [*context.splits.train.rows, *context.splits.test.rows]).value


def test_a_convolutional_network_in_8_bits_answers_as_before(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    parent, context = images
    found = child(QuantizeStatic(rows=24), parent, context, tmp_path)
    report = found.manifest.report
    operators = {node.op_type for node in graph_of(found).graph.node}
    assert found.formats == {"onnx-int8"}
    assert "QuantizeLinear" in operators
    assert {weight.dtype.name for weight in weights_of(found) if weight.ndim == 4} == {"int8"}
    assert report["kept_float"] == ["/model/head/Gemm"]
    assert report["float_operators"].get("Gemm") == 1
    assert "Conv" not in report["float_operators"]
    assert report["calibration"] == {"rows": 24, "method": "minmax"}
    assert report["noise"] < 0.25
    assert sorted(report["activations_ms"]) == ["signed", "unsigned"]
    assert accuracy(found, context) >= accuracy(parent, context) - 0.05
    with closing(Predictor.open(found)) as predictor:
        conformance.check(predictor, found)


@pytest.mark.parametrize("step", [QuantizeStatic(), QuantizeDynamic(), QuantizeAware()], ids=lambda step: step.name)
def test_what_another_cpu_made_is_made_again(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven bits or eight is the choice of the CPU, so a stored result is for its instruction set."""
    keys = []
    for flags in ("avx2", "avx2 avx512_vnni", "avx2"):
        monkeypatch.setattr(machine, "cpu_flags", lambda flags=flags: frozenset(flags.split()))
        keys.append(key_after("parent", step, EMPTY))
    assert keys[0] == keys[2] != keys[1]


def test_the_same_rows_give_the_same_graph(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    step = QuantizeStatic(rows=12, activations="unsigned")
    first, second = (child(step, *images, tmp_path / name) for name in "ab")
    assert first.read_model("onnx-int8") == second.read_model("onnx-int8")


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_ranges_can_cut_off_outliers(images: tuple[Bundle, Context], tmp_path: Path, method: str) -> None:
    step = QuantizeStatic(rows=12, method=method, activations="signed")  # type: ignore[arg-type]
    found = child(step, *images, tmp_path)
    assert found.manifest.report["scheme"] == "S8S8 per channel"
    assert found.manifest.report["activations_ms"] == {}
    assert found.manifest.report["calibration"]["method"] == method


def test_seven_bits_keep_weights_below_64(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    found = child(QuantizeStatic(rows=12, reduce_range=True, activations="unsigned"), *images, tmp_path)
    eight = [value for value in weights_of(found) if value.dtype == np.int8 and value.ndim == 4]
    assert eight
    assert max(int(np.abs(value.astype(int)).max()) for value in eight) <= 64


def test_layers_that_are_named_stay_float(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    step = QuantizeStatic(rows=12, keep_float=("/model/encoder/resnet/embedder",), activations="unsigned")
    found = child(step, *images, tmp_path)
    kept = found.manifest.report["kept_float"]
    assert kept[0].startswith("/model/encoder/resnet/embedder/")
    assert found.manifest.report["float_operators"]["Conv"] == len(kept) - 1


def test_a_layer_that_is_not_there_is_refused_with_near_names(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layer '/model/head/Gem'") as caught:
        child(QuantizeStatic(rows=12, keep_float=("/model/head/Gem",)), *images, tmp_path)
    assert "/model/head/Gemm" in caught.value.fix


@pytest.mark.parametrize("step", [QuantizeStatic(rows=24), QuantizeDynamic()], ids=["static", "dynamic"])
def test_a_text_encoder_in_8_bits_answers_as_before(texts: tuple[Bundle, Context], tmp_path: Path, step: Step) -> None:
    parent, context = texts
    found = child(step, parent, context, tmp_path)
    report = found.manifest.report
    operators = {node.op_type for node in graph_of(found).graph.node}
    assert operators & {"MatMulInteger", "QAttention", "DynamicQuantizeLinear", "QuantizeLinear"}
    assert "MatMul" not in report["float_operators"]
    assert "Attention" not in report["float_operators"]
    assert accuracy(found, context) >= accuracy(parent, context) - 0.05


def test_a_dynamic_layer_falls_back_too(texts: tuple[Bundle, Context], tmp_path: Path) -> None:
    step = QuantizeDynamic(most_noise=1e-4)
    report = child(step, *texts, tmp_path).manifest.report
    assert report["fell_back"]
    assert set(report["fell_back"]) < {name for name, _ in report["lost"]}


def test_convolutions_are_not_quantized_at_run_time(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    """Their kernels take no signed weights, so they stay float, and the report lists them."""
    report = child(QuantizeDynamic(), *images, tmp_path).manifest.report
    assert report["float_operators"]["Conv"] > 5


def test_numbers_from_images_in_8_bits(tmp_path: Path) -> None:
    rows = read_dataset(pictures.greys(tmp_path / "greys") / "table.csv", "bright", task="image_regression").dataset
    kind = registry.get("tasks", "image_regression")
    splits = kind.split(rows, test=None, seed=0, shots=None)
    parent, context = made(
        pictures.base(tmp_path / "base", "resnet"), kind.from_rows(splits.train.rows), splits, tmp_path, HEAD, ONNX
    )
    found = child(QuantizeStatic(rows=24), parent, context, tmp_path)
    assert accuracy(found, context) >= accuracy(parent, context) - 0.02
    assert found.manifest.report["noise"] < 0.25


@pytest.mark.slow
def test_boxes_in_8_bits(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    scenes.voc(tmp_path / "shapes", splits={"train": 12, "val": 6, "test": 4})
    kind = registry.get("tasks", "object_detection")
    splits = kind.split(read_dataset(tmp_path / "shapes").dataset, test=None, seed=0, shots=None)
    task = kind.from_rows(splits.train.rows).with_options({"image_size": 96})
    detector = registry.get("steps/adapt", "detector")(images=16, self_test=False)
    parent, context = made(pictures.base(tmp_path / "base"), task, splits, tmp_path, detector, ONNX)
    found = child(QuantizeStatic(rows=12), parent, context, tmp_path)
    assert found.manifest.report["kept_float"]
    with closing(Predictor.open(found)) as predictor:
        conformance.check(predictor, found)


def test_a_quantized_model_is_not_quantized_again(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    found = child(QuantizeStatic(rows=12, activations="unsigned"), *images, tmp_path / "first")
    for step in (QuantizeStatic(), QuantizeDynamic()):
        with pytest.raises(UsageError, match="already quantized"):
            child(step, found, images[1], tmp_path / step.name)


def test_few_rows_to_calibrate_with_make_no_parameter(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 rows are too few"):
        child(QuantizeStatic(rows=3), *images, tmp_path)


def test_ranges_need_a_share(images: tuple[Bundle, Context], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no share to keep"):
        child(QuantizeStatic(percentile=100), *images, tmp_path)


def test_a_graph_without_products_says_which_step_is_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    tiny.write_files(folder)
    graph = onnx.load(str(folder / "onnx/model.onnx"))
    for node in graph.graph.node:
        if node.op_type == "MatMul":
            node.op_type, node.input[1] = "Mul", "one"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(tiny.HIDDEN, np.float32), "one"))

    def write(stage: Path) -> None:
        shutil.copytree(folder, stage, dirs_exist_ok=True)
        onnx.save(graph, str(stage / "onnx/model.onnx"))

    with pytest.raises(StepError, match="no matrix product") as caught:
        child(QuantizeDynamic(), Bundle.create(tmp_path / "bundle", tiny.draft(), write), EMPTY, tmp_path)
    assert "quantize_static" in caught.value.fix


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_nncf_gives_a_graph_that_onnxruntime_runs_in_8_bits(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    from budwood.steps.shrink.quantize_openvino import QuantizeOpenvino

    parent, context = request.getfixturevalue(kind)
    found = child(QuantizeOpenvino(rows=16), parent, context, tmp_path)
    report = found.manifest.report
    zeros = [weight for weight in weights_of(found) if weight.dtype == np.uint8]
    assert zeros, "activations are unsigned"
    assert report["calibration"] == {"rows": 16, "method": "nncf"}
    assert report["float_operators"].keys().isdisjoint({"Conv", "MatMul"})
    assert accuracy(found, context) >= accuracy(parent, context) - 0.05
    assert capfd.readouterr().out == ""


def test_nncf_is_named_where_it_is_missing(
    images: tuple[Bundle, Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from budwood.steps.shrink.quantize_openvino import QuantizeOpenvino

    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError) as caught:
        child(QuantizeOpenvino(rows=16), *images, tmp_path)
    assert "budwood[openvino]" in caught.value.fix


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_model_learns_to_bear_8_bits(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The child is float and ordinary, and makes an int8 model as others do."""
    parent, context = request.getfixturevalue(kind)
    step = QuantizeAware(epochs=2, batch_size=8, rows=16, reduce_range=True)
    found = child(step, parent, context, tmp_path)
    report = found.manifest.report
    assert found.formats == {"torch"}
    assert report["reduce_range"] is True
    assert 0 < report["noise"] < 0.1
    assert 0 < report["noise_before"] < 0.1
    assert report["steps"] > 0
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    exported = child(ONNX, found, context, tmp_path / "exported")
    int8 = child(QuantizeStatic(rows=16, reduce_range=True), exported, context, tmp_path / "int8")
    assert accuracy(int8, context) >= accuracy(parent, context) - 0.05


def test_a_generator_does_not_learn_so() -> None:
    task, _ = registry.get("tasks", "text_generation").example()
    with pytest.raises(StepError, match="learns in another way") as caught:
        refuse_others(task)
    assert "quantize_weights" in caught.value.fix


@pytest.mark.parametrize("name", ["quantize_static", "quantize_openvino"])
def test_generators_have_ways_of_their_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tiny.bundle(tmp_path / "bundle", task={"name": "text_generation"})
    kind = registry.get("tasks", "text_generation")
    monkeypatch.setattr(kind, "from_json", classmethod(lambda cls, fields: kind.example()[0]))
    with pytest.raises(StepError, match="in other ways") as caught:
        child(registry.get("steps/shrink", name)(), parent, EMPTY, tmp_path)
    assert "quantize_weights" in caught.value.fix


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_other_networks_for_images_in_8_bits(kind: str, tmp_path: Path) -> None:
    rows = read_dataset(pictures.folder(tmp_path / "photos", each=16)).dataset
    task = registry.get("tasks", "image_classification")
    splits = task.split(rows, test=None, seed=0, shots=None)
    base = pictures.base(tmp_path / "base", kind)
    own_size = replace(task.from_rows(splits.train.rows), image_size=0)
    parent, context = made(base, own_size, splits, tmp_path, HEAD, ONNX)
    found = child(QuantizeStatic(rows=16, activations="unsigned"), parent, context, tmp_path)
    in_float = found.manifest.report["float_operators"]
    assert in_float.keys().isdisjoint({"Attention", "Conv"})
    assert in_float.get("MatMul", 0) == {"vit": 4, "convnext": 0}[kind]  # queries with keys, and weights with values
    assert "int8" in {weight.dtype.name for weight in weights_of(found)}
    assert accuracy(found, context) >= accuracy(parent, context) - 0.05
