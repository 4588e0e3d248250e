"""Accuracy of `budwood adapt` on public text sets, through the command line, on test rows the training never saw.

    python benchmarks/accuracy.py DATA_FOLDER [JOB …]

DATA_FOLDER holds banking77/, ag_news/, sms_spam/ and trec_fine/ as their authors publish them. Results are added to
benchmarks/results/accuracy.json as each job ends.
"""

import csv
import json
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from budwood.engine.machine import describe

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
AG_TEST_ROWS = 2000
"""The few-shot runs on AG News are tested on this many rows, drawn once: five seeds on all 7,600 take an hour."""


def banking(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    folder = data / "banking77"
    return adapt(out, folder / "train.csv", seed, ["--test", str(folder / "test.csv"), *extra])


def ag_news(data: Path, out: Path, seed: int, extra: Sequence[str], test_rows: int | None) -> dict[str, Any]:
    folder = data / "ag_news"
    test = folder / "test.tsv"
    if test_rows is not None:
        lines = test.read_text(encoding="utf-8").splitlines(keepends=True)
        test = out / "test.tsv"
        test.write_text("".join(random.Random(0).sample(lines, test_rows)), encoding="utf-8")
    return adapt(out, folder / "dev.tsv", seed, ["--test", str(test), *extra])


def trec(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """Six coarse labels: the part before the colon."""
    with zipfile.ZipFile(data / "trec_fine" / "qc.zip") as archive:
        names = {Path(name).name: name for name in archive.namelist() if name.endswith(".txt")}
        tables = {part: archive.read(names[f"{part}.txt"]).decode("latin-1") for part in ("train", "test")}
    for part, text in tables.items():
        with (out / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            for line in text.splitlines():
                label, _, question = line.partition(" ")
                writer.writerow((question, label.partition(":")[0]))
    return adapt(out, out / "train.csv", seed, ["--test", str(out / "test.csv"), *extra])


def sms(data: Path, out: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """80 % to learn from, 20 % to test on, drawn by the seed."""
    lines = (data / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(seed).shuffle(lines)
    cut = len(lines) * 8 // 10
    (out / "sms_train.tsv").write_text("".join(lines[:cut]), encoding="utf-8")
    (out / "sms_test.tsv").write_text("".join(lines[cut:]), encoding="utf-8")
    return adapt(out, out / "sms_train.tsv", seed, ["--test", str(out / "sms_test.tsv"), *extra])


Job = Callable[[Path, Path, int], dict[str, Any]]
JOBS: dict[str, tuple[Job, Sequence[int]]] = {
    "trec_coarse_full": (lambda data, out, seed: trec(data, out, seed, ["--method", "full"]), (0,)),
    "banking77_10_per_class": (lambda data, out, seed: banking(data, out, seed, ["--shots", "10"]), (0, 1, 2)),
    "ag_news_8_per_class": (
        lambda data, out, seed: ag_news(data, out, seed, ["--shots", "8"], AG_TEST_ROWS),
        (0, 1, 2, 3, 4),
    ),
    "sms_spam_80_20": (lambda data, out, seed: sms(data, out, seed, []), (0,)),
    "banking77_all": (lambda data, out, seed: banking(data, out, seed, []), (0,)),
    "ag_news_dev": (lambda data, out, seed: ag_news(data, out, seed, [], None), (0,)),
}


def adapt(out: Path, data: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """One run of the command line in a store of its own; its JSON."""
    command = [sys.executable, "-m", "budwood", "adapt", str(data), "--seed", str(seed), "--store", str(out / "store")]
    done = subprocess.run([*command, "--name", "bench", "--json", *extra], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scores = [run["score"] for run in runs]
    heads = [run["baseline"]["score"] for run in runs]
    return {
        "mean": mean(scores),
        "sd": stdev(scores) if len(scores) > 1 else None,
        "baseline_mean": mean(heads),
        "n_test": runs[0]["n_test"],
        "runs": list(runs),
    }


def main() -> None:
    data, wanted = Path(sys.argv[1]), sys.argv[2:] or list(JOBS)
    for name in wanted:
        job, seeds = JOBS[name]
        runs = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                facts = job(data, Path(folder), seed)
            keep = ("method", "metric", "score", "ci", "n_train", "n_test", "baseline", "verdict", "seconds", "stages")
            runs.append({"seed": seed} | {key: facts[key] for key in keep})
            print(name, json.dumps(runs[-1]), flush=True)
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"jobs": {}}
        found["machine"] = describe()
        found["jobs"][name] = summary(runs)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
