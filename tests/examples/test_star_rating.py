"""The task of the how-to is one short file: it passes the contract tests, learns and answers, as the page says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "star_rating.py"
MOST_LINES = 150
CONTRACT = 2
"""Contract tests that run for each task, at least."""
SENTENCES = {
    "1": "it was broken and they did not give the money back",
    "2": "it came late and the colour is wrong",
    "3": "the jacket is not good and not broken",
    "4": "this was fast and the quality is good",
    "5": "I love it, great service, I am very happy",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that has the file of the how-to, with the entry point that the page shows."""
    site = tmp_path_factory.mktemp("site")
    (site / EXAMPLE.name).write_bytes(EXAMPLE.read_bytes())
    (line,) = [line for line in GUIDE.splitlines() if line.startswith("star_rating = ")]
    about = site / "star_rating-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: star-rating\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[budwood.tasks]\n" + line.replace('"', "") + "\n")
    return site


def python(site: Path, *arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=300)


def test_the_example_is_one_short_file_that_the_page_links_to() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < MOST_LINES
    assert "(../examples/star_rating.py)" in GUIDE


def test_the_example_passes_the_contract_tests(installed: Path) -> None:
    command = ("-m", "pytest", "tests/contract", "-q", "-p", "no:cacheprovider", "-k", "star_rating")
    ran = python(installed, *command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) >= CONTRACT


def test_the_example_learns_and_answers_on_the_command_line(installed: Path, tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{text} ({turn})", "stars": stars} for turn in range(14) for stars, text in SENTENCES.items()]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ("-m", "budwood", "adapt", "reviews.jsonl", "--base", tiny_bert, "--method", "head", "--json")
    ran = python(installed, *line, "--target", "stars", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    adapted = json.loads(ran.stdout)
    assert (adapted["task"], adapted["metric"]) == ("star_rating", "closeness")
    assert set(adapted["metrics"]) >= {"mae", "accuracy"}
    ran = python(installed, "-m", "budwood", "predict", "reviews", SENTENCES["1"], "--json", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    answer = answer[0] if isinstance(answer, list) else answer
    assert 1 <= answer["value"] <= 5
    assert answer["label"] in SENTENCES
    plain = python(installed, "-m", "budwood", "adapt", "--list-bases", folder=tmp_path)
    assert plain.returncode == 0, plain.stderr
