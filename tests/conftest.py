"""Fixtures for every test: an isolated working directory and store, the shared data, and the tiny models."""

import os
from pathlib import Path

import pytest
import tiny

from budwood.core.bundle import Bundle

# Read by libraries when they are imported, so set before any test can import one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than about ten seconds; left out with -m 'not slow'")
    config.addinivalue_line("markers", "shared: needs the shared data sets beside the repository")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's store or cache, or writes into the repository."""
    monkeypatch.delenv("BUDWOOD_STORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets, where they are there."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a BERT of two layers; made once, so do not write into it."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    return tiny.bert(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A valid bundle with safetensors and ONNX; made once, so copy it before changing anything."""
    pytest.importorskip("onnx")
    return tiny.bundle(tmp_path_factory.mktemp("tiny-bundle") / "bundle")
