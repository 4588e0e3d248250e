"""Adapting to molecules: the fingerprint model first, then a SMILES transformer and the mean of both; the better ships.

The same decisions as for texts, by a score that small sets can decide: see `MoleculeProperty.quality`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import UsageError
from budwood.core.step import Step
from budwood.core.task import Row
from budwood.engine.predictor import Predictor
from budwood.engine.scaffold_split import kind_of
from budwood.engine.statistics import Comparison, better
from budwood.stages.results import Baseline
from budwood.stages.workbench import Bench, Learned, measured

__all__ = ["BASELINE", "METHODS", "Chosen", "choose_model", "learn"]

BASELINE = "fingerprint"
METHODS = ("auto", BASELINE, "smiles", "average")
CHAINS: Mapping[str, tuple[str, ...]] = {
    BASELINE: ("fingerprint",),
    "smiles": ("smiles",),
    "average": ("smiles", "average"),
}
"""Each method's steps in `steps/adapt/`, starting at the base."""
MOST_ROWS = 20_000
"""Labels above which `auto` does not try the transformer: on two cores it would take hours."""
CURVE_ROWS = 1000
"""Molecules of the learning curve: some seconds of work."""
SURE = 0.1
"""p value below which another model is taken instead of the baseline, which answers twenty times faster."""

Make = Callable[[Splits, tuple[Step, ...]], Bundle]
"""The bundle of a chain of steps from the base on these rows, made once: `adapting.Bench.make`."""


@dataclass(frozen=True)
class Chosen:
    """What `choose_model` found: the model to ship, the baseline, and why."""

    method: str
    why: str
    model: Bundle
    baseline: Bundle
    calibration: dict[str, float]
    tried: dict[str, float]
    """The mean quality of each method on the validation molecules."""


def learn(bench: Bench, splits: Splits) -> Learned:
    """The way to learn of `MoleculeProperty`. Raises as `choose_model`."""
    bench.share_time(4 if bench.job.method == "auto" else 2)
    with bench.stage("methods"):
        chosen = choose_model(bench.make, splits, method=bench.job.method, say=lambda note: bench.say("method", note))
    with bench.stage("test"):
        baseline = measured(chosen.baseline, splits)
    with bench.stage("learning curve"):
        curve = learning_curve(bench, splits)
    return Learned(
        method=chosen.method,
        why=chosen.why,
        model=chosen.model,
        calibration=chosen.calibration,
        baseline=Baseline(
            BASELINE,
            baseline.value,
            baseline.ci,
            baseline.metrics,
            bench.task.intervals(baseline.answers, splits.test.rows),
        ),
        n_train=len(splits.train) + len(splits.validation),
        histories=[chosen.model.manifest.report.get("history") or []],
        split=kind_of(splits),
        curve=curve,
    )


def learning_curve(bench: Bench, splits: Splits) -> Mapping[str, Any] | None:
    """The fingerprint model's score by the molecules it learns from; rows are in the order of their hashes, a draw."""
    from budwood.engine.fingerprint_curve import curve_of

    rows = (*splits.train.rows, *splits.validation.rows)
    if len(rows) > CURVE_ROWS:
        step = len(rows) / CURVE_ROWS
        rows = tuple(rows[int(number * step)] for number in range(CURVE_ROWS))
    found = curve_of(bench.task, rows, bench.job.seed)
    return found.to_json() if found else None


def choose_model(make: Make, splits: Splits, *, method: str = "auto", say: Callable[[str], None] = print) -> Chosen:
    """Try the methods on the validation molecules, fit the better one on train and validation rows, guard it by test.

    Raises:
        UsageError: there is no such method.
    """
    if method not in METHODS:
        raise UsageError(f"no method {method!r} for molecules", where="--method", fix=f"one of: {', '.join(METHODS)}")
    names = wanted(method, splits)
    trial = {name: make(splits, chain(name, {})) for name in names}
    scores = {name: quality(bundle, splits.validation.rows) for name, bundle in trial.items()}
    chosen, why = decide(scores, asked=None if method == "auto" else method)
    say(f"method={chosen}  # {why}")
    merged = replace(
        splits,
        train=Dataset((*splits.train.rows, *splits.validation.rows), splits.train.sources),
        validation=Dataset((), splits.validation.sources),
    )
    final = {name: make(merged, chain(name, trial[name].manifest.report)) for name in (BASELINE, chosen)}
    if chosen != BASELINE and method == "auto":
        found = better(quality(final[BASELINE], splits.test.rows), quality(final[chosen], splits.test.rows))
        why = f"{why}; {describe(chosen, found, 'test molecules')}"
        if found.difference < 0 and found.significant:
            chosen, why = BASELINE, f"{why}, so the baseline is shipped"
    fitted = final[chosen].manifest.calibration or trial[chosen].manifest.calibration
    means = {name: round(float(values.mean()), 5) for name, values in scores.items()}
    return Chosen(chosen, why, final[chosen], final[BASELINE], dict(fitted), means)


def wanted(method: str, splits: Splits) -> tuple[str, ...]:
    if method in (BASELINE, "auto") and (method == BASELINE or len(splits.train) > MOST_ROWS):
        return (BASELINE,)
    return (BASELINE, "smiles", "average") if method == "auto" else (BASELINE, method)


def chain(name: str, report: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps of a method, with the epochs and the weight that were found on validation molecules, if any were."""
    found = {"smiles": epochs_of(report), "average": {key: report[key] for key in ("weight",) if key in report}}
    return tuple(registry.get("steps/adapt", step)(**found.get(step, {})) for step in CHAINS[name])


def quality(bundle: Bundle, rows: Sequence[Row]) -> NDArray[np.float64]:
    """How good the answer to each row is, in [0, 1], by the task's proper score."""
    with closing(Predictor.open(bundle)) as predictor:
        task: Any = predictor.task
        found: NDArray[np.float64] = task.quality(predictor.predict_all(rows), rows)
    return found


def decide(scores: Mapping[str, NDArray[np.float64]], *, asked: str | None) -> tuple[str, str]:
    """The method to ship, and the reason.

    Another than the baseline has to be better, not only as good; and the transformer alone has to be better than the
    mean of both, which is the safer one on other molecules.
    """
    if asked is not None:
        return asked, "asked for"
    if len(scores) == 1:
        return BASELINE, f"more than {MOST_ROWS:,} molecules: the transformer would take hours"
    chosen, reasons = BASELINE, []
    for name in (name for name in ("average", "smiles") if name in scores):
        reasons.append(describe(name, better(scores[BASELINE], scores[name]), "held-out molecules"))
        found = better(scores[chosen], scores[name])
        if found.difference > 0 and found.p < SURE:
            chosen = name
    kept = "; so the baseline is kept" if chosen == BASELINE else ""
    return chosen, "; ".join(reasons) + kept


def describe(method: str, found: Comparison, where: str) -> str:
    points = f"{100 * found.difference:+.1f} points [{100 * found.ci[0]:+.1f}, {100 * found.ci[1]:+.1f}]"
    return f"{method} {points} of quality against {BASELINE} on {found.n:,} {where} (p={found.p:.2g})"


def epochs_of(report: Mapping[str, Any]) -> dict[str, int]:
    """How many epochs were best on the validation molecules, for the fit on all rows."""
    history = report.get("history")
    return {"epochs": max(range(len(history)), key=lambda i: history[i][1]) + 1} if history else {}
