"""What `adapt` would cost for tasks with a linear head: the probe of `plan`, and the baseline's learning curve."""

from pathlib import Path
from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.core.task import Row, Task
from budwood.engine import linear_head
from budwood.engine.embedding_plot import MOST_ROWS
from budwood.engine.forecast import forecast
from budwood.stages import choosing
from budwood.stages.heads import n_parameters
from budwood.stages.planning import CURVE_ROWS, Foreseen, Survey, timed
from budwood.stages.workbench import HEAD, ONNX

__all__ = ["foresee"]

PROBE_ROWS = 64
TRIAL_ROWS = 40
"""Rows with which the fixed costs are tried out: loading, exporting, checking, committing."""


def foresee(survey: Survey) -> Foreseen:
    """The method that `adapt` would try beside the baseline, the seconds of each stage, and the learning curve."""
    base, task, splits, job = survey.base, survey.task, survey.splits, survey.job
    learnt = (*splits.train.rows, *splits.validation.rows)
    choice = choosing.choose(job.method, learnt, n_parameters(base), task.method_for(job.method, len(learnt)))
    survey.say("trying out", "the baseline on a few rows")
    fixed = timed(lambda: rehearse(base, task, splits, survey.folder, job.seed))
    probe = Probe(base, task, learnt, job.seed)
    stages = estimate(probe, choice.method, splits, fixed)
    if task.head != "classes":  # the curve is one of accuracy
        return Foreseen(choice.method, choice.why, n_parameters(base), stages)
    survey.say("learning curve", f"on {min(len(learnt), CURVE_ROWS):,} rows")
    curve = probe.curve(job.seed)
    return Foreseen(choice.method, choice.why, n_parameters(base), stages, curve)


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
    stages["test"] = (3 * len(splits.test) + min(len(splits.test), MOST_ROWS)) * read
    stages["export and checks"] = 2 * fixed
    return stages


def learn(probe: Probe, step: Any, n_train: int, n_validation: int) -> float:
    """Seconds of one fit at most: rows there and back, and the held-out rows after each epoch."""
    epochs, rows = step.effort(probe.task, n_train)
    return float(rows * probe.learn_seconds + epochs * n_validation * probe.read_seconds)
