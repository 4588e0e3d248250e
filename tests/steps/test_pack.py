"""Packing a bundle's graph: smaller, served as before, and honest where float weights changed."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, StepError, UsageError
from budwood.core.step import Context
from budwood.engine import conformance
from budwood.engine.predictor import Predictor

Pack = registry.get("steps/shrink", "pack")


@pytest.fixture
def parent(tmp_path: Path) -> Bundle:
    """A bundle whose graph has two thousand weights, with golden rows."""
    plain = tiny.bundle(tmp_path / "plain")
    with_outputs = Predictor.open(plain)
    inputs = conformance.choose(with_outputs.task, tiny.rows())
    outputs = with_outputs.outputs(conformance.parsed(with_outputs.task, {"inputs": inputs}))

    def write(folder: Path) -> None:
        tiny.write_files(folder)
        conformance.write(folder, inputs, outputs, conformance.FLOAT_TOLERANCE)

    return Bundle.create(tmp_path / "parent", tiny.draft(), write)


def made(parent: Bundle, tmp_path: Path, name: str = "child", **changes: object) -> Bundle:
    return Pack(**changes).apply(parent, Context(out=tmp_path / name, work=tmp_path / "work"))


def logits(bundle: Bundle) -> np.ndarray:
    return np.asarray(Predictor.open(bundle, "onnxruntime").outputs(tiny.rows())["logits"])


def test_the_child_is_smaller_and_answers_within_its_tolerance(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path)
    report = child.manifest.report["packed"]
    assert child.formats == {"onnx"}
    assert "onnx/model.onnx.packed" in child.names
    assert "model.safetensors" not in child.names
    assert child.manifest.files["onnx/model.onnx.packed"].bytes == report["bytes"] < report["expanded_bytes"]
    assert report["expanded_bytes"] == parent.manifest.files["onnx/model.onnx"].bytes
    assert 0 < report["difference"] < 0.05
    assert report["difference"] < report["tolerance"] < 0.1
    assert report["load_seconds"] > 0
    # The logits themselves differ by 1 from row to row.
    np.testing.assert_allclose(logits(child), logits(parent), rtol=0, atol=0.05)


def test_at_32_bits_not_a_byte_changes(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path, bits=32)
    assert child.read_model("onnx") == parent.read_model("onnx")
    assert child.manifest.report["packed"]["difference"] is None
    assert conformance.read(child)["tolerance"] == conformance.FLOAT_TOLERANCE


def test_an_integer_graph_keeps_every_byte(parent: Bundle, tmp_path: Path) -> None:
    context = Context(out=tmp_path / "int8", work=tmp_path / "work")
    int8 = registry.get("steps/shrink", "quantize_dynamic")().apply(parent, context)
    child = made(int8, tmp_path)
    assert child.formats == {"onnx-int8"}
    assert child.read_model("onnx-int8") == int8.read_model("onnx-int8")
    assert child.serving_bytes < int8.serving_bytes


def test_what_cannot_be_packed_says_why(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path)
    with pytest.raises(StepError, match="packed already"):
        made(child, tmp_path, "again")
    with pytest.raises(StepError, match="no graph"):
        made(tiny.small_bundle(tmp_path / "small"), tmp_path, "none")
    with pytest.raises(UsageError, match="bits"):
        made(parent, tmp_path, "bits", bits=12)


def test_a_packed_bundle_is_served_without_onnx_and_torch(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path)
    program = (
        "import sys\n"
        "from budwood.core.bundle import Bundle\n"
        "from budwood.engine.predictor import Predictor\n"
        f"found = Predictor.open(Bundle.open({str(child.path)!r}), 'onnxruntime')\n"
        "print(found.predict([{'text': 'I want my money back.'}])[0]['label'])\n"
        "print(sorted({'onnx', 'torch', 'transformers', 'scipy', 'sklearn'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    label, heavy = done.stdout.split("\n")[:2]
    assert label in tiny.LABELS
    assert heavy == "[]"


def test_an_unpacked_copy_has_the_plain_graph_again(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path)
    unpacked = registry.get("steps/export", "unpacked")
    plain = unpacked().apply(child, Context(out=tmp_path / "plain-again", work=tmp_path / "work"))
    assert plain.model_file("onnx").read_bytes() == child.read_model("onnx")
    assert not [name for name in plain.names if name.endswith(".packed")]
    np.testing.assert_array_equal(logits(plain), logits(child))
    same = unpacked().apply(parent, Context(out=tmp_path / "copy", work=tmp_path / "work"))
    assert same.manifest.files == parent.manifest.files


def test_what_tells_of_the_packed_model_is_not_in_its_unpacked_copy(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path)

    def write(folder: Path) -> None:
        shutil.copytree(child.path, folder, dirs_exist_ok=True)
        (folder / "bundle.json").unlink()
        (folder / "README.md").write_text("The ONNX graph is packed.\n")

    described = Bundle.create(tmp_path / "described", child.draft("describe", report=child.manifest.report), write)
    plain = registry.get("steps/export", "unpacked")().apply(described, Context(out=tmp_path / "out", work=tmp_path))
    assert "README.md" not in plain.names
    assert "packed" not in plain.manifest.report
    assert {"config.json", "onnx/model.onnx"} <= set(plain.names)


def test_a_packed_file_that_is_damaged_says_what_to_do(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path)

    def write(folder: Path) -> None:
        shutil.copytree(child.path, folder, dirs_exist_ok=True)
        (folder / "bundle.json").unlink()
        file = folder / "onnx" / "model.onnx.packed"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    broken = Bundle.create(tmp_path / "broken", child.draft("describe"), write)
    with pytest.raises(BundleError, match="is damaged") as caught:
        registry.get("steps/export", "unpacked")().apply(broken, Context(out=tmp_path / "out", work=tmp_path))
    assert "packed from" in caught.value.fix


def test_weights_are_packed_on_request(parent: Bundle, tmp_path: Path) -> None:
    child = made(parent, tmp_path, bits=32, weights=True)
    assert child.formats == {"onnx"}
    assert "model.safetensors.packed" in child.names
    plain = registry.get("steps/export", "unpacked")().apply(child, Context(out=tmp_path / "out", work=tmp_path / "w"))
    assert plain.formats == {"onnx", "torch"}
    assert plain.read_model("torch") == parent.read_model("torch")
