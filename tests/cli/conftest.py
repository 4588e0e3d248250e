"""Run a command line in this process, and results to answer it with."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from budwood import cli
from budwood.core.budget import Budget
from budwood.core.report import Candidate, ShrinkReport
from budwood.stages.results import Adapted, Baseline, Compared, Evaluated, Shrunk


@dataclass
class Ran:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be exactly one JSON value."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Standard error, which must be exactly one JSON value."""
        return json.loads(self.err)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run_line(*arguments: object, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main([str(item) for item in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run_line


@pytest.fixture
def adapted(tmp_path: Path) -> Adapted:
    return Adapted(
        name="tickets",
        version=3,
        id="a" * 64,
        path=tmp_path / "models" / "tickets" / "3",
        report=tmp_path / "models" / "tickets" / "3" / "report.html",
        task="text_classification",
        base="minilm",
        method="full",
        metric="accuracy",
        score=0.925,
        ci=(0.86, 0.961),
        n_train=525,
        n_test=94,
        baseline=Baseline("head", 0.83, (0.741, 0.892)),
        verdict="full +9.5 points against head, so full ships",
        seconds=83.0,
        peak_memory_mb=1599.0,
        energy_wh=0.2,
        stages={"head": 6.0, "full": 70.5},
    )


@pytest.fixture
def evaluated() -> Evaluated:
    return Evaluated(
        "accuracy", 0.9, (0.85, 0.94), 200, {"accuracy": 0.9, "macro_f1": 0.88}, {"macro_f1": (0.83, 0.92)}
    )


@pytest.fixture
def compared() -> Compared:
    row = {"row": 7, "text": "late \x1b[31mparcel", "label": "delivery", "a": "refund", "b": "delivery"}
    return Compared("accuracy", 0.9, 0.92, 0.02, (-0.01, 0.05), 0.2, 200, 1, [row])


def candidate(recipe: str, **changes: Any) -> Candidate:
    facts = {"score": 0.92, "ci": (0.85, 0.96), "drop": 0.01, "drop_ci": (-0.02, 0.04), "p50_ms": 1.5, "p95_ms": 2.0}
    facts |= {"items_per_s": 900.0, "size_mb": 23.4, "memory_mb": 120.0, "ratio": 2.5, "rank": "faster"}
    return Candidate(recipe, **(facts | changes))


def shrunk(path: Path, chosen: str | None) -> Shrunk:
    int8 = candidate("int8", verdict="PASS" if chosen else "UNDECIDED", within_budget=bool(chosen), why="drop +1.00")
    if not chosen:
        int8 = candidate("int8", verdict="UNDECIDED", rows_needed=2100, why="94 rows cannot tell", finalist=True)
    slow = candidate("layers-3", verdict="FAIL", ratio=0.8, rank="slower", why="drop +9; slower than the parent")
    report = ShrinkReport(
        reference=candidate("parent", drop=None, drop_ci=None, ratio=1.0, rank="equal"),
        candidates=(int8, slow),
        chosen=chosen,
        budget=Budget(),
        metric="accuracy",
        n=94,
    )
    published = ("small", 4, "b" * 64, path) if chosen else (None, None, None, None)
    return Shrunk(report, *published, plot=path / "pareto.svg", seconds=12.0, stages={"int8": 3.0})


@pytest.fixture
def shrunk_within(tmp_path: Path) -> Shrunk:
    return shrunk(tmp_path / "small", "int8")


@pytest.fixture
def shrunk_undecided(tmp_path: Path) -> Shrunk:
    return shrunk(tmp_path / "work", None)
