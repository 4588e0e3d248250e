"""The search for a smaller model: rung after rung is made, timed beside the parent and looked at on validation rows.

It stops at the first rung that keeps a target of time or size, unless all is to be explored; without a target it tries
every rung. The test rows are not touched here.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.budget import Budget
from budwood.core.bundle import Bundle, digest
from budwood.core.dataset import Dataset
from budwood.core.errors import BudwoodError, BundleError, StepError
from budwood.core.report import Candidate, Speed
from budwood.core.task import Task
from budwood.engine import search
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found
from budwood.engine.measure import bench
from budwood.engine.predictor import Predictor, task_of
from budwood.engine.runtime_choice import measure_runtimes, present
from budwood.engine.search import Made, Trial
from budwood.engine.table import note
from budwood.stages import choosing
from budwood.stages import shrink_recipes as recipes
from budwood.stages.shrink_bench import Bench

__all__ = ["PARENT", "RACE_SECONDS", "Search", "row_scores"]

PARENT = "parent"
RACE_SECONDS = 20.0
"""Of the race that is reported; those before it take a fifth."""
GLANCE_SECONDS = 4.0
RUNTIME_SECONDS = 3.0
RESERVE = 45.0
"""Seconds that the last race and the test need, at most a fifth of those granted; training ends before."""
FEW_TO_TIME = 64
"""Rows by which a model is timed: their lengths should be those of real requests. With fewer, test rows are timed."""


@dataclass
class Search:
    """What was made so far, and what was left out with the reason."""

    work: Bench
    parent: Bundle
    named: Sequence[Found] = ()
    """Bases that the user named: they are adapted, and they learn from the parent."""
    smaller_here: Sequence[Found] = ()
    """Smaller bases that are on this machine: they are adapted."""
    made: list[Made] = field(default_factory=list)
    left_out: list[Candidate] = field(default_factory=list)
    stopped: str = ""
    granted: float = 0.0
    """Seconds that a candidate trained beyond the parent was given at most: the dense control gets as many."""
    problem: Exception | None = None
    """The first that kept a candidate from being made."""

    def __post_init__(self) -> None:
        splits = self.work.splits
        self.anatomy = recipes.Anatomy.of(self.parent)
        # Where the parent has learnt from the validation rows too, so does a student, with as many epochs as the rule
        # gives: rows that the teacher knows by heart can neither choose epochs nor calibrate.
        self.rows = choosing.merged(splits) if choosing.small(splits) else splits
        picked = search.screen_rows(len(splits.validation), self.work.job.seed)
        self.screened = [splits.validation.rows[int(i)] for i in picked]
        self.explore = self.work.job.explore

    @property
    def budget(self) -> Budget:
        return self.work.job.budget

    def run(self) -> list[Made]:
        """Make candidates until one is enough, the rungs are at an end, or the time is.

        Raises:
            BudwoodError: not one could be made; it is what the first of them failed by.
        """
        if self.task.drop_note:
            self.work.say("drop", note("drop", f"below {100 * self.budget.max_drop:g} points", self.task.drop_note))
        self.other_runtimes()
        for rung in (self.smaller, self.quantize, self.cut, self.recover, self.pack):
            rung()
            if (kept := self.enough()) is not None:
                self.stopped = f"{kept.name} keeps the target"
                break
            if self.late and self.made:  # what only converts is tried in any case
                self.stopped = "the time is at an end"
                break
        else:
            self.stopped = "every rung was tried"
        if not self.made:
            if isinstance(self.problem, BudwoodError):
                raise self.problem
            reasons = "; ".join(f"{item.recipe}: {item.why}" for item in self.left_out if item.rung)
            fix = "grant more --max-minutes, or a wider limit"
            raise StepError("no candidate could be made", where=reasons, fix=fix) from self.problem
        return self.made

    def enough(self) -> Made | None:
        """The candidate with which the search may stop; None while it should go on."""
        return None if self.explore else search.first_enough(self.made, self.budget, len(self.work.splits.test))

    # The rungs

    def other_runtimes(self) -> None:
        """The parent as it is on the other runtimes that are here: what costs nothing, and the peer of every figure."""
        names = (*present(self.parent), "torch")
        with self.work.stage("runtimes"):
            found = measure_runtimes(self.parent, self.screened, RUNTIME_SECONDS, runtimes=names)
        for name in names[1:]:
            item = found[name]
            why = item.why or f"nothing but another runtime: serve {self.work.job.entry.name} --runtime {name}"
            measured = {"p50_ms": item.p50_ms, "ratio": item.ratio, "ratio_ci": item.ratio_ci, "noise": item.noise}
            self.left_out.append(Candidate(recipe=f"runtime {name}", rung=0, why=why, **measured))  # type: ignore[arg-type]

    def smaller(self) -> None:
        """Smaller pretrained bases, adapted as the parent was: what has to be beaten by any cut."""
        if not recipes.relearn(self.parent):
            return  # made by hand: nothing says how to adapt another base
        for found in (*self.named, *self.smaller_here):
            try:
                base = import_base(found, self.work.folder / "bases", type(self.task))
            except BundleError as error:
                if found in self.named:
                    raise
                self.work.say("candidate", f"{found.label} is left out  # {error.cause}")
                continue
            trial = recipes.adapted_anew(found, base, self.parent)
            self.try_trained([self.with_first_quantizer(trial), trial])
            if found in self.named:
                taught = recipes.student(found, self.parent)
                self.try_trained([taught, self.with_first_quantizer(taught)])

    def quantize(self) -> None:
        """The parent's own graph, converted."""
        for suffix, quantizer in recipes.quantized(self.anatomy, self.explore):
            self.attempt(Trial(suffix, 2, (quantizer,)))
        if (trimmed := recipes.trimmed(self.parent, self.anatomy)) is not None:
            self.attempt(trimmed)

    def cut(self) -> None:
        """Cuts that are fast enough untrained; without a target the first one, with a target the mildest that is."""
        target = search.has_target(self.budget)
        wanted = list(itertools.islice(recipes.cuts(self.parent, self.anatomy), None if target or self.explore else 1))
        if target and not self.explore:
            wanted.sort(key=lambda trial: trial.share, reverse=True)
        for trial in wanted:
            self.try_trained([trial, self.with_first_quantizer(trial)])
            if self.late or self.enough() is not None:
                return

    def recover(self) -> None:
        """Where nothing but the rounding costs too much: trained on for it."""
        if self.anatomy.writes:
            return
        lost = [item for item in self.made if item.trial.rung in (2, 4) and self.loses_by_rounding(item)]
        for item in lost[:1]:
            self.try_trained([recipes.aware(item.trial)])

    def pack(self) -> None:
        """Where nothing but the size is missed, or all is explored: the smallest, stored by codebook."""
        limit = self.budget.max_mb
        if not self.made or not (self.explore or limit is not None):
            return
        smallest = min(self.made, key=lambda item: item.speed.size_mb)
        if self.explore or smallest.speed.size_mb > (limit or 0.0):
            self.attempt(recipes.packed(smallest.trial))

    # The work

    @property
    def task(self) -> Task:
        return task_of(self.parent)

    def with_first_quantizer(self, trial: Trial) -> Trial:
        suffix, quantizer = recipes.quantized(self.anatomy, False)[0]
        return recipes.with_quantizer(trial, suffix, quantizer)

    def loses_by_rounding(self, item: Made) -> bool:
        """Whether a quantized candidate is fast and small enough, and dropped too much where in float it did not."""
        before = item.name.rpartition("+")[0]
        floats = [other for other in self.made if other.name == before]
        kept = not before or any(search.validation_drop(other) <= self.budget.max_drop for other in floats)
        return (
            kept and search.validation_drop(item) > self.budget.max_drop and not search.misses(item.speed, self.budget)
        )

    def try_trained(self, trials: Sequence[Trial]) -> None:
        """Candidates of one training: their speed is known from untrained copies, and none is trained in vain."""
        worth = [trial for trial in trials if not trial.probe or self.fast_enough(trial)]
        seconds = self.share()
        for trial in worth:
            if seconds == 0.0:
                self.leave_out(trial, "not trained: the time is at an end")
                continue
            self.attempt(trial, seconds)
            if trial.beyond:
                self.granted = max(self.granted, seconds or 0.0)

    @property
    def total(self) -> float:
        """Seconds that were granted; infinite without a limit."""
        return 60 * self.work.job.max_minutes if self.work.job.max_minutes else math.inf

    @property
    def free(self) -> float:
        """Seconds that are left for making candidates: without what the last race and the test need."""
        return self.work.left - min(RESERVE, self.total / 5)

    @property
    def late(self) -> bool:
        return self.free <= 0

    def share(self) -> float | None:
        """What the next training may take, such that the dense control can have as much; 0 where nothing is left.

        In twentieths of the granted time, so that a rerun at about the same point finds what is there.
        """
        if math.isinf(self.total):
            return None
        seconds = min(self.free - self.granted, self.granted) if self.granted else self.free / 2
        return math.floor(max(0.0, seconds) / (self.total / 20)) * (self.total / 20)

    def fast_enough(self, trial: Trial) -> bool:
        """Time the untrained copy beside the parent; a candidate that cannot keep the limits is left out here."""
        try:
            copy = self.work.make(trial.base or self.parent, trial.probe, self.rows, task=self.task)
            speed = self.race({trial.name: copy}, GLANCE_SECONDS, memory=False)[trial.name]
        except Exception as error:  # noqa: BLE001  # as in `attempt`
            self.fail(trial, error)
            return False
        reasons = search.misses(speed, self.budget)
        if reasons:
            self.leave_out(trial, f"not trained: untrained, {'; '.join(reasons)}", speed)
        return not reasons

    def attempt(self, trial: Trial, seconds: float | None = None) -> None:
        """Make a candidate, time it beside the parent, and look at its answers on validation rows."""
        trial = replace(trial, name=self.unused(trial.name))
        try:
            with self.work.stage(trial.name):
                begin = trial.base or self.parent
                bundle = self.work.make(begin, trial.steps, self.rows, seconds=seconds, task=self.task)
                speed = self.race({trial.name: bundle}, GLANCE_SECONDS, memory=False)[trial.name]
                screened = self.look(bundle)
        except Exception as error:  # noqa: BLE001  # whatever a library raises, the others are still to be tried
            self.fail(trial, error)
            return
        self.made.append(Made(trial, bundle, speed, screened))
        self.work.say("candidate", told(self.made[-1]))

    def unused(self, name: str) -> str:
        """A name that no candidate has: two bases may end alike."""
        taken = {PARENT, *(item.name for item in self.made)}
        names = itertools.chain((name,), (f"{name}-{count}" for count in itertools.count(2)))
        return next(free for free in names if free not in taken)

    def look(self, bundle: Bundle) -> Any:
        """The paired drop on validation rows; None where there are none."""
        if not self.screened:
            return None
        before, after = (row_scores(self.work, item, self.screened) for item in (self.parent, bundle))
        return search.screen(self.task.losses(before, after), self.budget)

    def race(self, bundles: Mapping[str, Bundle], seconds: float, *, memory: bool) -> dict[str, Speed]:
        minutes = self.work.job.max_minutes
        return bench(
            {PARENT: self.parent, **bundles},
            self.screened if len(self.screened) >= FEW_TO_TIME else self.work.splits.test.rows,  # inputs, not labels
            reference=PARENT,
            seconds=seconds if minutes is None else min(seconds, 12 * minutes),
            seed=self.work.job.seed,
            memory=memory,
            progress=self.work.progress,
        )

    def fail(self, trial: Trial, error: Exception) -> None:
        self.problem = self.problem or error
        cause = error.cause if isinstance(error, BudwoodError) else f"{type(error).__name__}: {str(error)[:200]}"
        self.leave_out(trial, f"it could not be made: {cause}")

    def leave_out(self, trial: Trial, why: str, speed: Speed | None = None) -> None:
        measured: dict[str, Any] = {}
        if speed is not None:
            names = ("p50_ms", "p95_ms", "items_per_s", "size_mb", "ratio", "ratio_ci", "batch_ratio", "rank", "noise")
            measured = {name: getattr(speed, name) for name in names}
        self.left_out.append(Candidate(recipe=trial.name, why=why, rung=trial.rung, **measured))
        self.work.say("candidate", f"{trial.name} is left out  # {why}")


def told(made: Made) -> str:
    drop = "" if made.screened is None else f", drop {100 * made.screened.drop:+.2f} points on {made.screened.n} rows"
    return f"{made.name}: {made.speed.ratio:.2f}x the speed, {made.speed.size_mb:.1f} MB{drop}"


def row_scores(work: Bench, bundle: Bundle, rows: Sequence[Any]) -> NDArray[np.float64]:
    """Scores of a bundle on these rows, computed once: the same bytes answer the same rows alike."""
    key = digest({"bundle": bundle.id, "rows": Dataset(tuple(rows), ()).fingerprint})
    path = work.folder / "scores" / f"{key[:32]}.json"
    if path.exists():
        try:
            return np.asarray(json.loads(path.read_text(encoding="utf-8")), np.float64)
        except ValueError:
            path.unlink()  # half-written by a run that was killed
    with closing(Predictor.open(bundle)) as predictor:
        task = predictor.task.measuring()
        measuring = replace(predictor, task=task)
        scores = task.row_scores(measuring.predict_all(rows), rows)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(scores.tolist()), encoding="utf-8")
    return scores
