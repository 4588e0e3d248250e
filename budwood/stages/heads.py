"""Learning for tasks whose model ends in a linear head: the head alone first, then the method that suits the data."""

from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.errors import UsageError
from budwood.core.step import Step
from budwood.engine.predictor import Predictor
from budwood.engine.risk_calibration import unfitted
from budwood.engine.statistics import better
from budwood.engine.table import note
from budwood.stages import choosing
from budwood.stages.results import Baseline
from budwood.stages.workbench import HEAD, ONNX, Bench, Learned, measured

__all__ = ["Fit", "calibration", "fit", "held_out", "learn", "n_parameters"]

SETTINGS = ("learning_rate", "head_learning_rate", "batch_size", "first_layer", "epochs")
"""Of a recipe of `adapt.full`, what the fit on all rows takes from the trials."""
EVERY = 1 << 20
"""More alternatives than any answer has."""


@dataclass(frozen=True)
class Fit:
    """What was learnt, and from what: all that another fit with more rows needs."""

    learned: Learned
    models: list[Bundle]
    """The models of the method that ships, one for each trial."""
    trials: list[Splits]
    """The rows that each of them learnt from, and those that it had not seen."""
    rows: Splits
    """What the last fit learnt from."""
    chain: tuple[Step, ...]
    """How it learnt, with the settings that the trials found: another fit that is to be compared learns like this."""


def learn(bench: Bench, splits: Splits) -> Learned:
    """Baseline first, then the method that suits the data; the winner on held-out rows gets its ONNX graph."""
    return fit(bench, splits).learned


def fit(bench: Bench, splits: Splits, times: int = 1) -> Fit:
    """The same, with the models on the way. All of it will be done so many `times`, which share the minutes."""
    rows_known = (*splits.train, *splits.validation)
    advised = bench.task.method_for(bench.job.method, len(rows_known))
    choice = choosing.choose(bench.job.method, rows_known, n_parameters(bench.base), advised)
    bench.say("method", f"method={choice.method}  # {choice.why}")
    trials = choosing.folds(splits)
    if choosing.of_one_group(trials):
        why = "its rows are left out by tenths instead, which says less of other groups: the baseline may promise more"
        bench.say("group", note("group", "one to learn from", why))
    bench.share_time(times * (len(trials) + choosing.small(splits)))
    with bench.stage("head"):
        heads = [bench.make(trial, (HEAD,)) for trial in trials]
    decision, tried = compare(bench, choice, trials, heads)
    chain = (HEAD, *(() if decision.method == "head" else (step("adapt", decision.method)(),)))
    rows = splits
    if choosing.small(splits):
        rows = choosing.merged(splits)
        chain = (HEAD, *(replace(item, **settings_of(tried)) for item in chain[1:]))
    with bench.stage("final fit"):
        calibrations = {"head": calibration(bench.make(rows, (HEAD,)), heads)}
        calibrations[decision.method] = calibration(bench.make(rows, chain), tried)
    learned = guard(bench, decision, splits, rows, chain, calibrations)
    if unfitted(learned.calibration):
        why = "20 held-out rows or more with both outcomes would do: risks are as the network gives them"
        bench.say("calibration", note("calibration", "none", why))
    learned = replace(learned, histories=[bundle.manifest.report.get("history", []) for bundle in tried])
    if learned.method == "head":
        return Fit(learned, heads, trials, rows, (HEAD,))
    return Fit(learned, tried, trials, rows, chain)


def calibration(final: Bundle, trials: list[Bundle]) -> dict[str, float]:
    """What the final fit has found on rows that it left out; where it left out none, the median of the trials.

    What a trial lacks is left out for all; tasks whose bins lie on a calibrated scale give a calibration in any case.
    """
    if final.manifest.calibration:
        return dict(final.manifest.calibration)
    fitted = [bundle.manifest.calibration for bundle in trials]
    shared = [name for name in fitted[0] if all(name in item for item in fitted)]
    return {name: float(median(item[name] for item in fitted)) for name in shared}


def compare(
    bench: Bench, choice: choosing.Decision, trials: list[Splits], heads: list[Bundle]
) -> tuple[choosing.Decision, list[Bundle]]:
    """Baseline against the chosen method on held-out rows: which to go on with, why, and its models."""
    if choice.method == "head":
        return choice, heads
    method = step("adapt", choice.method)()
    if advice := method.advice(bench.task, len(trials[0].train)):
        bench.say("recipe", advice)
    try:
        with bench.stage(choice.method):
            adapted = [bench.make(trial, (HEAD, method)) for trial in trials]
    except UsageError as error:
        if bench.job.method != "auto":
            raise
        return choosing.Decision("head", f"{choice.method} was not tried: {error.cause}"), heads
    asked = bench.job.method != "auto"
    scores = held_out(heads, trials), held_out(adapted, trials)
    task = bench.task
    decision = choosing.decide(choice.method, *scores, asked=asked, needs_gain=task.needs_gain, of=task.quality_name)
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
    return Learned(
        method=method,
        why=why,
        model=final,
        calibration=calibrations[method],
        baseline=Baseline(
            "head",
            baseline_scores.value,
            baseline_scores.ci,
            baseline_scores.metrics,
            bench.task.intervals(baseline_scores.answers, splits.test.rows),
        ),
        n_train=len(rows.train),
        curve=baseline.manifest.report.get("curve"),
    )


def step(folder: str, name: str) -> Any:
    return registry.get(f"steps/{folder}", name)


def held_out(bundles: list[Bundle], trials: list[Splits]) -> Any:
    """Quality of the answers on the held-out rows of all trials, in one vector."""
    parts = []
    for bundle, trial in zip(bundles, trials, strict=True):
        with closing(Predictor.open(bundle, "torch")) as predictor:
            rows = trial.validation.rows
            parts.append(predictor.task.quality(predictor.predict_all(rows, top=EVERY), rows))
    return np.concatenate(parts)


def settings_of(bundles: list[Bundle]) -> dict[str, Any]:
    """The settings of the trials, for the fit on all rows: those by rule, and what held-out rows have chosen.

    The rules depend on the number of rows, and what is shipped must have learnt as what was compared.
    """
    reports = [bundle.manifest.report for bundle in bundles]
    recipes = [item["recipe"] for item in reports if "recipe" in item]
    settings = {name: recipes[0][name] for name in SETTINGS} if recipes else {}
    if shares := [recipe["interpolation"] for recipe in recipes]:
        settings["interpolation"] = float(median(shares))
    best = [max(range(len(items)), key=lambda i: items[i][1]) + 1 for item in reports if (items := item.get("history"))]
    return settings | ({"epochs": int(median(best))} if best else {})


def n_parameters(base: Bundle) -> int:
    """Parameters of a base in float32."""
    return int(base.manifest.files["model.safetensors"].bytes / 4)
