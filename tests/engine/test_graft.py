"""What a child takes over from its parent is what was hashed when the parent was made."""

from pathlib import Path

import pytest
import tiny

from budwood.core.errors import BundleError
from budwood.engine.graft import copy_files


def test_files_that_the_parent_has_are_copied_with_their_folders(tmp_path: Path) -> None:
    parent = tiny.bundle(tmp_path / "parent")
    copy_files(parent, ("config.json", "onnx/model.onnx", "missing.json"), tmp_path / "child")
    assert (tmp_path / "child" / "config.json").read_bytes() == parent.read("config.json")
    assert (tmp_path / "child" / "onnx" / "model.onnx").read_bytes() == parent.read("onnx/model.onnx")
    assert not (tmp_path / "child" / "missing.json").exists()


def test_a_file_that_changed_since_the_parent_was_opened_is_not_taken_over(tmp_path: Path) -> None:
    parent = tiny.bundle(tmp_path / "parent")
    path = parent.path / "tokenizer.json"
    path.write_text(path.read_text().replace("[CLS]", "[cls]"))
    with pytest.raises(BundleError, match="changed since"):
        copy_files(parent, ("tokenizer.json",), tmp_path / "child")
