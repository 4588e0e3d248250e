"""Kill `shrink` at random moments, again and again: it always resumes, and what it makes is always the same.

    python tests/faults/shrink_loop.py KILLS [SEED]

Prints one JSON line. The imports happen once; each attempt is a fork of this process, so that a kill costs little.
"""

import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import matplotlib.backends.backend_agg  # noqa: F401  # imported once, not in each fork
import tiny

from budwood import flow
from budwood.core.bundle import Bundle
from budwood.core.commit import STAGING
from budwood.engine import distilling, measure, planning, search, train  # noqa: F401
from budwood.engine.transformers_import import quiet_transformers
from budwood.stages import shrink_judging, shrink_search


def prepare(folder: Path) -> None:
    """An adapted model in a store, short races, and candidates that no noise of such a tiny model rules out."""
    tiny.bert(folder / "base")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("text", "label"))
        writer.writeheader()
        writer.writerows(tiny.rows(6))
    planning.UPDATES = 12
    shrink_judging.RACE_SECONDS = shrink_search.GLANCE_SECONDS = 0.01
    measure.serving_memory = lambda *_: None  # type: ignore[assignment]  # a process for each would be most of the time
    search.misses = lambda speed, budget: []
    flow.adapt(folder / "rows.csv", base=str(folder / "base"), name="tiny", method="head", store=folder / "adapted")


def attempt(store: Path) -> int:
    """Start `shrink` in a child; its process id."""
    child = os.fork()
    if child == 0:
        try:
            flow.shrink("tiny:1", max_drop=0.9, name="small", store=store)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  # the child must not return into the parent's code
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    return child


def made(store: Path) -> dict[str, list[str]]:
    """The model files' hashes of every finished step, by its key; raises when a committed bundle does not open."""
    for version in sorted((store / "small").glob("[0-9]*")):
        Bundle.open(version)
    found = {}
    for cached in store.glob(".work/*/steps/*"):
        if not any(part.startswith(STAGING) for part in cached.relative_to(store).parts):  # that was being removed
            files = Bundle.open(cached).manifest.files
            models = [name for name in sorted(files) if name.endswith((".safetensors", ".onnx"))]
            found[cached.name] = [files[name].sha256 for name in models]
    return found


def loop(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    prepare(folder)
    shutil.copytree(folder / "adapted", folder / "whole")
    began = time.monotonic()
    _, status = os.waitpid(attempt(folder / "whole"), 0)
    whole = time.monotonic() - began
    if status:
        raise SystemExit(f"the whole run failed with status {status}")
    expected = made(folder / "whole")
    chance = random.Random(seed)
    done, runs, different, published = 0, 0, 0, 0
    while done < kills or not runs:
        store = folder / f"store-{runs}"
        if not store.exists():
            shutil.copytree(folder / "adapted", store)
        child = attempt(store)
        deadline = time.monotonic() + chance.uniform(0.0, 0.9 * whole)
        ended = 0
        while not ended and (time.monotonic() < deadline or done >= kills):
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
        elif status:
            raise SystemExit(f"attempt failed after {done} kills with status {status}")
        else:
            runs += 1
            published += len(list((store / "small").glob("[0-9]*")))
        different += sum(expected[key] != hashes for key, hashes in made(store).items())
    return {
        "kills": done,
        "completed_runs": runs,
        "published": published,
        "different": different,
        "steps": len(expected),
        "seconds": round(whole, 2),
    }


if __name__ == "__main__":
    quiet_transformers()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(loop(Path(name), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
