"""`adapt`: read, split, learn in the way that suits the task, and publish the better of baseline and adapted model."""

import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from budwood.core import registry
from budwood.core.bundle import digest
from budwood.core.commit import remove_folder
from budwood.core.dataset import Dataset, ReadOptions, Splits
from budwood.core.errors import DataError
from budwood.core.step import Progress, check_minutes, check_seed
from budwood.core.store import Entry, Store, check_name
from budwood.core.task import Task
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found, catalogue, find_base
from budwood.engine.embedding_plot import embedding_picture
from budwood.engine.machine import EnergyMeter, peak_memory_mb
from budwood.engine.measure import Scores, score
from budwood.engine.predictor import Predictor
from budwood.engine.reading import named_files, read_dataset
from budwood.engine.release import REPORT, release
from budwood.engine.report_plots import Compared, Progressed
from budwood.engine.threads import share_cores
from budwood.stages import choosing, self_training
from budwood.stages.results import Adapted
from budwood.stages.workbench import Bench, Job, Learned

__all__ = ["Job", "run"]


def run(job: Job, store: Store, progress: Progress) -> Adapted:
    """Do the job. Its work folder outlives a kill; the same job finds it and goes on from there."""
    began = time.monotonic()
    share_cores()
    check(job)
    with EnergyMeter() as meter:
        splits, kind = read(job, progress)
        task, found = plan_task(job, kind, splits, store)
        name = job.name or name_of(Path(job.data))
        unlabelled = self_training.read(job, task, splits)
        wanted = [str(splits.fingerprint), task.to_json(), found.label, job.method, job.seed, job.max_minutes]
        if unlabelled is not None:
            wanted.append(unlabelled.dataset.fingerprint)
            for note in unlabelled.notes:
                progress("data", 0, 0, note)
        key = digest({"job": wanted})
        with store.lock(f"adapt-{key[:24]}") as folder:
            if job.fresh:
                remove_folder(folder)
                folder.mkdir()
            base = import_base(found, store.work("bases"), type(task))
            bench = Bench(base, task.fit_to(base.path), folder, job, progress, meter, began)
            bench.say("base", f"base={found.label}  # {found.why}; license {base.manifest.license}")
            for note in bench.task.notes():
                bench.say("labels", note)
            if unlabelled is None:
                learned = learner(task)(bench, splits)
            else:
                learned = self_training.learn(bench, splits, unlabelled.dataset)
            splits = learned.splits or splits
            store.save_splits(splits)
            with bench.stage("publish"):
                entry, scores = publish(bench, store, name, splits, learned)
            remove_folder(folder)
    return Adapted(
        name=entry.name,
        version=entry.version,
        id=entry.bundle.id,
        path=entry.bundle.path,
        report=entry.bundle.path / REPORT,
        task=task.name,
        base=found.label,
        method=learned.method,
        metric=scores.metric,
        score=scores.value,
        ci=scores.ci,
        n_train=learned.n_train,
        n_test=len(splits.test),
        baseline=learned.baseline,
        verdict=learned.why,
        seconds=round(time.monotonic() - began, 2),
        peak_memory_mb=round(peak_memory_mb(), 1),
        energy_wh=round(meter.energy.wh, 4),
        stages=bench.stages,
        split=learned.split,
        unlabelled=learned.unlabelled,
        metrics=scores.metrics,
        intervals=bench.task.intervals(scores.answers, splits.test.rows),
    )


def check(job: Job) -> None:
    if job.method not in ("auto", *registry.names("steps/adapt")):
        choosing.choose(job.method, (), 0)
    check_minutes(job.max_minutes)
    if job.name is not None:
        check_name(job.name)
    check_seed(job.seed)
    if job.task not in ("auto", *registry.names("tasks")):
        registry.get("tasks", job.task)


def read(job: Job, progress: Progress) -> tuple[Splits, type[Task]]:
    """The rows set aside, and the task that all of them describe: fewer rows may look like another's."""
    columns = (job.target, job.input, job.group)
    reading = read_dataset(job.data, *columns, task=job.task)
    test = None if job.test is None else read_dataset(job.test, *columns, task=job.task)
    kind = choosing.task_for(job.task, reading.dataset.rows)
    if test is not None and not set(kind.inputs) <= set(test.dataset.rows[0]):
        raise DataError(
            f"{kind.name} learns from {', '.join(kind.inputs)}, which the test rows do not have",
            where=f"--test {job.test}",
            fix="give test rows of the same kind",
        )
    tests = named_files(test) if test else ()
    options = ReadOptions(job.target, job.input, job.group, job.shots, tests, job.split)
    splits = choosing.split_rows(kind, reading.dataset, test.dataset if test else None, options, job.seed)
    for note in (*reading.notes, *splits.notes):
        progress("data", 0, 0, note)
    return replace(splits, options=options), kind


def plan_task(job: Job, kind: type[Task], splits: Splits, store: Store) -> tuple[Task, Found]:
    """The task with what the rows to learn from say of it, and the base model to learn it with."""
    rows = (*splits.train, *splits.validation)
    task = kind.described(rows, job.options)
    several = [any(isinstance(row.get("label"), list | tuple) for row in part) for part in (splits.train, splits.test)]
    if several == [False, True]:
        raise DataError(
            "the test rows have lists of labels, and the training rows have one label each",
            where=", ".join(splits.test.sources),
            fix="make the label columns alike",
        )
    if task.head != "classes":  # a class that only test rows have is a wrong answer; what is no number is none
        refuse_unknown(task, splits.test)
    return task, stored_base(job.base, store) or find_base(job.base, kind.default_base, store.work("bases"), kind.name)


def refuse_unknown(task: Task, rows: Dataset) -> None:
    """Raise DataError, before any work, when a test row has a label that cannot be compared with an answer."""
    for row in rows:
        try:
            task.targets([row])
        except DataError as error:
            source = row[task.inputs[0]]
            named = source if isinstance(source, str) else "one of them"
            raise DataError(error.cause, where=f"the test rows: {named}", fix=error.fix) from error


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


def name_of(path: Path) -> str:
    """A model's name from the data's: the file's stem, or its folder's where the stem says nothing."""
    plain = path.stem.lower()
    if plain in ("train", "training", "data", "dataset", "dev", "all") and path.resolve().parent.name:
        plain = path.resolve().parent.name.lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:64] or "model"


def learner(task: Task) -> Callable[[Bench, Splits], Learned]:
    """The way to learn that a task names, a file of `budwood/stages/`."""
    learn: Callable[[Bench, Splits], Learned] = import_module(f"budwood.stages.{task.learning}").learn
    return learn


def publish(bench: Bench, store: Store, name: str, splits: Splits, learned: Learned) -> tuple[Entry, Scores]:
    """Score the ONNX graph on the test rows, write the facts and the card into the bundle, and give it a version."""
    final, baseline = learned.model, learned.baseline
    done = [item for item in store.list() if item.name == name and item.bundle and item.bundle.parent == final.id]
    with closing(Predictor.open(final)) as predictor:
        honest = replace(predictor, calibration=learned.calibration)
        scores = score(honest, splits.test.rows, keep_logits=bench.task.keeps_logits)
        embedding = None if done else embedding_picture(honest, splits.test.rows, bench.job.seed)
    if done:  # a run that was killed after it had published
        return store.resolve(f"{name}:{done[-1].version}"), scores
    report: Mapping[str, Any] = {
        "method": learned.method,
        "verdict": learned.why,
        "baseline": {"method": baseline.method, "score": baseline.score, "ci": list(baseline.ci)},
        "stages": dict(bench.stages),
        **({"split": learned.split} if learned.split else {}),
        **({"unlabelled": dict(learned.unlabelled)} if learned.unlabelled else {}),
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
        calibration=learned.calibration,
        compared=(Compared(f"baseline ({baseline.method})", baseline.score, baseline.ci),) if learned.adapted else (),
        progressed=Progressed(learned.histories if learned.adapted else (), learned.curve),
        embedding=embedding,
    )
    return store.publish(name, described), scores
