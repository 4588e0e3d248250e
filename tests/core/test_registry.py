"""Plug-ins are found by their file names, and by the entry points of other packages."""

from importlib.metadata import EntryPoint

import pytest

from budwood.core import registry
from budwood.core.errors import NotFoundError


@pytest.fixture(autouse=True)
def fresh() -> None:
    registry.names.cache_clear()


def test_names_are_the_files_of_the_folder() -> None:
    assert "onnxruntime" in registry.names("runtimes")
    assert registry.names("runtimes") == tuple(sorted(registry.names("runtimes")))
    assert not any(name.startswith("_") for name in registry.names("runtimes"))


def test_get_gives_the_one_public_name() -> None:
    from budwood.runtimes.onnxruntime import OnnxRuntime

    assert registry.get("runtimes", "onnxruntime") is OnnxRuntime


@pytest.mark.parametrize("name", ["nothing", "", "__init__", "../core/errors", "onnxruntime.py", "os"])
def test_an_unknown_name_says_what_exists(name: str) -> None:
    with pytest.raises(NotFoundError, match="no runtimes named") as caught:
        registry.get("runtimes", name)
    assert "onnxruntime" in caught.value.fix


def test_other_packages_add_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("spare", "collections:OrderedDict", "budwood.steps.shrink")

    def entry_points(group: str, name: str = "spare") -> list[EntryPoint]:
        return [point] if (group, name) == (point.group, point.name) else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    from collections import OrderedDict

    assert "spare" in registry.names("steps/shrink")
    assert registry.get("steps/shrink", "spare") is OrderedDict
    registry.names.cache_clear()
