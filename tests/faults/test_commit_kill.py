"""`kill -9` at random moments, readers beside writers, and two writers at once: the store is whole at every moment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from budwood.core.store import Store

LOOP = Path(__file__).with_name("commit_loop.py")
PATHS = os.pathsep.join([str(LOOP.parents[2]), str(LOOP.parents[1])])


def start(mode: str, store: Path, times: int, seed: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(LOOP), mode, str(store), str(times), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PATHS})


def finish(process: subprocess.Popen[str]) -> Any:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(output)


@pytest.mark.parametrize("seed", [1])
def test_two_hundred_kills(tmp_path: Path, seed: int) -> None:
    result = finish(start("kill", tmp_path / "models", 200, seed))
    assert result["problems"] == []
    assert result["interrupted"] >= 10, "kills must hit commits, or the test shows nothing"
    assert result["newest"] >= 3, "some versions must have been committed between the kills"
    assert result["left"] == []


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    result = finish(start("read", tmp_path / "models", 500))
    assert result["problems"] == []
    assert result["seen"] > 3, "the writer must have moved on while the reader read"


def test_two_writers_get_different_numbers(tmp_path: Path) -> None:
    processes = [start("publish", tmp_path / "models", 15, seed) for seed in range(3)]
    versions = sorted(version for process in processes for version in finish(process)["versions"])
    assert versions == list(range(1, 46))
    store = Store(tmp_path / "models")
    assert store.aliases("tickets") == {"live": 1}
    assert all(not item.problem for item in store.list())
