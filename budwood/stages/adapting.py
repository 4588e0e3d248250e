"""`adapt`: read, split, fit the baseline, try the better method, compare the two, and publish the one that won."""

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.bundle import Bundle, digest
from budwood.core.commit import remove_folder
from budwood.core.dataset import ReadOptions, Splits
from budwood.core.errors import DataError, UsageError
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Progress, Step, check_minutes, check_seed
from budwood.core.store import Entry, Store, check_name
from budwood.core.task import Task
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found, catalogue, find_base
from budwood.engine.machine import EnergyMeter, peak_memory_mb
from budwood.engine.measure import Scores, score
from budwood.engine.predictor import Predictor
from budwood.engine.reading import named_files, read_dataset
from budwood.engine.release import REPORT, release
from budwood.engine.report_plots import Compared, Progressed
from budwood.engine.splits import make_splits
from budwood.engine.statistics import better
from budwood.engine.threads import share_cores
from budwood.stages import choosing
from budwood.stages.results import Adapted, Baseline

__all__ = ["Job", "run"]

HEAD: Step = registry.get("steps/adapt", "head")()
ONNX: Step = registry.get("steps/export", "onnx")()


@dataclass(frozen=True)
class Job:
    """What `adapt` was asked for; the fields are those of `budwood.adapt`."""

    data: Path | str
    task: str
    base: str
    name: str | None
    target: str | None
    input: str | None
    group: str | None
    test: Path | str | None
    method: str
    shots: int | None
    seed: int
    max_minutes: float | None
    fresh: bool


@dataclass
class Bench:
    """The run's surroundings: where results are kept, whom to tell, and how long each stage took."""

    base: Bundle
    task: Task
    folder: Path
    job: Job
    progress: Progress
    meter: EnergyMeter
    began: float
    seconds: float | None = None
    """What each fit may take."""
    stages: dict[str, float] = field(default_factory=dict)
    histories: list[Any] = field(default_factory=list)
    """(step, score) on held-out rows of each fit of the method that was tried."""
    curve: Mapping[str, Any] | None = None
    """The baseline's learning curve."""

    def say(self, what: str, note: str) -> None:
        self.progress(what, 0, 0, note)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.stages[name] = round(self.stages.get(name, 0.0) + time.monotonic() - began, 2)

    def share_time(self, fits: int) -> None:
        """Divide the granted minutes between this many fits; a fifth is left for measuring and exporting."""
        if self.job.max_minutes is not None:
            self.seconds = 48 * self.job.max_minutes / fits

    def make(self, splits: Splits, steps: tuple[Step, ...]) -> Bundle:
        """The bundle of a recipe on these rows, made once."""
        context = Context(
            out=self.folder / "unused",
            work=self.folder / "run",
            splits=splits,
            task=self.task,
            seed=self.job.seed,
            seconds=self.seconds,
            progress=self.progress,
        )
        return Recipe(steps).run(self.base, context, self.folder / "steps")


def run(job: Job, store: Store, progress: Progress) -> Adapted:
    """Do the job. Its work folder outlives a kill; the same job finds it and goes on from there."""
    began = time.monotonic()
    share_cores()
    check(job)
    with EnergyMeter() as meter:
        splits = read(job, progress)
        task, found = plan_task(job, splits, store)
        name = job.name or name_of(Path(job.data))
        key = digest(
            {"job": [str(splits.fingerprint), task.to_json(), found.label, job.method, job.seed, job.max_minutes]}
        )
        with store.lock(f"adapt-{key[:24]}") as folder:
            if job.fresh:
                remove_folder(folder)
                folder.mkdir()
            base = import_base(found.folder, found.label, store.work("bases"), type(task), found.license)
            bench = Bench(base, task.fit_to(base.path), folder, job, progress, meter, began)
            bench.say("base", f"base={found.label}  # {found.why}; license {base.manifest.license}")
            method, final, baseline, why, calibration = learn(bench, splits)
            store.save_splits(splits)
            with bench.stage("publish"):
                entry, scores = publish(bench, store, name, final, splits, (method, why, baseline, calibration))
            remove_folder(folder)
    return Adapted(
        name=entry.name,
        version=entry.version,
        id=entry.bundle.id,
        path=entry.bundle.path,
        report=entry.bundle.path / REPORT,
        task=task.name,
        base=found.label,
        method=method,
        metric=scores.metric,
        score=scores.value,
        ci=scores.ci,
        n_train=len(splits.train) + (len(splits.validation) if choosing.small(splits) else 0),
        n_test=len(splits.test),
        baseline=Baseline("head", baseline.value, baseline.ci),
        verdict=why,
        seconds=round(time.monotonic() - began, 2),
        peak_memory_mb=round(peak_memory_mb(), 1),
        energy_wh=round(meter.energy.wh, 4),
        stages=bench.stages,
    )


def check(job: Job) -> None:
    if job.method not in choosing.METHODS:
        choosing.choose(job.method, (), 0)
    check_minutes(job.max_minutes)
    if job.name is not None:
        check_name(job.name)
    check_seed(job.seed)
    if job.task not in ("auto", *registry.names("tasks")):
        registry.get("tasks", job.task)


def read(job: Job, progress: Progress) -> Splits:
    reading = read_dataset(job.data, job.target, job.input, job.group)
    test = None if job.test is None else read_dataset(job.test, job.target, job.input, job.group)
    splits = make_splits(reading.dataset, test=test.dataset if test else None, seed=job.seed, shots=job.shots)
    for note in (*reading.notes, *splits.notes):
        progress("data", 0, 0, note)
    options = ReadOptions(job.target, job.input, job.group, job.shots, named_files(test) if test else ())
    return replace(splits, options=options)


def plan_task(job: Job, splits: Splits, store: Store) -> tuple[Task, Found]:
    """The task that the rows describe, and the base model to learn it with."""
    rows = (*splits.train, *splits.validation)
    kind = choosing.task_for(job.task, rows)
    task = kind.from_rows(rows)
    several = [any(isinstance(row["label"], list | tuple) for row in part) for part in (splits.train, splits.test)]
    if several == [False, True]:
        raise DataError(
            "the test rows have lists of labels, and the training rows have one label each",
            where=", ".join(splits.test.sources),
            fix="make the label columns alike",
        )
    return task, stored_base(job.base, store) or find_base(job.base, kind.default_base, store.work("bases"))


def stored_base(base: str, store: Store) -> Found | None:
    """The model of the store that a base names; None for `auto`, a folder, and what `bases.toml` or the hub may know.

    Raises:
        NotFoundError: the store has the name, but not this version or alias.
    """
    known = {name for item in catalogue().values() for name in (item.name, item.hub)}
    if base == "auto" or base in known or Path(base).is_dir() or not store.versions(re.split("[:@]", base)[0]):
        return None
    entry = store.resolve(base)
    return Found(entry.bundle.path, f"{entry.name}:{entry.version}", "asked for: a model of the store")


def n_parameters(base: Bundle) -> int:
    """Parameters of a base in float32."""
    return int(base.manifest.files["model.safetensors"].bytes / 4)


def name_of(path: Path) -> str:
    """A model's name from the data's: the file's stem, or its folder's where the stem says nothing."""
    plain = path.stem.lower()
    if plain in ("train", "training", "data", "dataset", "dev", "all") and path.resolve().parent.name:
        plain = path.resolve().parent.name.lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:64] or "model"


Learned = tuple[str, Bundle, Scores, str, dict[str, float]]
"""Method, model, the baseline's scores on the test rows, the reason, and the calibration."""


def learn(bench: Bench, splits: Splits) -> Learned:
    """Baseline first, then the method that suits the data; the winner on held-out rows gets its ONNX graph."""
    choice = choosing.choose(bench.job.method, (*splits.train, *splits.validation), n_parameters(bench.base))
    bench.say("method", f"method={choice.method}  # {choice.why}")
    trials = choosing.folds(splits)
    bench.share_time(len(trials) + choosing.small(splits))
    with bench.stage("head"):
        heads = [bench.make(trial, (HEAD,)) for trial in trials]
    decision, tried = compare(bench, choice, trials, heads)
    bench.histories = [bundle.manifest.report.get("history", []) for bundle in tried]
    chain = (HEAD, *(() if decision.method == "head" else (step("adapt", decision.method)(),)))
    rows = splits
    if choosing.small(splits):
        rows = choosing.merged(splits)
        chain = (HEAD, *(replace(item, **epochs_of(tried)) for item in chain[1:]))
    with bench.stage("final fit"):
        bench.curve = bench.make(rows, (HEAD,)).manifest.report.get("curve")
        bench.make(rows, chain)
    return guard(
        bench, decision, splits, rows, chain, {"head": calibration(heads), decision.method: calibration(tried)}
    )


def calibration(bundles: list[Bundle]) -> dict[str, float]:
    """What was fitted on the held-out rows, the median of the trials; the fit on all rows keeps it."""
    fitted = [bundle.manifest.calibration for bundle in bundles]
    return {name: float(median(item[name] for item in fitted)) for name in fitted[0]}


def compare(
    bench: Bench, choice: choosing.Decision, trials: list[Splits], heads: list[Bundle]
) -> tuple[choosing.Decision, list[Bundle]]:
    """Baseline against the chosen method on held-out rows: which to go on with, why, and its models."""
    if choice.method == "head":
        return choice, heads
    try:
        with bench.stage(choice.method):
            adapted = [bench.make(trial, (HEAD, step("adapt", choice.method)())) for trial in trials]
    except UsageError as error:
        if bench.job.method != "auto":
            raise
        return choosing.Decision("head", f"{choice.method} was not tried: {error.cause}"), heads
    asked = bench.job.method != "auto"
    decision = choosing.decide(choice.method, held_out(heads, trials), held_out(adapted, trials), asked=asked)
    bench.say("method", f"method={decision.method}  # {decision.why}")
    return decision, heads if decision.method == "head" else adapted


def guard(
    bench: Bench,
    decision: choosing.Decision,
    splits: Splits,
    rows: Splits,
    chain: tuple[Step, ...],
    calibrations: dict[str, dict[str, float]],
) -> Learned:
    """A last look at the test rows: an adapted model that is significantly worse there is never shipped by `auto`."""
    method, why = decision.method, decision.why
    with bench.stage("export"):
        baseline = final = bench.make(rows, (HEAD, ONNX))
        if method != "head":
            final = bench.make(rows, (*chain, ONNX))
    with bench.stage("test"):
        baseline_scores = measured(baseline, splits)
        if method != "head":
            found = better(baseline_scores.per_row, measured(final, splits).per_row)
            why = f"{why}; {choosing.describe(method, found, 'test rows')}"
            if found.difference < 0 and found.significant and bench.job.method == "auto":
                method, final, why = "head", baseline, f"{why}, so the baseline is shipped"
    return method, final, baseline_scores, why, calibrations[method]


def step(folder: str, name: str) -> Any:
    return registry.get(f"steps/{folder}", name)


def measured(bundle: Bundle, splits: Splits) -> Scores:
    with closing(Predictor.open(bundle)) as predictor:
        return score(predictor, splits.test.rows)


def held_out(bundles: list[Bundle], trials: list[Splits]) -> Any:
    """Scores of the held-out rows of all trials, in one vector."""
    parts = []
    for bundle, trial in zip(bundles, trials, strict=True):
        with closing(Predictor.open(bundle, "torch")) as predictor:
            parts.append(score(predictor, trial.validation.rows).per_row)
    return np.concatenate(parts)


def epochs_of(bundles: list[Bundle]) -> dict[str, Any]:
    """How many epochs were best on held-out rows, for the fit on all rows; methods without epochs take none."""
    histories = [bundle.manifest.report.get("history") for bundle in bundles]
    best = [max(range(len(items)), key=lambda i: items[i][1]) + 1 for items in histories if items]
    return {"epochs": int(median(best))} if best else {}


def publish(
    bench: Bench, store: Store, name: str, final: Bundle, splits: Splits, facts: tuple[Any, ...]
) -> tuple[Entry, Scores]:
    """Score the ONNX graph on the test rows, write the facts and the card into the bundle, and give it a version."""
    method, why, baseline, calibration = facts
    done = [item for item in store.list() if item.name == name and item.bundle and item.bundle.parent == final.id]
    with closing(Predictor.open(final)) as predictor:
        honest = replace(predictor, calibration=calibration)
        scores = score(honest, splits.test.rows, keep_logits="labels" in bench.task.to_json())
    if done:  # a run that was killed after it had published
        return store.resolve(f"{name}:{done[-1].version}"), scores
    report: Mapping[str, Any] = {
        "method": method,
        "verdict": why,
        "baseline": {"method": "head", "score": baseline.value, "ci": list(baseline.ci)},
        "stages": dict(bench.stages),
    }
    out = bench.folder / "release"
    shutil.rmtree(out, ignore_errors=True)
    described = release(
        final,
        out,
        name=name,
        scores=scores,
        splits=splits,
        report=report,
        energy=bench.meter.energy,
        seconds=time.monotonic() - bench.began,
        calibration=calibration,
        compared=() if method == "head" else (Compared("baseline (head)", baseline.value, baseline.ci),),
        progressed=Progressed(() if method == "head" else bench.histories, bench.curve),
    )
    return store.publish(name, described), scores
