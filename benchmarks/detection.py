"""Object detection through the command line: average precision on public sets, with seeds, folds and intervals.

    python benchmarks/detection.py DATA_FOLDER [JOB …] [--max-minutes M] [--image-size N]

DATA_FOLDER holds bccd (Pascal VOC with its official lists) and car_plates (annotations, images). A job is a name, or
name:SEED for one of its seeds or folds. Results are added to benchmarks/results/detection.json as each run ends.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runs import add, averages, budwood

RESULTS = Path(__file__).parent / "results" / "detection.json"
FOLDS = 5
FACTS = ("method", "metric", "score", "ci", "metrics", "intervals", "n_train", "n_test", "baseline", "verdict")
COSTS = ("seconds", "stages", "peak_memory_mb", "energy_wh")


def bccd(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """Blood cells by their official lists: learnt from train, chosen by val, measured on test. Cells have no up."""
    return adapt(out, data / "bccd", seed, ["--rotate", *extra])


def plates(data: Path, out: Path, fold: int, extra: Sequence[str]) -> dict[str, Any]:
    """One fold of five, the same in every run: 24 photos to test, 96 to learn from and to choose by."""
    files = sorted((data / "car_plates" / "annotations").glob("*.xml"))
    random.Random(0).shuffle(files)
    for number, file in enumerate(files):
        part = out / ("test" if number % FOLDS == fold else "train")
        (image,) = (data / "car_plates" / "images").glob(f"{file.stem}.*")
        for source, folder in ((file, "annotations"), (image, "images")):
            (part / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part / folder / source.name)
    return adapt(out, out / "train", 0, ["--test", str(out / "test"), *extra])


Job = Callable[[Path, Path, int, Sequence[str]], dict[str, Any]]
JOBS: dict[str, tuple[Job, Sequence[int]]] = {"bccd": (bccd, (0, 1, 2)), "car_plates_5_fold": (plates, range(FOLDS))}


def adapt(out: Path, data: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """One run of the command line in a store of its own; its JSON, and what the bundle says of the training."""
    store = out / "store"
    command = ["adapt", str(data), "--seed", str(seed), "--store", str(store), "--name", "bench", "--json", *extra]
    found: dict[str, Any] = json.loads(budwood(*command))
    manifest = json.loads((store / "bench" / "1" / "bundle.json").read_text(encoding="utf-8"))
    found["image_size"] = manifest["task"]["image_size"]
    found["threshold"] = manifest["calibration"].get("threshold")
    for fact in ("history", "self_test"):
        found[fact] = manifest["report"].get(fact)
    return found


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Both average precisions, of runs with the same options."""
    each = {metric: averages(runs, lambda run, metric=metric: run["metrics"][metric]) for metric in ("ap50", "ap")}
    return {"of": runs[0]["options"], **each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("jobs", nargs="*")
    parser.add_argument("--max-minutes")
    parser.add_argument("--image-size")
    given = parser.parse_args()
    flags = {"--max-minutes": given.max_minutes, "--image-size": given.image_size}
    extra = [part for flag, value in flags.items() if value for part in (flag, value)]
    for asked in given.jobs or JOBS:
        name, _, seed = asked.partition(":")
        job, seeds = JOBS[name]
        for number in [int(seed)] if seed else seeds:
            with tempfile.TemporaryDirectory() as folder:
                facts = job(given.data, Path(folder), number, extra)
            kept = {key: facts[key] for key in (*FACTS, *COSTS, "image_size", "threshold", "history", "self_test")}
            run = {"seed": number, "options": " ".join(extra)} | kept
            print(name, json.dumps(run), flush=True)
            add(RESULTS, name, run, summary)


if __name__ == "__main__":
    main()
