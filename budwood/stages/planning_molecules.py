"""What `adapt` would cost for molecules: fits of the fingerprint model on a few rows, and steps of the transformer."""

from collections.abc import Callable
from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import UsageError
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Step
from budwood.core.task import Row
from budwood.stages.molecules import BASELINE, METHODS, wanted
from budwood.stages.planning import CURVE_ROWS, Foreseen, Survey, timed

__all__ = ["foresee"]

FIT_ROWS = (100, 800)
"""The baseline is tried with so many rows."""
PROBE_ROWS = 64
BATCH = 32


def foresee(survey: Survey) -> Foreseen:
    """The methods that `adapt` would try, the seconds of each stage, and the baseline's learning curve.

    Raises:
        UsageError: there is no such method.
    """
    from budwood.engine.fingerprint_curve import curve_of

    method, splits = survey.job.method, survey.splits
    if method not in METHODS:
        raise UsageError(f"no method {method!r} for molecules", where="--method", fix=f"one of: {', '.join(METHODS)}")
    random = np.random.default_rng(survey.job.seed)
    pool = (*splits.train.rows, *splits.validation.rows)
    rows = [pool[i] for i in random.permutation(len(pool))]
    names = wanted(method, splits)
    survey.say("trying out", "the baseline on a few molecules")
    fit = fingerprint_seconds(survey, rows)
    stages = {BASELINE: fit(len(splits.train)) + fit(len(pool))}
    parameters = 0
    if len(names) > 1:
        survey.say("trying out", "the transformer on a few molecules")
        probe = Transformer(survey, rows[:PROBE_ROWS])
        parameters = probe.parameters
        stages["smiles"] = probe.seconds(len(splits.train), len(splits.validation))
        stages["final fit"] = probe.seconds(len(pool), 0)
        if "average" in names:
            stages["average"] = fit(len(splits.train))
            stages["final fit"] += fit(len(pool))
    survey.say("learning curve", f"on {min(len(rows), CURVE_ROWS):,} molecules")
    curve = curve_of(survey.task, rows[:CURVE_ROWS], survey.job.seed)
    if method != "auto":
        why = "asked for"
    elif len(names) == 1:
        why = f"{len(splits.train):,} molecules are too many for the transformer on this machine"
    else:
        why = "the better one of the fingerprint model, the transformer and their mean, on held-out molecules"
    return Foreseen(method, why, parameters, stages, curve)


def fingerprint_seconds(survey: Survey, rows: list[Row]) -> Callable[[int], float]:
    """Seconds of the fingerprint step by its number of rows: in proportion above those that were tried."""
    few, many = (min(len(rows), number) for number in FIT_ROWS)
    step = registry.get("steps/adapt", BASELINE)()
    first = timed(lambda: rehearse(survey, step, rows[:few]))
    last = timed(lambda: rehearse(survey, step, rows[:many])) if many > few else first

    def seconds(n_rows: int) -> float:
        return max(first, last * n_rows / many)

    return seconds


def rehearse(survey: Survey, step: Step, rows: list[Row]) -> None:
    """One step with its graph on a few rows."""
    few, none = Dataset(tuple(rows)), Dataset(())
    folder = survey.folder / f"{step.name}-{len(rows)}"
    splits = Splits(few, none, none, survey.job.seed)
    context = Context(folder / "unused", folder / "run", splits, survey.task, survey.job.seed)
    Recipe((step,)).run(survey.base, context, folder / "steps")


class Transformer:
    """The base's network with a few molecules: how long it learns from one, and how long it reads one."""

    def __init__(self, survey: Survey, rows: list[Row]) -> None:
        from budwood.engine.molecule_inputs import Inputs
        from budwood.engine.smiles_training import Molecules
        from budwood.engine.tokenizer_file import read_tokenizer

        folder, self.task, self.seed = survey.base.path, survey.task, survey.job.seed
        self.model: Any = survey.task.build(folder)
        self.parameters = sum(item.numel() for item in self.model.parameters())
        self.variants, self.model.variants = self.model.variants, 1
        self.sample = Molecules(survey.task, read_tokenizer(folder, Inputs.open(folder).max_tokens), rows)
        step = registry.get("steps/adapt", "smiles")
        self.epochs = step().readings("model.safetensors" in survey.base.manifest.files)
        self.fixed = timed(lambda: rehearse(survey, step(epochs=1), rows[:BATCH]))
        self.learn_seconds, self.read_seconds = self.learning(), self.reading()

    def seconds(self, n_train: int, n_held: int) -> float:
        """One fit with all its epochs, each judged on the held-out molecules, which are read once more afterwards."""
        reading = (self.epochs + self.variants) * n_held * self.read_seconds
        return float(self.fixed + self.epochs * n_train * self.learn_seconds + reading)

    def learning(self) -> float:
        """Seconds a molecule: another spelling, a forward and a backward pass."""
        import torch

        from budwood.engine.planning import step_seconds
        from budwood.engine.smiles_training import tensors

        numbers = list(range(min(BATCH, len(self.sample))))
        spelling = timed(lambda: self.sample.varied(numbers, self.seed, 0))
        batch = tensors(self.sample.varied(numbers, self.seed, 0)), torch.from_numpy(self.sample.targets[numbers])

        def loss(model: Any, pair: Any) -> Any:
            return self.task.loss(model(**pair[0]), pair[1])

        return (spelling + step_seconds(self.model, batch, loss)) / len(numbers)

    def reading(self) -> float:
        """Seconds a molecule, one spelling of it."""
        from budwood.engine.smiles_training import predict

        predict(self.model, self.sample, 1)
        return timed(lambda: predict(self.model, self.sample, 1)) / len(self.sample)
