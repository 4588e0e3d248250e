"""Bundles that are as they should be: made, opened, copied, described, and handed on to a child."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from budwood.core.bundle import Bundle, Metric, StepRecord
from budwood.core.errors import BundleError, NotFoundError, UsageError


def test_a_bundle_opens_as_it_was_created(tmp_path: Path) -> None:
    metric = Metric(value=1, ci=(0.9, 1), n=9, split="test")
    made = tiny.bundle(tmp_path / "b", metrics={"accuracy": metric}, calibration={"temperature": 1.5})
    opened = Bundle.open(str(tmp_path / "b"))
    assert opened == made
    assert opened.manifest.metrics["accuracy"] == metric
    assert opened.formats == {"torch", "onnx"}
    assert opened.names == tuple(sorted(opened.manifest.files))


def test_the_id_covers_the_content(tmp_path: Path) -> None:
    ids = {
        tiny.small_bundle(tmp_path / "a").id,
        tiny.small_bundle(tmp_path / "b", content="[]").id,
        tiny.small_bundle(tmp_path / "c", base="other").id,
        tiny.small_bundle(tmp_path / "d", report={"a": 1}).id,
    }
    assert len(ids) == 4
    fields = json.loads((tmp_path / "a" / "bundle.json").read_text())
    name = fields.pop("id")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == name


def test_creating_refuses_a_path_that_exists(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        tiny.small_bundle(tmp_path / "b")


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Bundle.create(tmp_path / "store" / "b", tiny.draft(), write)
    assert not os.listdir(tmp_path / "store")


def test_a_copy_is_the_same_bundle(tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy = tiny_bundle.copy(tmp_path / "deep" / "copy")
    assert Bundle.open(copy.path) == copy
    assert copy.manifest == tiny_bundle.manifest
    for name in (*copy.names, "bundle.json"):
        assert (copy.path / name).read_bytes() == (tiny_bundle.path / name).read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        tiny_bundle.copy(copy.path)


def test_files_by_name_and_by_format(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.model_file("onnx") == tiny_bundle.path / "onnx" / "model.onnx"
    assert tiny_bundle.read_model("onnx") == (tiny_bundle.path / "onnx" / "model.onnx").read_bytes()
    assert tiny_bundle.file("config.json").is_file()
    with pytest.raises(BundleError, match="no onnx-int8 model") as caught:
        tiny_bundle.model_file("onnx-int8")
    assert "it has: onnx, torch" in caught.value.fix
    for name in ("nothing.json", "../x", "bundle.json"):
        with pytest.raises(BundleError, match="has no"):
            tiny_bundle.file(name)


def test_the_size_of_what_a_server_loads(tiny_bundle: Bundle) -> None:
    sizes = {name: (tiny_bundle.path / name).stat().st_size for name in tiny_bundle.names}
    small = sizes["config.json"] + sizes["tokenizer.json"] + sizes["tokenizer_config.json"]
    assert tiny_bundle.serving_bytes == sizes["onnx/model.onnx"] + small


def test_a_child_names_its_parent_and_drops_what_was_measured(tmp_path: Path) -> None:
    metric = Metric(value=0.5, ci=(0.4, 0.6), n=9, split="test")
    parent = tiny.small_bundle(tmp_path / "p", metrics={"accuracy": metric}, report={"a": 1}, calibration={"t": 2.0})
    draft = parent.draft("export.onnx", {"opset": 17}, license="mit")
    assert draft.parent == parent.id
    assert draft.metrics == {}
    assert draft.report == {}
    assert draft.calibration == {"t": 2.0}
    assert draft.license == "mit"
    assert draft.history == (
        StepRecord(name="adapt.head", bundle=parent.id),
        StepRecord(name="export.onnx", parameters={"opset": 17}),
    )


def test_a_child_of_a_bundle_without_history(tmp_path: Path) -> None:
    parent = tiny.small_bundle(tmp_path / "p", history=())
    assert [step.name for step in parent.draft("export.onnx").history] == ["base", "export.onnx"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        Bundle.open(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="no such folder"):
        Bundle.open(tmp_path / "file")


OPTIMIZED = """
import sys
from pathlib import Path
import tiny
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, UsageError

assert False, "asserts are off"
root = Path(sys.argv[1])
attacks = {
    "bit": lambda f: (f / "config.json").write_text("[]"),
    "code": lambda f: (f / "x.py").touch(),
    "extra": lambda f: (f / "x.json").write_text("{}"),
    "link": lambda f: (f / "x.json").symlink_to("config.json"),
    "hard": lambda f: (f / "config.json").hardlink_to(root / f"outside-{f.name}"),
    "gone": lambda f: (f / "config.json").unlink(),
}
for name, attack in attacks.items():
    folder = tiny.small_bundle(root / name).path
    if name == "hard":
        (folder / "config.json").rename(root / f"outside-{name}")
    attack(folder)
    try:
        Bundle.open(folder)
    except BundleError as error:
        print(name, "refused")
for write in (lambda f: (f / "a.pkl").touch(), lambda f: (f / "a.json").write_text('{"auto_map": 1}')):
    try:
        Bundle.create(root / "new", tiny.draft(), write)
    except BundleError:
        print("create refused")
try:
    tiny.small_bundle(root / "bit")
except UsageError:
    print("overwrite refused")
"""


def test_every_check_holds_under_python_optimized(tmp_path: Path) -> None:
    tests = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    result = subprocess.run(
        [sys.executable, "-O", "-c", OPTIMIZED, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert result.stderr == ""
    refused = ["bit", "code", "extra", "link", "hard", "gone", "create", "create", "overwrite"]
    assert result.stdout.split("\n")[:-1] == [f"{name} refused" for name in refused]


def test_core_checks_nothing_by_assert() -> None:
    import ast

    import budwood.core

    for path in Path(budwood.core.__path__[0]).glob("*.py"):
        asserts = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert not asserts, path
