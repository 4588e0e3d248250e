"""Image classification through the command line: accuracy on public sets with seeds and intervals, and throughput.

    python benchmarks/images.py DATA_FOLDER [JOB …] [--max-minutes M]

DATA_FOLDER holds hymenoptera_256/{train,val}, galaxy_spiral_212/train, flowers5_small/flowers (class folders) and
pneumoniamnist/pneumoniamnist_full.npz. A job is a name, or name:SEED for one of its seeds. Results are added to
benchmarks/results/images.json as each run ends.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from runs import add, averages, budwood

from budwood.core.store import Store
from budwood.engine.number_metrics import roc_auc, roc_auc_interval
from budwood.engine.predictor import Predictor
from budwood.engine.reading import read_dataset

RESULTS = Path(__file__).parent / "results" / "images.json"
FOLDS = 5
FLOWERS_TEST = 600
THROUGHPUT_IMAGES = 1000
THROUGHPUT_EDGE = 160
FACTS = ("method", "metric", "score", "ci", "n_train", "n_test", "baseline", "verdict", "seconds", "stages", "metrics")


def hymenoptera(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """The split that its authors give."""
    folder = data / "hymenoptera_256"
    return adapt(out, folder / "train", seed, ["--test", str(folder / "val"), *extra])


def pneumonia(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """The official split; a mirrored chest has its heart on the wrong side."""
    path = data / "pneumoniamnist" / "pneumoniamnist_full.npz"
    facts = adapt(out, path, seed, ["--no-flip", *extra])
    rows = [row for row in read_dataset(path).dataset.rows if row["split"] == "test"]
    with closing(Predictor.open(Store(out / "store").resolve("bench").bundle)) as predictor:
        shares = [answer["scores"]["1"] for answer in predictor.predict_all(rows, top=2)]
    truth = [int(row["label"]) for row in rows]
    facts["metrics"]["roc_auc"] = roc_auc(shares, truth)
    facts["metrics"]["roc_auc_ci"] = list(roc_auc_interval(shares, truth))
    return facts


def flowers(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """600 test images, drawn by the seed."""
    files = shuffled(data / "flowers5_small" / "flowers", seed)
    return split_and_adapt(out, files[FLOWERS_TEST:], files[:FLOWERS_TEST], seed, extra)


def galaxies(data: Path, out: Path, fold: int, extra: Sequence[str]) -> dict[str, Any]:
    """One fold of five; the folds are the same in every run."""
    files = shuffled(data / "galaxy_spiral_212" / "train", 0)
    train = [path for number, path in enumerate(files) if number % FOLDS != fold]
    return split_and_adapt(out, train, files[fold::FOLDS], 0, ["--rotate", *extra])


def throughput(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """`budwood predict MODEL --file DIR` on JPEG files of 160 pixels, from the start of the process to its end."""
    from PIL import Image

    folder = data / "hymenoptera_256"
    size = ["--image-size", str(THROUGHPUT_EDGE), "--method", "head"]
    facts = adapt(out, folder / "train", seed, ["--test", str(folder / "val"), *size, *extra])
    photos, files = out / "photos", shuffled(folder / "train", seed)
    photos.mkdir()
    for number in range(THROUGHPUT_IMAGES):
        with Image.open(files[number % len(files)]) as image:
            small = image.convert("RGB").resize((THROUGHPUT_EDGE, THROUGHPUT_EDGE))
        small.rotate(number // len(files)).save(photos / f"{number:05}.jpg", quality=90)
    began = time.monotonic()
    command = ["predict", "bench", "--file", str(photos), "-o", str(out / "answers.csv"), "--store", str(out / "store")]
    budwood(*command)
    seconds = time.monotonic() - began
    rate = round(THROUGHPUT_IMAGES / seconds, 1)
    return {key: facts[key] for key in ("method", "score", "n_test")} | {
        "images": THROUGHPUT_IMAGES,
        "seconds": round(seconds, 2),
        "images_per_second": rate,
    }


Job = Callable[[Path, Path, int, Sequence[str]], dict[str, Any]]
JOBS: dict[str, tuple[Job, Sequence[int]]] = {
    "hymenoptera": (hymenoptera, (0, 1, 2)),
    "galaxies_5_fold": (galaxies, range(FOLDS)),
    "pneumoniamnist": (pneumonia, (0,)),
    "flowers5_small": (flowers, (0,)),
    "throughput_160": (throughput, (0,)),
}


def shuffled(folder: Path, seed: int) -> list[Path]:
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    random.Random(seed).shuffle(files)
    return files


def split_and_adapt(
    out: Path, train: Sequence[Path], test: Sequence[Path], seed: int, extra: Sequence[str]
) -> dict[str, Any]:
    """Class folders of both parts, and one run on them."""
    for part, files in (("train", train), ("test", test)):
        for path in files:
            place = out / part / path.parent.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / path.name)
    return adapt(out, out / "train", seed, ["--test", str(out / "test"), *extra])


def adapt(out: Path, data: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """One run of the command line in a store of its own; its JSON."""
    store = str(out / "store")
    found: dict[str, Any] = json.loads(
        budwood("adapt", str(data), "--seed", str(seed), "--store", store, "--name", "bench", "--json", *extra)
    )
    return found


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of runs with the same options; a measurement of speed has no baseline to compare with."""
    if "baseline" not in runs[0]:
        return {}
    return {"of": runs[0]["options"], **averages(runs, lambda run: float(run["score"]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("jobs", nargs="*")
    parser.add_argument("--max-minutes")
    parser.add_argument("--method")
    parser.add_argument("--image-size")
    given = parser.parse_args()
    flags = {"--max-minutes": given.max_minutes, "--method": given.method, "--image-size": given.image_size}
    extra = [part for flag, value in flags.items() if value for part in (flag, value)]
    for asked in given.jobs or JOBS:
        name, _, seed = asked.partition(":")
        job, seeds = JOBS[name]
        for number in [int(seed)] if seed else seeds:
            with tempfile.TemporaryDirectory() as folder:
                facts = job(given.data, Path(folder), number, extra)
            kept = {key: facts[key] for key in FACTS if key in facts} if "baseline" in facts else facts
            run = {"seed": number, "options": " ".join(extra)} | kept
            print(name, json.dumps(run), flush=True)
            add(RESULTS, name, run, summary)


if __name__ == "__main__":
    main()
