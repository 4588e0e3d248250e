"""Every ```python block of the documents runs, in a folder whose store has a tiny model called `tickets`."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny

from budwood.core.bundle import Bundle
from budwood.core.runtime import Runtime
from budwood.core.step import Context, Step
from budwood.core.store import Store
from budwood.engine.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBERS = count()


def python_blocks() -> Iterator[object]:
    for page in PAGES:
        if page.name == "clients.md":  # they ask a server: test_clients_page.py
            continue
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text[: block.start()].count("\n") + 1
            yield pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}")


def block_of(page: str) -> str:
    (block,) = BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    return block


def run(code: str, folder: Path) -> ModuleType:
    """Import the block as a module of its own, as its reader would save it."""
    path = folder / f"block_{next(NUMBERS)}.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


@pytest.mark.parametrize("code", [*python_blocks()])
def test_the_block_runs(code, tmp_path, tiny_bundle):
    Store(tmp_path / "models").publish("tickets", tiny_bundle)
    run(code, tmp_path)


def test_the_runtime_of_the_guide_agrees_with_onnx_runtime(tmp_path, tiny_bundle):
    kind = run(block_of("add-a-runtime.md"), tmp_path).ReferenceRuntime
    assert issubclass(kind, Runtime)
    rows = [{"text": text} for text in tiny.SENTENCES]
    expected = Predictor.open(tiny_bundle, "onnxruntime").outputs(rows)
    written = replace(Predictor.open(tiny_bundle, "onnxruntime"), runtime=kind.open(tiny_bundle, 0))
    np.testing.assert_allclose(written.outputs(rows)["logits"], expected["logits"], atol=1e-5)
    written.close()
    written.close()


def test_the_technique_of_the_guide_makes_a_child(tmp_path, tiny_bundle):
    pytest.importorskip("torch")
    kind = run(block_of("add-a-technique.md"), tmp_path).RoundWeights
    assert issubclass(kind, Step)
    context = Context(out=tmp_path / "child", work=tmp_path / "work")
    child = kind(smallest=64).apply(tiny_bundle, context)
    reopened = Bundle.open(child.path)
    assert reopened.parent == Bundle.open(tiny_bundle.path).id
    assert reopened.manifest.history[-1].name == kind.name
    assert reopened.manifest.history[-1].parameters == {"smallest": 64}
    changed = child.manifest.files["model.safetensors"].sha256
    assert changed != tiny_bundle.manifest.files["model.safetensors"].sha256
    assert kind.gives <= reopened.formats
