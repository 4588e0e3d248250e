"""`shrink`: make candidates, race them against their parent on this machine, and accept one by a paired test."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from budwood.core import registry
from budwood.core.budget import Budget
from budwood.core.bundle import Bundle, DataRecord, digest
from budwood.core.dataset import ReadOptions, Splits
from budwood.core.errors import DataError, NotFoundError, StepError, UsageError
from budwood.core.recipe import Recipe
from budwood.core.report import Candidate, ShrinkReport, Speed
from budwood.core.step import Context, Progress, Step, check_minutes, check_seed
from budwood.core.store import Entry, Store, check_name
from budwood.engine.machine import EnergyMeter, describe
from budwood.engine.measure import Scores, bench, candidate, score
from budwood.engine.plot import pareto
from budwood.engine.predictor import Predictor, task_of
from budwood.engine.reading import read_dataset
from budwood.engine.release import release
from budwood.engine.report_plots import Compared
from budwood.engine.statistics import non_inferiority
from budwood.engine.threads import share_cores
from budwood.stages import choosing
from budwood.stages.results import Shrunk

__all__ = ["Job", "run"]

PARENT = "parent"
RACE_SECONDS = 20.0
PICTURES = ("pareto.svg", "pareto.png")


@dataclass(frozen=True)
class Job:
    """What `shrink` was asked for."""

    entry: Entry
    budget: Budget
    max_minutes: float | None
    data: Path | str | None
    test: Path | str | None
    name: str | None
    seed: int


@dataclass
class Bench:
    """The run's surroundings."""

    job: Job
    splits: Splits
    folder: Path
    progress: Progress
    meter: EnergyMeter
    began: float
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - began, 2)


def run(job: Job, store: Store, progress: Progress) -> Shrunk:
    """Do the job. Candidates stay in the work folder, so a rerun with another budget measures and decides only."""
    began = time.monotonic()
    share_cores()
    parent = job.entry.bundle
    check(job)
    splits = rows_of(job, store, progress)
    minutes = job.max_minutes
    facts = {"parent": parent.id, "rows": splits.fingerprint, "seed": job.seed, "minutes": minutes}
    with store.lock(f"shrink-{digest(facts)[:24]}") as folder, EnergyMeter() as meter:
        work = Bench(job, splits, folder, progress, meter, began)
        bundles, failed = make_candidates(work, parent)
        with work.stage("race"):
            speeds = bench(
                {PARENT: parent, **bundles},
                splits.test.rows,
                reference=PARENT,
                seconds=RACE_SECONDS if minutes is None else min(RACE_SECONDS, 12 * minutes),
                seed=job.seed,
                progress=progress,
            )
        with work.stage("test"):
            report, scores = judge(work, parent, bundles, speeds, failed)
        plots = pareto(report, folder, job.name or job.entry.name)
        published, plot = None, next(path for path in plots if path.suffix == ".svg")
        if report.chosen is not None and report.within_budget:
            published = publish(work, store, bundles[report.chosen], report, scores[report.chosen])
            plot = published.bundle.path / plot.name
    return Shrunk(
        report=report,
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
        already = "is already quantized" if "onnx-int8" in parent.formats else "has no float ONNX graph"
        raise UsageError(
            f"the model {already}: there is nothing to shrink it from",
            where=str(parent.path),
            fix="shrink the float version it came from: budwood models lineage NAME",
        )


def rows_of(job: Job, store: Store, progress: Progress) -> Splits:
    """The very rows of the parent's training; `--data` gives them anew when the store does not have them.

    Raises:
        NotFoundError, DataError, UsageError: the rows are not there, or are not those that the parent was trained on.
    """
    record = job.entry.bundle.manifest.data
    if record is None:
        if job.data is None:
            raise NotFoundError("the model names no data", where=str(job.entry.bundle.path), fix="pass --data DATA")
        return splits_of(job, job.data, job.seed, ReadOptions())
    if job.data is None:
        return replace(kept(job, store, record), options=record.options)
    if job.test is not None or not record.options.test:
        splits = splits_of(job, job.data, record.seed, record.options)
        if splits.fingerprint == record.fingerprint:
            return replace(splits, options=record.options)
    try:
        own = store.load_splits(record.fingerprint)
    except NotFoundError:
        raise other_rows(job, record) from None
    progress("data", 0, 0, "data=the rows of the training  # they are in the store; those given are others")
    return replace(own, options=record.options)


def splits_of(job: Job, data: Path | str, seed: int, options: ReadOptions) -> Splits:
    """The rows of `--data` and `--test`, read and split as for the training of the parent."""
    columns = (options.target, options.input, options.group)
    kind = task_of(job.entry.bundle)
    try:
        rows = read_dataset(data, *columns, task=kind.name).dataset
        test = None if job.test is None else read_dataset(job.test, *columns, task=kind.name).dataset
    except DataError as error:
        if options == ReadOptions():
            raise
        raise DataError(error.cause, where=error.where, fix="pass the very files that were given to adapt") from error
    return choosing.split_rows(type(kind), rows, test, options, seed)


def kept(job: Job, store: Store, record: DataRecord) -> Splits:
    try:
        return store.load_splits(record.fingerprint)
    except NotFoundError as error:
        raise NotFoundError(error.cause, where=error.where, fix=f"pass {files_of(record)}") from error


def files_of(record: DataRecord) -> str:
    """What to pass, so that the rows of the training are made again: `--data tickets.csv --test test.csv (…)`."""
    tests = ", ".join(f"{name} (SHA-256 {sha256[:12]}…)" for name, sha256 in record.options.test)
    return f"--data {', '.join(record.sources) or 'DATA'}" + (f" --test {tests}" if tests else "")


def other_rows(job: Job, record: DataRecord) -> UsageError:
    if record.options.test and job.test is None:
        return UsageError(
            "the model has a test set of its own, which is not in this store",
            where="--test",
            fix=f"pass {files_of(record)}",
        )
    return UsageError(
        "these are not the rows that the model was trained on, so its test rows are unknown",
        where=f"{job.data}" + (f", {job.test}" if job.test is not None else ""),
        fix=f"pass the files that were given to adapt: {files_of(record)}; or leave --data out",
    )


def recipes(parent: Bundle) -> dict[str, tuple[Step, ...]]:
    """The candidates by name: int8, half the layers, and both."""
    onnx, int8 = plugin("export", "onnx")(), plugin("shrink", "quantize_dynamic")()
    found: dict[str, tuple[Step, ...]] = {"int8": (int8,)}
    layers = n_layers(parent)
    if layers >= 2:
        cut = plugin("shrink", "drop_layers")(layers=layers // 2)
        found[f"layers-{layers // 2}"] = (cut, onnx)
        found[f"layers-{layers // 2}+int8"] = (cut, onnx, int8)
    return found


def plugin(folder: str, name: str) -> Any:
    return registry.get(f"steps/{folder}", name)


def n_layers(parent: Bundle) -> int:
    """Layers of a transformer, of which some can be left out; 0 for other networks, whose blocks differ in shape."""
    import json

    config = json.loads(parent.file("config.json").read_text(encoding="utf-8"))
    if not any(name in config for name in ("num_attention_heads", "n_heads")):
        return 0
    return int(config.get("num_hidden_layers") or config.get("n_layers") or 0)


def make_candidates(work: Bench, parent: Bundle) -> tuple[dict[str, Bundle], list[Candidate]]:
    """The candidates that could be made, and those that could not, with the reason.

    Where the parent has learnt from the validation rows too, so does a student, with as many epochs as the rule gives
    and the parent's calibration: rows that the teacher knows by heart can neither choose nor calibrate.

    Raises:
        StepError, UsageError: not one could be made.
    """
    rows = choosing.merged(work.splits) if choosing.small(work.splits) else work.splits
    minutes = work.job.max_minutes
    made: dict[str, Bundle] = {}
    failed: list[Candidate] = []
    for name, steps in recipes(parent).items():
        context = Context(
            out=work.folder / "unused",
            work=work.folder / "run",
            splits=rows,
            seed=work.job.seed,
            seconds=None if minutes is None else 60 * minutes * 0.6,
            progress=work.progress,
        )
        try:
            with work.stage(name):
                made[name] = Recipe(steps).run(parent, context, work.folder / "steps")
        except (StepError, UsageError) as error:
            failed.append(Candidate(recipe=name, why=f"it could not be made: {error.cause}"))
            if len(failed) == len(recipes(parent)):
                raise
    return made, failed


def judge(
    work: Bench,
    parent: Bundle,
    bundles: Mapping[str, Bundle],
    speeds: Mapping[str, Speed],
    failed: Sequence[Candidate],
) -> tuple[ShrinkReport, dict[str, Scores]]:
    """Every candidate against the parent on the locked test rows; the smallest that passes is chosen.

    Each passes at 5 % divided by the number of candidates, so that picking among them costs no honesty.

    The test rows were used neither to train nor to choose epochs, temperatures or quantization settings.
    """
    rows, budget = work.splits.test.rows, work.job.budget
    scores = {name: scored(bundle, rows) for name, bundle in {PARENT: parent, **bundles}.items()}
    reference = candidate(PARENT, scores[PARENT], speeds[PARENT], budget)
    found: list[Candidate] = []
    for name in bundles:
        verdict = non_inferiority(scores[PARENT].per_row, scores[name].per_row, budget.max_drop, len(bundles))
        found.append(candidate(name, scores[name], speeds[name], budget, verdict))
    passed = [item for item in found if item.within_budget and item.rank != "slower"]
    chosen = min(passed, key=lambda item: (item.size_mb, item.p50_ms)).recipe if passed else None
    report = ShrinkReport(
        reference=reference,
        candidates=(*found, *failed),
        chosen=chosen,
        budget=budget,
        metric=scores[PARENT].metric,
        n=len(rows),
        seed=work.job.seed,
        machine=describe(),
    )
    return report, scores


def scored(bundle: Bundle, rows: Any) -> Scores:
    with closing(Predictor.open(bundle)) as predictor:
        return score(predictor, rows, keep_logits=predictor.task.keeps_logits)


def parents(report: ShrinkReport) -> tuple[Compared, ...]:
    parent = report.reference
    return (Compared(parent.recipe, parent.score, parent.ci),) if parent.score is not None and parent.ci else ()


def publish(work: Bench, store: Store, chosen: Bundle, report: ShrinkReport, scores: Scores) -> Entry:
    out = work.folder / "release"
    shutil.rmtree(out, ignore_errors=True)
    name = work.job.name or work.job.entry.name
    pictures = {file: work.folder / file for file in PICTURES}
    facts = {"shrink": report.to_json()}
    described = release(
        chosen,
        out,
        name=name,
        scores=scores,
        splits=work.splits,
        report=facts,
        energy=work.meter.energy,
        seconds=time.monotonic() - work.began,
        shrink=report,
        pictures=pictures,
        compared=parents(report),
    )
    entry = store.publish(name, described)
    shutil.rmtree(out, ignore_errors=True)
    return entry
