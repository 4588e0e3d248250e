"""The end of a shrink: one race, one look at the locked test rows, and the verdict with its reasons."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from budwood.core.bundle import Bundle
from budwood.core.commit import write_atomic
from budwood.core.errors import BudwoodError
from budwood.core.report import Candidate, ShrinkReport, Speed
from budwood.core.task import Task
from budwood.engine import search
from budwood.engine.machine import WATTS_PER_CORE, describe
from budwood.engine.measure import Scores, candidate, score
from budwood.engine.predictor import Predictor
from budwood.engine.search import Made
from budwood.engine.statistics import Verdict, no_loss
from budwood.stages import shrink_recipes as recipes
from budwood.stages.shrink_bench import Bench, Job
from budwood.stages.shrink_search import PARENT, RACE_SECONDS, Search

__all__ = ["Judged", "judge"]

CONTROL = "dense control"
CUTS = "cuts.json"
LISTED = 5
AWARE = 5
"""The rung of what was trained for the rounding."""
SECONDS_EACH = 4.0
"""Of the last race for each candidate: some hundred single rows, of which the 95th percentile is taken."""


@dataclass(frozen=True)
class Judged:
    """The report, and what publishing needs of the chosen candidate."""

    report: ShrinkReport
    chosen: Made | None
    scores: Scores | None


def judge(found: Search) -> Judged:
    """Race all candidates, settle who is tested, open the test rows, and choose.

    Each finalist passes at 5 % divided by their number, so that picking among them costs no honesty; one that was
    trained has to pass against the dense control as well. The others' test scores are shown and decide nothing.
    """
    work = found.work
    with work.stage("race"):
        bundles = {item.name: item.bundle for item in found.made}
        speeds = found.race(bundles, max(RACE_SECONDS, len(bundles) * SECONDS_EACH), memory=True)
        timed = [replace(item, speed=speeds[item.name]) for item in found.made]
        loading = {name: load_seconds(bundle) for name, bundle in {PARENT: found.parent, **bundles}.items()}
    settled = search.finalists(timed, work.job.budget)
    control = dense_control(found, settled) if any(item.trial.beyond for item in settled) else None
    with work.stage("test"):
        opened = count_opening(work)
        rows = work.splits.test.rows
        scores = {name: scored(bundle, rows) for name, bundle in {PARENT: found.parent, **bundles}.items()}
        control_scores = scored(control, rows) if control is not None else None
    judged = [verdict_of(found, item, settled, scores, control_scores, speeds, loading[item.name]) for item in timed]
    by_name = {item.recipe: item for item in judged}
    chosen = next((item for item in settled if by_name[item.name].within_budget), None)
    reference = replace(
        candidate(PARENT, scores[PARENT], speeds[PARENT], work.job.budget),
        energy_wh_per_1000=energy(speeds[PARENT]),
        load_s=loading[PARENT],
    )
    report = ShrinkReport(
        reference=reference,
        candidates=(*judged, *found.left_out),
        chosen=None if chosen is None else chosen.name,
        budget=work.job.budget,
        metric=scores[PARENT].metric,
        n=len(rows),
        seed=work.job.seed,
        machine=describe(),
        control=None if control_scores is None else of_control(found.task, control_scores, scores[PARENT]),
        classes=() if chosen is None else changes(rows, scores[PARENT], scores[chosen.name]),
        validation_rows=len(found.screened),
        openings=opened,
        stopped=found.stopped,
        command=command(work.job),
    )
    return Judged(report, chosen, None if chosen is None else scores[chosen.name])


def verdict_of(
    found: Search,
    item: Made,
    settled: Sequence[Made],
    scores: Mapping[str, Scores],
    control: Scores | None,
    speeds: Mapping[str, Speed],
    load_s: float,
) -> Candidate:
    """One candidate, measured and judged."""
    budget = found.work.job.budget
    final = item.name in {one.name for one in settled}
    parent, own = scores[PARENT], scores[item.name]
    comparisons = max(1, len(settled))
    verdict = no_loss(found.task.losses(parent.per_row, own.per_row), budget.max_drop, comparisons)
    result = candidate(item.name, own, speeds[item.name], budget, verdict)
    reasons: list[str] = []
    against: Verdict | None = None
    if item.trial.beyond and control is not None:
        against = no_loss(found.task.losses(control.per_row, own.per_row), budget.max_drop, comparisons)
        if against.verdict != "PASS":
            reasons.append(f"against the parent trained on for as long: {against.why}")
    elif item.trial.beyond:
        reasons.append("no dense control was trained, so that its drop may be larger than it seems")
    reasons += search.lost_classes(changes(found.work.splits.test.rows, parent, own), budget)
    if speeds[item.name].rank != "slower" and not final and not reasons and result.within_budget:
        reasons.append("shown only: others were settled on before the test")
    return replace(
        result,
        within_budget=result.within_budget and not reasons and speeds[item.name].rank != "slower",
        why="; ".join([*reasons, *([result.why] if result.why else [])]),
        rung=item.trial.rung,
        finalist=final,
        validation_drop=None if item.screened is None else item.screened.drop,
        control_drop=None if against is None else against.drop,
        control_drop_ci=None if against is None else against.drop_ci,
        energy_wh_per_1000=energy(speeds[item.name]),
        load_s=load_s,
        notes=notes_of(item),
    )


def dense_control(found: Search, settled: Sequence[Made]) -> Bundle | None:
    """The uncut parent, trained on for as long as the candidates were; None, and a word, where that failed."""
    work = found.work
    steps = recipes.dense_control(found.anatomy, any(item.trial.rung == AWARE for item in settled))
    try:
        with work.stage(CONTROL):
            return work.make(found.parent, steps, found.rows, seconds=found.granted or None, task=found.task)
    except BudwoodError as error:
        work.say(CONTROL, f"the parent could not be trained on: {error.cause}")
        return None


def scored(bundle: Bundle, rows: Sequence[Any]) -> Scores:
    with closing(Predictor.open(bundle)) as predictor:
        return score(predictor, rows, keep_logits=predictor.task.keeps_logits)


def of_control(task: Task, control: Scores, parent: Scores) -> Candidate:
    """The control as a row of the report; a gain over the parent says that the parent was not trained to its end."""
    drop = no_loss(task.losses(parent.per_row, control.per_row), 0.0)
    return Candidate(
        recipe=CONTROL,
        score=control.value,
        ci=control.ci,
        drop=drop.drop,
        drop_ci=drop.drop_ci,
        flips=drop.flips,
        why="the parent, trained on for as long as the candidates; never published",
    )


def changes(rows: Sequence[Any], parent: Scores, child: Scores) -> tuple[Any, ...]:
    return search.class_changes([row.get("label") for row in rows], parent.per_row, child.per_row)


def load_seconds(bundle: Bundle) -> float:
    """Seconds to open a bundle for prediction, in a process that has everything imported; the better of two."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        Predictor.open(bundle, threads=1).close()
        times.append(time.perf_counter() - began)
    return round(min(times), 4)


def energy(speed: Speed) -> float:
    """Watt-hours of a thousand rows in batches: their time, with an assumed power of each core that is used."""
    return 1000 / speed.items_per_s * speed.threads * WATTS_PER_CORE / 3600


def notes_of(item: Made) -> tuple[str, ...]:
    """What the candidate's steps have to tell: layers left in float, packing, a student too large, a single seed."""
    bundle = item.bundle
    report = bundle.manifest.report
    found = []
    if kept := report.get("fell_back"):
        found.append(f"{len(kept)} layers stay in float, since they lost most: {', '.join(kept[:LISTED])}")
    if "packed" in report:
        found.append("its file is packed, and expanded when it is loaded: it takes no less memory")
    if "warning" in report:
        found.append(str(report["warning"]))
    if CUTS in bundle.manifest.files:
        found.append("its channels are described by no configuration, but by the list in cuts.json")
    if item.trial.trained:
        found.append("it was trained once: the interval holds the chance of the rows, not that of the training's seed")
    return tuple(found)


def count_opening(work: Bench) -> int:
    """How often these test rows were opened for this parent, this time included: written before they are read."""
    path = work.openings
    try:
        before = int(json.loads(path.read_text(encoding="utf-8"))["openings"])
    except (OSError, ValueError, KeyError, TypeError):
        before = 0
    write_atomic(path, json.dumps({"openings": before + 1}).encode())
    return before + 1


def command(job: Job) -> str:
    """The command line that makes the same search of the same parent."""
    budget, entry = job.budget, job.entry
    parts = [
        "budwood",
        "shrink",
        f"{entry.name}:{entry.version}" if entry.version else entry.name,
        "--max-drop",
        f"{budget.max_drop:g}",
    ]
    options = (
        ("--max-p95-ms", budget.max_p95_ms),
        ("--max-mb", budget.max_mb),
        ("--max-class-drop", None if budget.max_class_drop == 0.1 else budget.max_class_drop),
        ("--max-minutes", job.max_minutes),
    )
    for flag, value in options:
        parts += [flag, f"{value:g}"] if value is not None else []
    parts += ["--explore"] if job.explore else []
    for student in job.students:
        parts += ["--student", Path(student).name if Path(student).is_dir() else student]
    files = (("--unlabelled", job.unlabelled), ("--data", job.data), ("--test", job.test), ("--name", job.name))
    for flag, given in files:
        parts += [flag, Path(given).name] if given is not None else []
    return shlex.join([*parts, "--seed", str(job.seed)])
