"""What the scripts of data sets share: the command line, and results that grow by one run at a time."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from budwood.engine.machine import describe

__all__ = ["add", "averages", "budwood"]

Run = dict[str, Any]
Summary = Callable[[Sequence[Run]], dict[str, Any]]


def budwood(*arguments: str) -> str:
    """What a command prints on standard output; it ends the script where the command fails."""
    done = subprocess.run([sys.executable, "-m", "budwood", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def add(results: Path, name: str, run: Run, summary: Summary) -> None:
    """Put one run beside the others of its job, in the place of an earlier one with its seed and options.

    `summary` is told the runs that have the options of the new one: others cannot be averaged with it.
    """
    found = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {"jobs": {}}
    same = {key: run[key] for key in ("seed", "options")}
    runs = [item for item in found["jobs"].get(name, {}).get("runs", []) if item | same != item]
    runs = sorted([*runs, run], key=lambda item: (json.dumps(item["options"]), item["seed"]))
    alike = [item for item in runs if item["options"] == run["options"]]
    found["machine"] = describe()
    found["jobs"][name] = {"runs": runs, **summary(alike)}
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def averages(runs: Sequence[Run], score: Callable[[Run], float]) -> dict[str, Any]:
    """Mean and deviation of a score (None for a single run), and the mean of the baseline's."""
    values = [score(run) for run in runs]
    deviation = stdev(values) if len(values) > 1 else None
    return {"mean": mean(values), "sd": deviation, "baseline_mean": mean(score(run["baseline"]) for run in runs)}
