"""`shrink`: search for a smaller model, prove on locked rows that it keeps the budget, and publish it."""

import shutil
import time
from pathlib import Path

from budwood.core.bundle import Bundle, digest
from budwood.core.dataset import Splits
from budwood.core.errors import BudwoodError, UsageError
from budwood.core.step import Progress, check_minutes, check_seed
from budwood.core.store import Entry, Store, check_name
from budwood.core.task import Row
from budwood.engine.bases import Found, find_base
from budwood.engine.machine import EnergyMeter
from budwood.engine.plot import pareto
from budwood.engine.predictor import task_of
from budwood.engine.release import release
from budwood.engine.report_plots import Compared
from budwood.engine.runtime_choice import measure_runtimes
from budwood.engine.search import Made
from budwood.engine.threads import share_cores
from budwood.engine.unlabelled import read_unlabelled
from budwood.stages import shrink_recipes as recipes
from budwood.stages.results import Shrunk
from budwood.stages.shrink_bench import Bench, Job
from budwood.stages.shrink_judging import Judged, judge
from budwood.stages.shrink_rows import rows_of
from budwood.stages.shrink_search import Search

__all__ = ["Job", "run"]

PICTURES = ("pareto.svg", "pareto.png")


def run(job: Job, store: Store, progress: Progress) -> Shrunk:
    """Do the job. What was made stays in the work folder: a rerun, or one with another budget, measures and decides.

    Raises:
        UsageError, NotFoundError, DataError: model, rows or parameters are off. StepError: no candidate could be made.
    """
    began = time.monotonic()
    share_cores()
    check(job)
    parent = job.entry.bundle
    splits = rows_of(job, store, progress)
    named, smaller = students_of(job, store, parent)
    unlabelled = further_rows(job, splits, progress)
    facts = {"parent": parent.id, "rows": splits.fingerprint, "seed": job.seed}
    with store.lock(f"shrink-{digest(facts)[:24]}") as folder, EnergyMeter() as meter:
        work = Bench(job, splits, folder, progress, meter, began, openings_of(store, parent, splits), unlabelled)
        found = Search(work, parent, named, smaller)
        found.run()
        judged = judge(found)
        plots = pareto(judged.report, folder, job.name or job.entry.name)
        published, plot = None, next(path for path in plots if path.suffix == ".svg")
        if judged.chosen is not None:
            published = publish(work, store, judged, judged.chosen)
            remember_runtime(work, judged.chosen)
            plot = published.bundle.path / plot.name
    return Shrunk(
        report=judged.report,
        name=published.name if published else None,
        version=published.version if published else None,
        id=published.bundle.id if published else None,
        path=published.bundle.path if published else None,
        plot=plot,
        seconds=round(time.monotonic() - began, 2),
        stages=work.stages,
    )


def check(job: Job) -> None:
    check_name(job.name or job.entry.name)
    check_seed(job.seed)
    check_minutes(job.max_minutes)
    if job.test is not None and job.data is None:
        raise UsageError("--test alone is not enough", where="--test", fix="pass --data too, as it was given to adapt")
    parent = job.entry.bundle
    task = task_of(parent)
    if task.no_shrink:
        raise UsageError(
            f"models for {task.name} cannot be shrunk: {task.no_shrink}",
            where=str(parent.path),
            fix=f"serve it as it is: budwood serve {job.entry.name}",
        )
    if not {"torch", "onnx"} <= parent.formats:
        already = "is already quantized" if parent.formats - {"torch", "onnx"} else "has no float ONNX graph"
        raise UsageError(
            f"the model {already}: there is nothing to shrink it from",
            where=str(parent.path),
            fix="shrink the float version it came from: budwood models lineage NAME",
        )


def students_of(job: Job, store: Store, parent: Bundle) -> tuple[list[Found], list[Found]]:
    """The bases that were named, and the others smaller than the parent's that are on this machine."""
    cache, task = store.work("bases"), task_of(parent)
    named = [find_base(name, "", cache, task.name) for name in job.students]
    known = {found.label for found in named}
    return named, [found for found in recipes.smaller_bases(parent, cache) if found.label not in known]


def further_rows(job: Job, splits: Splits, progress: Progress) -> tuple[Row, ...]:
    """The rows of `--unlabelled` that are not among the labelled ones."""
    if job.unlabelled is None:
        return ()
    labelled = (*splits.train, *splits.validation, *splits.test)
    found = read_unlabelled(job.unlabelled, splits.options.input, task_of(job.entry.bundle), labelled)
    for note in found.notes:
        progress("data", 0, 0, note)
    return found.dataset.rows


def openings_of(store: Store, parent: Bundle, splits: Splits) -> Path:
    """Where the openings of these test rows are counted for this parent."""
    return store.work("openings") / f"{digest({'parent': parent.id, 'test': splits.test.fingerprint})[:32]}.json"


def remember_runtime(work: Bench, chosen: Made) -> None:
    """Measure the runtimes on what was published: `serve --runtime auto` finds it. Without it, serving measures."""
    try:
        with work.stage("runtimes"):
            measure_runtimes(chosen.bundle, work.splits.test.rows[:64])
    except (BudwoodError, RuntimeError, ValueError) as error:
        work.say("runtimes", f"not measured: {error}".splitlines()[0])


def publish(work: Bench, store: Store, judged: Judged, chosen: Made) -> Entry:
    """Give the chosen candidate its scores, pictures and card, and a version."""
    report, scores = judged.report, judged.scores
    assert scores is not None, "a chosen candidate was scored"
    out = work.folder / "release"
    shutil.rmtree(out, ignore_errors=True)
    name = work.job.name or work.job.entry.name
    pictures: dict[str, Path] = {file: work.folder / file for file in PICTURES}
    parent = report.reference
    compared = (Compared(parent.recipe, parent.score, parent.ci),) if parent.score is not None and parent.ci else ()
    described = release(
        chosen.bundle,
        out,
        name=name,
        scores=scores,
        splits=work.splits,
        report={"shrink": report.to_json()},
        energy=work.meter.energy,
        seconds=time.monotonic() - work.began,
        shrink=report,
        pictures=pictures,
        compared=compared,
    )
    entry = store.publish(name, described)
    shutil.rmtree(out, ignore_errors=True)
    return entry
