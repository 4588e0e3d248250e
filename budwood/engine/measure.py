"""The only ruler: how right, how fast, how large. Every number that Budwood reports of a model comes from here.

`score` reads a labelled set; `bench` runs several bundles side by side, in turns, with the reference against itself as
the control that says which differences are noise.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.budget import Budget
from budwood.core.bundle import Bundle
from budwood.core.errors import DataError, NotFoundError, StepError
from budwood.core.report import Candidate, Speed
from budwood.core.step import Progress, silent
from budwood.core.task import Answer, Row
from budwood.engine.memory import Memory, serving_memory
from budwood.engine.predictor import Predictor
from budwood.engine.statistics import Verdict, interval

__all__ = ["Scores", "Timing", "bench", "candidate", "race", "score"]

SINGLES = 8
"""Single rows that one contestant answers in one turn."""
MIN_ROUNDS = 5
MAX_ROUNDS = 400
CONTROL = "\0control"
"""The second copy of the reference; no bundle can have this name."""


@dataclass(frozen=True)
class Scores:
    """How right a model is on a labelled set."""

    metric: str
    per_row: NDArray[np.float64]
    """One score a row in [0, 1], in the order of the rows: what paired tests take."""
    value: float
    """The headline metric: the mean of `per_row`."""
    ci: tuple[float, float]
    """Its 95 % interval."""
    metrics: Mapping[str, float]
    answers: Sequence[Answer] = field(repr=False)
    seconds: float
    logits: NDArray[Any] | None = field(default=None, repr=False)
    """Before calibration, shape (rows, …); only where they were asked for."""

    def __len__(self) -> int:
        return len(self.per_row)


@dataclass
class Timing:
    """What one contestant did in the race: nanoseconds, one list a round."""

    singles: list[list[int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


def score(
    predictor: Predictor, rows: Sequence[Row], batch_size: int | None = None, *, keep_logits: bool = False
) -> Scores:
    """Score a predictor on labelled rows, through the same path that serves.

    Args:
        keep_logits: keep what the answers were decoded from, for a report on calibration.

    Raises:
        DataError: there are no rows, or one has an unknown label.
    """
    if not rows:
        raise DataError("there are no rows to score", where="rows", fix="give a table with labelled rows")
    predictor = replace(predictor, task=predictor.task.measuring())
    start = time.perf_counter()
    answers, logits = (
        predictor.predict_with_logits(rows, batch_size)
        if keep_logits
        else (predictor.predict_all(rows, batch_size), None)
    )
    seconds = time.perf_counter() - start
    per_row = predictor.task.row_scores(answers, rows)
    return Scores(
        metric=predictor.task.metric,
        per_row=per_row,
        value=float(per_row.mean()),
        ci=interval(per_row),
        metrics=predictor.task.metrics(answers, rows),
        answers=answers,
        seconds=seconds,
        logits=logits,
    )


def bench(
    bundles: Mapping[str, Bundle],
    rows: Sequence[Row],
    *,
    reference: str | None = None,
    seconds: float = 20.0,
    threads: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    runtimes: Mapping[str, str] | None = None,
    memory: bool = True,
    progress: Progress = silent,
) -> dict[str, Speed]:
    """Measure bundles side by side on this machine, end to end: encode, run and decode.

    Args:
        bundles: names to bundles; all answer the same rows.
        rows: real rows, best those of the test set; lengths matter.
        reference: the name that ratios refer to; the first one when left out.
        seconds: how long the race may take, all bundles together; five rounds are always run.
        threads: threads of each runtime, the same for all. One is what a serving worker has.
        runtimes: the runtime of a bundle, where not the one that serving would take.
        memory: also measure the memory of a fresh serving process of each (a second or two each).

    Raises:
        DataError: there are no rows.
        NotFoundError: the reference is not among the bundles.
    """
    chosen = {name: (runtimes or {}).get(name, "auto") for name in bundles}
    reference = check_reference(list(bundles), reference)
    predictors: dict[str, Predictor] = {}
    try:
        for name, bundle in bundles.items():
            predictors[name] = Predictor.open(bundle, chosen[name], threads)
        predictors[CONTROL] = Predictor.open(bundles[reference], chosen[reference], threads)
        asked = predictors[reference].task.asked(rows)
        timings = race(
            predictors, asked, reference=reference, seconds=seconds, batch_size=batch_size, seed=seed, progress=progress
        )
    finally:
        for predictor in predictors.values():
            predictor.close()
    sample = draw(rows, min(batch_size, len(rows)), np.random.default_rng(seed))
    speeds = {}
    for name, bundle in bundles.items():
        held = memory_of(bundle, sample, chosen[name], threads, progress) if memory else None
        speeds[name] = summarise(
            timings,
            name,
            reference,
            size_mb=size_mb(bundle, chosen[name]),
            memory=(held.total_mb, held.growth_mb) if held else (None, None),
            threads=threads,
            batch_size=batch_size,
        )
    return speeds


def memory_of(bundle: Bundle, rows: Sequence[Row], runtime: str, threads: int, progress: Progress) -> Memory | None:
    """What a fresh serving process holds; None, and a word, where that process failed: the race is not lost for it."""
    try:
        return serving_memory(bundle, rows, runtime, threads)
    except StepError as error:
        progress("memory", 0, 0, f"not measured: {error.cause}")
        return None


def race(
    predictors: Mapping[str, Predictor],
    rows: Sequence[Row],
    *,
    reference: str,
    seconds: float,
    batch_size: int = 32,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Progress = silent,
) -> dict[str, Timing]:
    """Let predictors take turns in shuffled order, round after round, each round on the same rows for all.

    Other load on the machine comes and goes within seconds, so only times of the same round are compared. A second
    predictor of the reference under the name `CONTROL` makes the A/A control; without one the reference runs twice.
    """
    if not rows:
        raise DataError("there are no rows to measure with", where="rows", fix="give a table with rows")
    contestants = {CONTROL: predictors[reference], **predictors}
    generator = np.random.default_rng(seed)
    timings = {name: Timing() for name in contestants}
    warm = draw(rows, batch_size, generator)
    for predictor in contestants.values():
        predictor.predict(warm)
    with collected_between_rounds() as collect:
        start = clock()
        for number in range(MAX_ROUNDS):
            spent = (clock() - start) / 1e9
            if number >= MIN_ROUNDS and spent >= seconds:
                break
            progress("measuring speed", min(int(spent), int(seconds)), max(1, int(seconds)), f"round {number + 1}")
            singles, batch = draw(rows, SINGLES, generator), draw(rows, batch_size, generator)
            collect()
            for name in generator.permutation(list(contestants)).tolist():
                turn(contestants[name], singles, batch, timings[name], clock)
    return timings


@contextmanager
def collected_between_rounds() -> Iterator[Callable[[], object]]:
    """No garbage collection while times are taken; the function that is given collects what is new since the start."""
    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield gc.collect
    finally:
        if not frozen:
            gc.unfreeze()
        if enabled:
            gc.enable()


def turn(
    predictor: Predictor, singles: Sequence[Row], batch: Sequence[Row], timing: Timing, clock: Callable[[], int]
) -> None:
    """One contestant's turn. Its first answer is not timed: it pays for the caches that the one before has filled."""
    predictor.predict(singles[:1])
    times = []
    for row in singles:
        start = clock()
        predictor.predict([row])
        times.append(clock() - start)
    start = clock()
    predictor.predict(batch)
    timing.batches.append(clock() - start)
    timing.singles.append(times)


def summarise(
    timings: Mapping[str, Timing],
    name: str,
    reference: str,
    *,
    size_mb: float,
    memory: tuple[float | None, float | None],
    threads: int,
    batch_size: int,
) -> Speed:
    """The speed of one contestant, beside the reference and with the control's noise."""
    own, base, control = timings[name], timings[reference], timings[CONTROL]
    ratio, ratio_ci = ratio_of(medians(base.singles), medians(own.singles))
    batch_ratio, batch_ratio_ci = ratio_of(base.batches, own.batches)
    noise = spread(*ratio_of(medians(base.singles), medians(control.singles))[1])
    batch_noise = spread(*ratio_of(base.batches, control.batches)[1])
    samples = np.concatenate([np.asarray(item) for item in own.singles]) / 1e6
    return Speed(
        p50_ms=float(np.quantile(samples, 0.5)),
        p95_ms=float(np.quantile(samples, 0.95)),
        items_per_s=batch_size / (float(np.median(own.batches)) / 1e9),
        size_mb=size_mb,
        memory_mb=memory[0],
        memory_growth_mb=memory[1],
        samples=len(samples),
        ratio=ratio,
        ratio_ci=ratio_ci,
        batch_ratio=batch_ratio,
        batch_ratio_ci=batch_ratio_ci,
        noise=noise,
        batch_noise=batch_noise,
        threads=threads,
        batch_size=batch_size,
    )


def candidate(recipe: str, scores: Scores, speed: Speed, budget: Budget, verdict: Verdict | None = None) -> Candidate:
    """A row of the shrink report. Without a verdict it is the parent, of which only speed and size are judged."""
    reasons = budget.check(speed.p95_ms, speed.size_mb)
    if verdict is not None and verdict.verdict != "PASS":
        reasons.insert(0, verdict.why)
    notes = [verdict.why] if verdict is not None and verdict.verdict == "PASS" else []
    if speed.rank == "slower":
        notes.append(f"slower than the parent: {speed.ratio:.2f}x its speed")
    return Candidate(
        recipe=recipe,
        score=scores.value,
        ci=scores.ci,
        drop=verdict.drop if verdict else None,
        drop_ci=verdict.drop_ci if verdict else None,
        p50_ms=speed.p50_ms,
        p95_ms=speed.p95_ms,
        items_per_s=speed.items_per_s,
        size_mb=speed.size_mb,
        memory_mb=speed.memory_mb,
        within_budget=not reasons,
        why="; ".join(reasons + notes),
        verdict=verdict.verdict if verdict else None,
        rows_needed=verdict.rows_needed if verdict else None,
        flips=verdict.flips if verdict else None,
        ratio=speed.ratio,
        ratio_ci=speed.ratio_ci,
        batch_ratio=speed.batch_ratio,
        rank=speed.rank,
        noise=speed.noise,
    )


def ratio_of(base: Sequence[float], own: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """How many times as fast as the base: the median of the rounds' ratios and its 95 % interval."""
    ratios = np.sort(np.asarray(base, dtype=np.float64) / np.asarray(own, dtype=np.float64))
    rank = median_rank(len(ratios))
    return float(np.median(ratios)), (float(ratios[rank]), float(ratios[len(ratios) - 1 - rank]))


def median_rank(n: int) -> int:
    """The number k such that the k-th smallest and k-th largest (from 0) hold the median with 95 % confidence.

    The sign test's interval: nothing is assumed of the distribution. All values are taken when they are too few.
    """
    tail, rank = 0.0, -1
    while rank + 1 < n / 2:
        tail += comb(n, rank + 1) / 2**n
        if tail > 0.025:
            break
        rank += 1
    return max(0, rank)


def spread(low: float, high: float) -> float:
    return max(abs(1 - low), abs(high - 1))


def medians(blocks: Sequence[Sequence[int]]) -> list[float]:
    return [float(np.median(block)) for block in blocks]


def draw(rows: Sequence[Row], count: int, generator: np.random.Generator) -> list[Row]:
    """Rows drawn at random; with repetition only where there are too few."""
    picked = generator.choice(len(rows), count, replace=count > len(rows))
    return [rows[int(index)] for index in picked]


def size_mb(bundle: Bundle, runtime: str = "auto") -> float:
    """What a server loads, in megabytes (10^6 bytes): with the torch runtime the float weights."""
    if runtime == "torch":
        return bundle.manifest.files[bundle.model_file("torch").relative_to(bundle.path).as_posix()].bytes / 1e6
    return bundle.serving_bytes / 1e6


def check_reference(names: Sequence[str], reference: str | None) -> str:
    if not names:
        raise DataError("there is no bundle to measure", where="bundles")
    if reference is not None and reference not in names:
        raise NotFoundError(f"the reference {reference!r} is not measured", where="reference", fix=", ".join(names))
    return reference or names[0]
