"""`kill -9` of shrink at random moments: nothing half-written, always resumed, the same candidates in the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 10


def test_shrink_survives_being_killed_at_any_moment() -> None:
    pytest.importorskip("torch")
    script = Path(__file__).with_name("shrink_loop.py")
    done = subprocess.run(
        [sys.executable, script, str(KILLS)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS
    assert found["completed_runs"] == found["published"] >= 1
    assert found["steps"] >= 4
    assert found["different"] == 0
