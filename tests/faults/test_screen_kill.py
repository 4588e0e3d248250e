"""`kill -9` of a screen: it goes on from its checkpoint, gives the list of an unbroken run, and leaves no process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import compounds
import pytest

pytest.importorskip("rdkit", reason="molecules need the extra chem")

KILLS = 3
LENGTHS = 25
"""Copies of the molecules, each with a longer chain."""


def command(bundle: Path, library: Path, work: Path, workers: int) -> list[str]:
    script = Path(__file__).with_name("screen_loop.py")
    return [sys.executable, str(script), str(bundle), str(library), str(work), str(workers)]


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def finished(arguments: list[str]) -> list[Any]:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=True)
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_screen_survives_being_killed(tmp_path: Path) -> None:
    bundle = compounds.fingerprint_bundle(tmp_path / "model")
    library = tmp_path / "library.csv"
    rows = [f"{'C' * n}{row['smiles']},{row['label']}" for n in range(1, LENGTHS + 1) for row in compounds.rows()]
    library.write_text("smiles,label\n" + "\n".join(rows) + "\n")
    whole = finished(command(bundle.path, library, tmp_path / "whole", 0))
    work = tmp_path / "work"
    for kill in range(KILLS):
        with subprocess.Popen(command(bundle.path, library, work, 1), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip().isdigit() and int(line) >= (kill + 1) * len(rows) // (KILLS + 2):
                    break
            workers = children(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        assert workers
        assert all(gone(worker) for worker in workers), "a worker outlived its parent"
    resumed = finished(command(bundle.path, library, work, 1))
    assert resumed[:-1] == whole[:-1]
    assert resumed[-1] > 0
