"""Shell blocks marked `<!-- run -->` run, in a folder with the examples and two versions of a tiny model."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from budwood.core.store import Store

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MARKED = re.compile(r"^<!-- run -->\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
LAUNCHER = """#!{python}
import sys
from budwood.cli import main
sys.exit(main())
"""


def shell_blocks() -> Iterator[object]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in MARKED.finditer(text):
            line = text[: block.start(1)].count("\n")
            yield pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}")


@pytest.fixture
def home(tmp_path, tiny_bundle):
    """What the reader of the tutorial has at that point: examples, held-out rows, and two versions of `tickets`."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    rows = "".join(f'"{row["text"]}",{row["label"]}\n' for row in tiny.rows(2))
    (tmp_path / "held_out.csv").write_text(f"text,intent\n{rows}", encoding="utf-8")
    store = Store(tmp_path / "models")
    store.publish("tickets", tiny_bundle)
    store.publish("tickets", tiny.bundle(tmp_path / "second", seed=1))
    launcher = tmp_path / "bin" / "budwood"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER.format(python=sys.executable), encoding="utf-8")
    launcher.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("code", [*shell_blocks()])
def test_the_block_runs(code, home):
    environment = os.environ | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=home, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert run.stdout.strip()


def test_there_are_blocks_to_run():
    assert len([*shell_blocks()]) >= 5
