"""Screening speed and memory: the fingerprint model of BACE over public libraries of molecules.

    python benchmarks/screening.py MOLECULENET_FOLDER LIBRARY … [--copies N]

MOLECULENET_FOLDER holds bace.csv; the libraries are .smi or .csv files, or .gz of them, joined to one file, N times.
Memory is the peak resident memory of this process and its workers, seen every 50 ms, after the first tenth of the
library and at its end.
"""

import argparse
import csv
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.engine.library import open_library
from budwood.engine.machine import describe
from budwood.engine.molecule_bundle import new_base
from budwood.engine.scaffold_split import scaffold_splits
from budwood.engine.screening import screen

RESULTS = Path(__file__).parent / "results" / "screening.json"
TOP = 1_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("libraries", type=Path, nargs="+")
    parser.add_argument("--copies", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        bundle = model(options.data / "bace.csv", work)
        joined = work / "joined.smi"
        with joined.open("w", encoding="utf-8") as file:
            for _ in range(options.copies):
                for path in options.libraries:
                    file.writelines(f"{record.smiles}\n" for record in open_library(path).records() if record.smiles)
        found = {f"{workers}_processes": measured(bundle, joined, work, workers) for workers in (0, 2)}
    found["machine"] = describe()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def model(path: Path, work: Path) -> Bundle:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{"smiles": row["mol"], "label": row["Class"]} for row in csv.DictReader(file)]
    splits = scaffold_splits(Dataset.of(rows, path.name))
    task = registry.get("tasks", "molecule_property").from_rows(splits.train.rows)
    context = Context(out=work / "unused", work=work / "run", splits=splits, task=task)
    return Recipe((registry.get("steps/adapt", "fingerprint")(),)).run(new_base(work), context, work / "steps")


def measured(bundle: Bundle, library: Path, work: Path, workers: int) -> dict[str, Any]:
    total = sum(1 for _ in open_library(library).records())
    watch = Watch()
    peaks: dict[str, float] = {}

    def note(what: str, done: int, of: int, rate: str) -> None:
        if done >= total / 10 and "after_a_tenth_mb" not in peaks:
            peaks["after_a_tenth_mb"] = watch.peak

    with watch:
        found = screen(
            bundle, open_library(library), top=TOP, work=work / f"w{workers}", workers=workers, progress=note
        )
        peaks["in_all_mb"] = watch.peak
    return {
        "molecules": found.screened,
        "invalid": found.invalid,
        "seconds": found.seconds,
        "molecules_per_second": round(found.screened / found.seconds),
        "peak_memory": {name: round(value, 1) for name, value in peaks.items()},
        "in_domain_of_the_best": round(sum(row["in_domain"] for row in found.rows) / len(found.rows), 3),
    }


class Watch:
    """The peak resident memory of this process and its children together, in MB."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self) -> None:
        while not self.ended.wait(0.05):
            own = Path("/proc/self/task")
            pids = {"self"} | {pid for task in own.iterdir() for pid in read(task / "children").split()}
            self.peak = max(self.peak, sum(resident(pid) for pid in pids))

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()
        time.sleep(0.1)


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def resident(pid: str) -> float:
    pages = read(Path(f"/proc/{pid}/statm")).split()
    return int(pages[1]) * 4096 / 1e6 if pages else 0.0


if __name__ == "__main__":
    main()
