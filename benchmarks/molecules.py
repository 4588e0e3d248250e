"""Molecule models on public sets: fingerprint, SMILES transformer and their mean, on scaffold and random splits.

    python benchmarks/molecules.py DATA_FOLDER [JOB …]
    python benchmarks/molecules.py                       # hold the results that are there against the bars again

DATA_FOLDER holds bace.csv, BBBP.csv and delaney-processed.csv as MoleculeNet publishes them. Each job trains all three
models as `adapt` does and tests each; results are added to benchmarks/results/molecules.json as each job ends.
`bars` in it says whether each claim holds; the script ends with status 1 when one does not.
"""

import csv
import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Step
from budwood.engine.machine import describe
from budwood.engine.molecule_bundle import new_base
from budwood.engine.number_metrics import roc_auc_interval
from budwood.engine.predictor import Predictor
from budwood.engine.scaffold_split import scaffold_splits
from budwood.stages import molecules

RESULTS = Path(__file__).parent / "results" / "molecules.json"


SLACK = 0.01
"""How far the mean of both models may be below the fingerprint model, in the metric of the bar."""


class Job(NamedTuple):
    file: str
    smiles: str
    target: str
    split: str
    bar: float
    """The least ROC AUC, or the greatest RMSE."""
    seed: int = 0


LOG_S = "measured log solubility in mols per litre"
JOBS = {
    "bace_scaffold": Job("bace.csv", "mol", "Class", "scaffold", 0.85),
    "bbbp_scaffold": Job("BBBP.csv", "smiles", "BBBP", "scaffold", 0.68),
    **{f"esol_random_{seed}": Job("delaney-processed.csv", "smiles", LOG_S, "random", 1.15, seed) for seed in range(3)},
}


def main() -> int:
    data, *names = sys.argv[1:] or [""]
    for name in (names or JOBS) if data else ():
        found = results()
        found[name] = run(Path(data), JOBS[name])
        found["machine"] = describe()
        save(found)
        print(name, json.dumps(found[name]), flush=True)
    found = results()
    found["bars"] = {name: bars(job, found[name]["test"]) for name, job in JOBS.items() if name in found}
    save(found)
    print(json.dumps(found["bars"], indent=1))
    return 0 if all(value["met"] for each in found["bars"].values() for value in each.values()) else 1


def results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(found: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def bars(job: Job, test: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What ships against the bar of its data set, and the mean against the fingerprint model."""
    metric = "roc_auc" if "roc_auc" in test["shipped"] else "rmse"
    sign = 1 if metric == "roc_auc" else -1
    shipped, mean, baseline = (test[name][metric] for name in ("shipped", "average", "fingerprint"))
    return {
        f"shipped {metric}": {"bar": job.bar, "value": shipped, "met": sign * (shipped - job.bar) >= 0},
        f"average {metric}": {"bar": baseline, "value": mean, "met": sign * (mean - baseline) >= -SLACK},
    }


def run(data: Path, job: Job) -> dict[str, Any]:
    with (data / job.file).open(newline="", encoding="utf-8") as file:
        rows = [{"smiles": row[job.smiles], "label": row[job.target]} for row in csv.DictReader(file)]
    splits = scaffold_splits(Dataset.of(rows, job.file), job.split, seed=job.seed)
    task = registry.get("tasks", "molecule_property").from_rows((*splits.train, *splits.validation))
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        base = new_base(work)

        def make(part: Splits, steps: tuple[Step, ...]) -> Bundle:
            context = Context(out=work / "unused", work=work / "run", splits=part, task=task, seed=job.seed)
            began = time.monotonic()
            bundle = Recipe(steps).run(base, context, work / "steps")
            seconds[steps[-1].name] = round(seconds.get(steps[-1].name, 0.0) + time.monotonic() - began, 1)
            return bundle

        chosen = molecules.choose_model(make, splits, say=lambda line: print("  ", line, flush=True))
        trial = {way: make(splits, molecules.chain(way, {})) for way in chosen.tried}
        tests = {way: tested(bundle, splits) for way, bundle in trial.items()}
        return {
            "split": next(line for line in splits.notes if line.startswith("split=")).removeprefix("split="),
            "shipped": chosen.method,
            "why": chosen.why,
            "validation_quality": chosen.tried,
            "test": {**tests, "shipped": tested(chosen.model, splits)},
            "seconds": seconds,
        }


def tested(bundle: Bundle, splits: Splits) -> dict[str, Any]:
    rows = splits.test.rows
    with closing(Predictor.open(bundle)) as predictor:
        task: Any = predictor.task
        answers = predictor.predict_all(rows)
    found: dict[str, Any] = {name: round(value, 4) for name, value in task.metrics(answers, rows).items()}
    if task.kind == "classification":
        shares = [task.confidence(answer, "label") for answer in answers]
        found["roc_auc_ci"] = [round(bound, 4) for bound in roc_auc_interval(shares, task.targets(rows)[:, 0])]
    found["in_domain"] = round(sum(answer["in_domain"] for answer in answers) / len(answers), 3)
    return found


if __name__ == "__main__":
    sys.exit(main())
