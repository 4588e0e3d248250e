"""The molecules example runs as it stands, and ranks what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rdkit", reason="molecules need the extra chem")
pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "molecules.py"


def test_the_example_ranks_its_library(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    score, *ranked = run.stdout.splitlines()
    assert re.fullmatch(r"solvents:1, random split: RMSE \d+ K, 95 % \d+-\d+", score)
    assert [line[:2] for line in ranked] == ["1.", "2.", "3.", "4.", "5."]
    values = [float(line.split()[1]) for line in ranked]
    assert values == sorted(values, reverse=True)
    known = [line for line in ranked if "in training" in line]
    assert all("hexane" in line for line in known)
    assert "heptanol" in run.stdout
