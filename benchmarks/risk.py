"""Risks and numbers from images: calibration and discrimination on chest X-rays, intervals and errors on house prices.

    python benchmarks/risk.py DATA_FOLDER [JOB …] [--method head|full] [--max-minutes M]

DATA_FOLDER holds pneumoniamnist/pneumoniamnist_full.npz and houses/{houses.csv,images}. Results are added to
benchmarks/results/risk.json as each run ends. Nothing of a test row takes part in choosing or in calibrating.

houses_5_fold           every house is tested once by a model that has not seen it; equal photos stay together
pneumoniamnist          the official split, whose test films differ from the others: 62 % are ill, not 74 %
pneumoniamnist_mixed    all films mixed and split anew by the seed, so that the test rows are like the others
"""

import argparse
import csv
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from runs import add

import budwood
from budwood.core.dataset import Dataset
from budwood.core.store import Store
from budwood.engine.calibrate import expected_calibration_error
from budwood.engine.number_metrics import roc_auc_interval
from budwood.engine.predictor import Predictor
from budwood.engine.statistics import interval

RESULTS = Path(__file__).parent / "results" / "risk.json"
FOLDS = 5
RESAMPLES = 1000
BARS = {
    "houses_5_fold": "coverage_90 between 0.85 and 0.95, and mape below 0.66",
    "pneumoniamnist": "ece at most 0.05",
    "pneumoniamnist_mixed": "ece at most 0.05",
}
Pairs = NDArray[np.float64]


def houses(data: Path, out: Path, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Five runs of `budwood.adapt`, and the metrics of all their test rows together."""
    with (data / "houses" / "houses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(seed).shuffle(rows)
    given: list[Sequence[float]] = []
    folds = []
    for fold in range(FOLDS):
        test = rows[fold::FOLDS]
        train = [row for number, row in enumerate(rows) if number % FOLDS != fold]
        parts = {name: table(data, out / f"{name}{fold}", part) for name, part in (("train", train), ("test", test))}
        store = str(out / "store")
        found = budwood.adapt(
            parts["train"], test=parts["test"], target="price", input="image", seed=seed, store=store, name="houses",
            **options,
        )  # fmt: skip
        answers = list(budwood.predict("houses", file=parts["test"], input="image", store=store))
        given += [
            (float(row["price"]), float(answer["value"]), *map(float, answer["interval"]))
            for row, answer in zip(test, answers, strict=True)
        ]
        facts = {name: found.metrics[name] for name in ("mape", "rmse", "mae", "r2", "coverage_90")}
        folds.append(facts | {"method": found.method, "n_train": found.n_train, "seconds": found.seconds})
    return numbers(np.asarray(given)) | {"folds": folds}


def table(data: Path, folder: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A folder with a table and the images that it names."""
    for row in rows:
        place = folder / row["image"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / "houses" / row["image"], place)
    with (folder / "houses.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def numbers(rows: Pairs) -> dict[str, Any]:
    """Metrics of (true, given, low, high), each with a 95 % interval."""
    truth, value, low, high = rows.T
    inside = ((low <= truth) & (truth <= high)).astype(np.float64)
    shares = np.abs(value - truth) / truth
    errors = np.abs(value - truth)
    return {
        "n": len(rows),
        "coverage_90": float(inside.mean()),
        "coverage_90_ci": list(interval(inside)),
        "interval_high_by_low": float(np.median(high / low)),
        "mape": float(shares.mean()),
        "mape_ci": resampled(rows, lambda part: float(np.mean(np.abs(part[:, 1] - part[:, 0]) / part[:, 0]))),
        "mape_of_the_mean": float(np.mean(np.abs(truth.mean() - truth) / truth)),
        "mae": float(errors.mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "rmse_ci": resampled(rows, lambda part: float(np.sqrt(np.mean((part[:, 1] - part[:, 0]) ** 2)))),
        "r2_of_the_logarithm": float(1 - np.mean(np.log(value / truth) ** 2) / np.log(truth).var()),
    }


def pneumonia(data: Path, out: Path, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    return films(data / "pneumoniamnist" / "pneumoniamnist_full.npz", out, seed, options)


def mixed(data: Path, out: Path, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    with np.load(data / "pneumoniamnist" / "pneumoniamnist_full.npz") as arrays:
        whole = {
            f"train_{kind}": np.concatenate([arrays[f"{part}_{kind}"] for part in ("train", "val", "test")])
            for kind in ("images", "labels")
        }
    np.savez(out / "films.npz", **whole)
    return films(out / "films.npz", out, seed, options)


def films(path: Path, out: Path, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """One run, and its risks on the test rows, before and after the calibration."""
    store = Store.default(out / "store")
    found = budwood.adapt(
        path,
        task="image_regression",
        options={"flip": False},
        seed=seed,
        store=str(out / "store"),
        name="films",
        **options,
    )
    bundle = store.resolve("films").bundle
    record = bundle.manifest.data
    assert record is not None
    rows: Dataset = store.load_splits(record.fingerprint).test
    truth = np.asarray([float(row["label"]) for row in rows])
    with closing(Predictor.open(bundle)) as predictor:
        after = risks(predictor, rows, truth)
        before = risks(replace(predictor, calibration={}), rows, truth)
    return {
        "method": found.method,
        "verdict": found.verdict,
        "seconds": found.seconds,
        "n_train": found.n_train,
        "n": len(rows),
        "share_in_training": predictor.task.to_json()["share"],
        "share_in_test": float(truth.mean()),
        "mean_risk": float(after[:, 0].mean()),
        "ece": error(after),
        "ece_ci": resampled(after, error),
        "ece_before_calibration": error(before),
        "brier": float(((after[:, 0] - truth) ** 2).mean()),
        "roc_auc": found.metrics["roc_auc"],
        "roc_auc_ci": list(roc_auc_interval(after[:, 0], truth)),
        "average_precision": found.metrics["average_precision"],
        "baseline": {name: found.baseline.metrics[name] for name in ("ece", "roc_auc", "brier")},
        "calibration": dict(bundle.manifest.calibration),
    }


def risks(predictor: Predictor, rows: Dataset, truth: Pairs) -> Pairs:
    values = [float(answer["value"]) for answer in predictor.predict_all(rows.rows)]
    return np.stack([np.asarray(values), truth], axis=1)


def error(pairs: Pairs) -> float:
    return expected_calibration_error(pairs[:, :1], pairs[:, 1:])


def resampled(rows: Pairs, measure: Callable[[Pairs], float]) -> list[float]:
    """95 % percentile interval over resampled rows."""
    generator = np.random.default_rng(0)
    values = [measure(rows[generator.integers(0, len(rows), len(rows))]) for _ in range(RESAMPLES)]
    return [float(value) for value in np.quantile(values, (0.025, 0.975))]


JOBS: dict[str, Callable[[Path, Path, int, dict[str, Any]], dict[str, Any]]] = {
    "houses_5_fold": houses,
    "pneumoniamnist": pneumonia,
    "pneumoniamnist_mixed": mixed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("jobs", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method")
    parser.add_argument("--max-minutes", type=float)
    given = parser.parse_args()
    asked = {"method": given.method, "max_minutes": given.max_minutes}
    options = {name: value for name, value in asked.items() if value is not None}
    for name in given.jobs or JOBS:
        with tempfile.TemporaryDirectory() as folder:
            facts = JOBS[name](given.data, Path(folder), given.seed, options)
        run = {"seed": given.seed, "options": options} | facts
        print(name, json.dumps(run), flush=True)
        add(RESULTS, name, run)


if __name__ == "__main__":
    main()
