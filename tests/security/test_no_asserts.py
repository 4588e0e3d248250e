"""Checks of what comes from outside are no `assert`: those vanish under `python -O`."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "budwood"
FILES = sorted(path for folder in ("core", "serving") for path in (PACKAGE / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_that_serves_asserts(path: Path) -> None:
    asserts = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert))
    # What only tells the type checker that something of ours is there may vanish.
    assert [node.lineno for node in asserts if not ast.unparse(node.test).endswith("is not None")] == []


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 30
