"""Kill `adapt` at random moments, again and again, and see that it always resumes and always ends with the same model.

    python tests/faults/adapt_loop.py KILLS [SEED]

Prints one JSON line. The imports happen once; each attempt is a fork of this process, so that a kill costs little.
"""

import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import matplotlib.backends.backend_agg  # noqa: F401  # imported once, not in each fork
import tiny

from budwood import flow
from budwood.core.bundle import Bundle
from budwood.core.commit import STAGING
from budwood.engine import fine_tune, planning, release, text_model, train  # noqa: F401
from budwood.engine.transformers_import import quiet_transformers


def prepare(folder: Path) -> None:
    """A base, a table, short runs, and a checkpoint after every step."""
    tiny.bert(folder / "base")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("text", "label"))
        writer.writeheader()
        writer.writerows(tiny.rows(6))
    planning.UPDATES = 12
    fine_tune.train = partial(train.train, save_seconds=0.0)


def attempt(folder: Path, store: Path) -> int:
    """Start `adapt` in a child; its process id."""
    child = os.fork()
    if child == 0:
        try:
            flow.adapt(folder / "rows.csv", base=str(folder / "base"), name="tiny", method="full", seed=1, store=store)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  # the child must not return into the parent's code
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    return child


def finished(store: Path) -> list[tuple[str, float]]:
    """Weights and score of every version; raises when a committed bundle does not open."""
    found = []
    for version in sorted((store / "tiny").glob("[0-9]*")):
        manifest = Bundle.open(version).manifest
        found.append((manifest.files["model.safetensors"].sha256, manifest.metrics["accuracy"].value))
    for cached in store.glob(".work/*/steps/*"):
        if not any(part.startswith(STAGING) for part in cached.relative_to(store).parts):  # that was being removed
            Bundle.open(cached)
    return found


def loop(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    prepare(folder)
    began = time.monotonic()
    _, status = os.waitpid(attempt(folder, folder / "whole"), 0)
    whole = time.monotonic() - began
    (expected,) = finished(folder / "whole")
    chance = random.Random(seed)
    done, runs, different = 0, 0, 0
    store = folder / "store-0"
    while done < kills:
        child = attempt(folder, store)
        deadline = time.monotonic() + chance.uniform(0.0, 0.9 * whole)
        ended = 0
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
            finished(store)
            continue
        if status:
            raise SystemExit(f"attempt failed after {done} kills with status {status}")
        runs += 1
        different += any(model != expected for model in finished(store))
        store = folder / f"store-{runs}"
    return {
        "kills": done,
        "completed_runs": runs,
        "different": different,
        "score": expected[1],
        "seconds": round(whole, 2),
    }


if __name__ == "__main__":
    quiet_transformers()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(loop(Path(name), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
