"""Processes of our own: nothing that lies in the working directory runs in them."""

import subprocess
from pathlib import Path

import pytest

from budwood.core.bundle import Bundle
from budwood.engine import runtime_choice
from budwood.engine.child import child_command, child_environment
from budwood.engine.memory import serving_memory


@pytest.fixture(autouse=True)
def trap(tmp_path: Path) -> Path:
    """A file that is there once the numpy.py of the working directory has run."""
    (tmp_path / "numpy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n")
    return tmp_path / "ran"


def test_a_file_named_like_a_library_does_not_run(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    command = child_command("numpy.version")
    ran = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    assert (ran.returncode, trap.exists()) == (0, False), ran.stderr
    monkeypatch.setenv("PYTHONPATH", "/one::/two")
    assert child_environment()["PYTHONPATH"].split(":")[1:] == ["/one", "/two"]


def test_memory_is_measured_beside_it(trap: Path, tiny_bundle: Bundle) -> None:
    assert serving_memory(tiny_bundle, [{"text": "fine work"}]).total_mb > 0
    assert not trap.exists()


def test_runtimes_are_measured_beside_it(trap: Path, tiny_bundle: Bundle) -> None:
    found = runtime_choice.in_a_child(tiny_bundle, 0.0, 1)
    assert not any("measuring failed" in item.why for item in found.values())
    assert not trap.exists()
