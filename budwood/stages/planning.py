"""`plan`: what `adapt` would do and cost, from a short probe, and what more labels would bring."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import UsageError
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Progress
from budwood.core.store import Store
from budwood.core.task import Row, Task
from budwood.engine import linear_head
from budwood.engine.base_model import import_base
from budwood.engine.card import GRAMS_PER_KWH
from budwood.engine.forecast import forecast
from budwood.engine.machine import EnergyMeter, peak_memory_mb, usable_cores
from budwood.engine.threads import share_cores
from budwood.stages import adapting, choosing
from budwood.stages.heads import n_parameters
from budwood.stages.results import Planned
from budwood.stages.workbench import HEAD, ONNX, Job

__all__ = ["run"]

PROBE_ROWS = 64
CURVE_ROWS = 1500
"""Rows of the learning curve; more would take longer than a plan may."""
TRIAL_ROWS = 40
"""Rows with which the fixed costs are tried out: loading, exporting, checking, committing."""


def run(job: Job, store: Store, progress: Progress) -> Planned:
    """Probe the data and the base. Nothing is published.

    Raises:
        DataError, UsageError, NotFoundError: as `adapt`.
    """
    began = time.monotonic()
    share_cores()
    adapting.check(job)
    splits = adapting.read(job, progress)
    task, found = adapting.plan_task(job, splits, store)
    if task.learning != "heads":
        raise UsageError(
            f"plan foresees tasks with a linear head only, and {task.name} learns in another way",
            where=str(job.data),
            fix=f"budwood adapt {job.data} --max-minutes 5 keeps to a limit",
        )
    base = import_base(found, store.work("bases"), type(task))
    task = task.fit_to(base.path)
    learnt = (*splits.train.rows, *splits.validation.rows)
    choice = choosing.choose(job.method, learnt, n_parameters(base))
    with tempfile.TemporaryDirectory(dir=store.work("plans")) as folder, EnergyMeter() as meter:
        progress("trying out", 0, 0, "the baseline on a few rows")
        fixed = timed(lambda: rehearse(base, task, splits, Path(folder), job.seed))
        probe = Probe(base, task, learnt, job.seed)
        stages = estimate(probe, choice.method, splits, fixed)
        progress("learning curve", 0, 0, f"on {min(len(learnt), CURVE_ROWS):,} rows")
        curve = probe.curve(job.seed)
        spent = time.monotonic() - began
        watts = 3600 * meter.energy.wh / spent
    seconds = sum(stages.values())
    granted = None if job.max_minutes is None else 60 * job.max_minutes
    expected = seconds if granted is None else min(seconds, granted)
    energy = watts * expected / 3600
    return Planned(
        task=task.name,
        base=found.label,
        license=base.manifest.license,
        parameters=n_parameters(base),
        method=choice.method,
        why=choice.why,
        rows=splits.sizes(),
        seconds=round(expected, 1),
        seconds_wanted=round(seconds, 1),
        fits=granted is None or seconds <= granted,
        stages={name: round(value, 1) for name, value in stages.items()},
        memory_mb=round(peak_memory_mb(), 1),
        energy_wh=round(energy, 3),
        co2_g=round(energy / 1000 * GRAMS_PER_KWH, 3),
        energy_method=meter.energy.method,
        curve=curve.to_json() if curve else None,
        probe_seconds=round(time.monotonic() - began, 1),
        cores=usable_cores(),
    )


def timed(work: Any) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def rehearse(base: Bundle, task: Task, splits: Splits, folder: Path, seed: int) -> None:
    """The baseline with its graph on a few rows: what every run pays, however short."""
    few = Dataset(splits.train.rows[:TRIAL_ROWS], splits.train.sources)
    small = Splits(few, Dataset((), few.sources), few, seed)
    context = Context(out=folder / "unused", work=folder / "run", splits=small, task=task, seed=seed)
    Recipe((HEAD, ONNX)).run(base, context, folder / "steps")


class Probe:
    """The base model with rows of the data: how long it reads a row, and how long it learns from one."""

    def __init__(self, base: Bundle, task: Task, rows: tuple[Row, ...], seed: int) -> None:
        from budwood.engine.batching import Rows, freeze_lookups

        self.task, self.seed = task, seed
        random = np.random.default_rng(seed)
        self.rows = [rows[i] for i in random.permutation(len(rows))]
        self.model = task.build(base.path)
        freeze_lookups(self.model)
        self.encoder = task.encoder(base.path)
        sample = Rows(task, self.encoder, self.rows[:PROBE_ROWS])
        self.views = 1 + len(task.views(sample.inputs([0])))
        self.read_seconds = self.reading(sample) / len(sample)
        self.learn_seconds = self.learning(sample)

    def reading(self, sample: Any) -> float:
        from budwood.engine.batching import run

        run(self.model, sample, "embedding")
        return timed(lambda: run(self.model, sample, "embedding"))

    def learning(self, sample: Any) -> float:
        """Seconds a row of a forward and a backward pass."""
        import torch

        from budwood.engine.planning import step_seconds

        numbers = list(range(min(16, len(sample))))
        batch = sample.batch(numbers), torch.from_numpy(sample.targets[numbers])

        def loss(model: Any, pair: Any) -> Any:
            return self.task.loss(model(**pair[0]), pair[1])

        return step_seconds(self.model, batch, loss) / len(numbers)

    def curve(self, seed: int) -> Any:
        from budwood.engine.batching import Rows, run

        rows = Rows(self.task, self.encoder, self.rows[:CURVE_ROWS])
        embeddings = run(self.model, rows, "embedding")
        n_labels = self.model.head.out_features
        penalty = linear_head.choose_penalty(embeddings, rows.targets, n_labels, seed, self.task.penalties)
        return forecast(embeddings, rows.targets, n_labels, penalty, seed)


def estimate(probe: Probe, method: str, splits: Splits, fixed: float) -> dict[str, float]:
    """Seconds of each stage of `adapt`, by the rows that it reads and learns from."""
    trials = choosing.folds(splits)
    last = choosing.small(splits)
    read = probe.read_seconds
    pool = len(splits.train) + len(splits.validation)
    head = sum(len(trial.train) * probe.views + len(trial.validation) for trial in trials) * read
    stages = {"head": head, "final fit": pool * probe.views * read if last else 0.0}
    if method != "head":
        step = registry.get("steps/adapt", method)()
        fits = [(len(trial.train), len(trial.validation)) for trial in trials]
        stages[method] = sum(learn(probe, step, *fit) for fit in fits)
        stages["final fit"] += learn(probe, step, pool, 0) if last else 0.0
    stages["test"] = 3 * len(splits.test) * read
    stages["export and checks"] = 2 * fixed
    return stages


def learn(probe: Probe, step: Any, n_train: int, n_validation: int) -> float:
    """Seconds of one fit at most: rows there and back, and the held-out rows after each epoch."""
    epochs, rows = step.effort(probe.task, n_train)
    return float(rows * probe.learn_seconds + epochs * n_validation * probe.read_seconds)
