"""Learning from rows without labels: the surest answers of a first model become labels, and it is fitted once more.

Self-training with a threshold and a cap for each class, as Khan et al. 2019 (arXiv:1812.02183) did for galaxies.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import UsageError
from budwood.core.task import Answer, Calibration, Row, Task
from budwood.engine.class_scores import selective
from budwood.engine.predictor import Predictor
from budwood.engine.statistics import Comparison, better
from budwood.engine.table import note
from budwood.engine.unlabelled import Unlabelled, read_unlabelled
from budwood.stages import heads
from budwood.stages.workbench import ONNX, Bench, Job, Learned, measured

__all__ = ["learn", "read"]

MOST_PER_CLASS = 500
PRECISION = 0.95
"""Share of the labels that are expected to be right among those that are added."""
LEAST_ROWS = 5
SUFFIX = " + unlabelled"


@dataclass(frozen=True)
class Chosen:
    """Rows with the labels that a model gave them."""

    rows: tuple[Row, ...]
    per_class: dict[str, int]


def read(job: Job, task: Task, splits: Splits) -> Unlabelled | None:
    """The rows of `--unlabelled`; None where it was not given.

    Raises:
        UsageError: the task, or a row with several labels, has no one answer to be sure of.
        NotFoundError, DataError: as `read_unlabelled`.
    """
    if job.unlabelled is None:
        return None
    if not task.self_trains:
        cause = f"{task.name} cannot learn from rows without labels, or not where a row has several labels"
        raise UsageError(cause, where="--unlabelled", fix="leave it out")
    labelled = (*splits.train, *splits.validation, *splits.test)
    return read_unlabelled(job.unlabelled, job.input, task, labelled)


def learn(bench: Bench, splits: Splits, unlabelled: Dataset) -> Learned:
    """The usual way to learn, and once more with the surest unlabelled rows; the larger fit ships only where it is
    better on held-out rows, and not significantly worse on the test rows."""
    first = heads.fit(bench, splits, times=2)
    facts: dict[str, Any] = {"rows": len(unlabelled), "shipped": False, "added": 0}
    threshold = threshold_of(first.models, first.trials)
    if threshold is None:
        why = "no probability was high enough on held-out rows to be right in 95 % of the cases"
        return told(bench, first.learned, facts, f"no unlabelled row was added: {why}")
    with bench.stage("unlabelled rows"):
        larger = [
            enlarged(trial, pseudo_labelled(model, model.manifest.calibration, trial, unlabelled, threshold, "torch"))
            for model, trial in zip(first.models, first.trials, strict=True)
        ]
        chosen = pseudo_labelled(first.learned.model, first.learned.calibration, first.rows, unlabelled, threshold)
    facts |= {"threshold": round(threshold, 6), "added": len(chosen.rows), "per_class": chosen.per_class}
    unchanged = [len(more.train) == len(trial.train) for more, trial in zip(larger, first.trials, strict=True)]
    if not chosen.rows or any(unchanged):
        return told(bench, first.learned, facts, f"no unlabelled row was added: none reached {threshold:.3f}")
    with bench.stage("learning again"):
        models = [bench.make(rows, first.chain) for rows in larger]
        found = better(*(heads.held_out(items, first.trials) for items in (first.models, models)))
    facts |= gain_of(found)
    names = ", ".join(f"{name} {count:,}" for name, count in chosen.per_class.items())
    why = (
        f"{len(chosen.rows):,} of {len(unlabelled):,} unlabelled rows added ({names}) at a probability of at least "
        f"{threshold:.3f}: {points(found)} on {found.n:,} held-out rows (p={found.p:.2g})"
    )
    if found.difference <= 0:
        return told(bench, first.learned, facts, f"{why}, so they are left out again")
    rows = enlarged(first.rows, chosen)
    with bench.stage("final fit"):
        fitted = heads.calibration(bench.make(rows, first.chain), models)
    with bench.stage("export"):
        final = bench.make(rows, (*first.chain, ONNX))
    with bench.stage("test"):
        tested = better(measured(first.learned.model, splits).per_row, measured(final, splits).per_row)
    why = f"{why}; {points(tested)} on {tested.n:,} test rows (p={tested.p:.2g})"
    if tested.difference < 0 and tested.significant:
        return told(bench, first.learned, facts, f"{why}, so they are left out again")
    learned = replace(
        first.learned,
        method=first.learned.method + SUFFIX,
        model=final,
        calibration=fitted,
        n_train=len(rows.train),
        histories=[bundle.manifest.report.get("history", []) for bundle in models],
        splits=enlarged(splits, chosen),
    )
    return told(bench, learned, facts | {"shipped": True}, why)


def told(bench: Bench, learned: Learned, facts: dict[str, Any], why: str) -> Learned:
    """The same with the facts of the unlabelled rows, which are printed and go into the verdict and the report."""
    bench.say("unlabelled", note("unlabelled", f"{facts['added']:,} rows", why))
    return replace(learned, why=f"{learned.why}; {why}", unlabelled=facts)


def gain_of(found: Comparison) -> dict[str, Any]:
    return {"gain": found.difference, "gain_ci": list(found.ci), "p": found.p}


def points(found: Comparison) -> str:
    return f"{100 * found.difference:+.1f} points [{100 * found.ci[0]:+.1f}, {100 * found.ci[1]:+.1f}]"


def threshold_of(models: Sequence[Bundle], trials: Sequence[Splits]) -> float | None:
    """The lowest calibrated probability from which on answers are expected to be right in 95 of 100 cases, or None."""
    sure: list[float] = []
    right: list[float] = []
    for model, trial in zip(models, trials, strict=True):
        with closing(Predictor.open(model, "torch")) as predictor:
            answers = predictor.predict_all(trial.validation.rows)
        sure += [answer["score"] for answer in answers]
        right += [
            float(answer["label"] == row["label"]) for answer, row in zip(answers, trial.validation.rows, strict=True)
        ]
    return lowest_sure(np.asarray(sure), np.asarray(right))


def lowest_sure(sure: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    """By the held-out answers, where at least 20 of them can tell.

    Fewer rows cannot, so there the probabilities, which are calibrated, have to promise it as well: the lowest one from
    which on they are 0.95 in the mean, and the answers not less often right. At least 5 answers have to reach it.
    """
    told: float | None = selective(sure.tolist(), right).get("threshold_for_95_accuracy")
    if told is not None:
        return told
    order = np.argsort(-sure, kind="stable")
    counts = np.arange(1, len(order) + 1)
    promised, kept = np.cumsum(sure[order]) / counts, np.cumsum(right[order]) / counts
    fitting = np.flatnonzero((promised >= PRECISION) & (kept >= PRECISION) & (counts >= LEAST_ROWS))
    return float(sure[order][fitting[-1]]) if len(fitting) else None


def pseudo_labelled(
    model: Bundle, calibration: Calibration, splits: Splits, rows: Dataset, threshold: float, runtime: str = "auto"
) -> Chosen:
    """The surest rows of each class, with the model's answers as labels."""
    with closing(Predictor.open(model, runtime)) as predictor:
        answers = replace(predictor, calibration=calibration).predict_all(rows.rows)
    return surest(answers, rows.rows, threshold, Counter(str(row["label"]) for row in splits.train))


def surest(answers: Sequence[Answer], rows: Sequence[Row], threshold: float, labelled: Counter[str]) -> Chosen:
    """Rows at or above the threshold, the surest first, about as many of each class.

    A class gets at most as many as the classes typically have labels, or as the rarest class that was found got, if
    that is more; and never more than 500. So no class outgrows the others because it is easier to recognise.
    """
    sure: dict[str, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (-answers[i]["score"], i)):
        if answers[i]["score"] >= threshold:
            sure.setdefault(answers[i]["label"], []).append(i)
    if not sure:
        return Chosen((), {})
    cap = min(MOST_PER_CLASS, max(ceil(median(labelled.values())), min(map(len, sure.values()))))
    picked = {name: members[:cap] for name, members in sorted(sure.items())}
    found = tuple({**rows[i], "label": name} for name, members in picked.items() for i in members)
    return Chosen(found, {name: len(members) for name, members in picked.items()})


def enlarged(splits: Splits, chosen: Chosen) -> Splits:
    """The same with more rows to learn from; what is chosen by and tested on stays as it was."""
    train = splits.train
    return replace(splits, train=Dataset((*train.rows, *chosen.rows), train.sources))
