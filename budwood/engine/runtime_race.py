"""Runtimes side by side on one bundle: each must give the golden rows, then they take turns. Use `runtime_choice`."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.report import Speed
from budwood.core.task import Row
from budwood.engine import conformance
from budwood.engine.measure import CONTROL, Timing, collected_between_rounds, draw, summarise, turn
from budwood.engine.predictor import Predictor, default_runtime

__all__ = ["prove", "race", "sample"]

LEAST_ROUNDS, MOST_ROUNDS = 3, 200
SINGLES = 4
"""Single rows that a runtime answers in one turn."""
BATCH = 16
"""Rows that a server computes together."""
WRITTEN = 8
"""Tokens that a writer writes for each row."""


def prove(bundle: Bundle, name: str, threads: int, stack: ExitStack) -> Predictor:
    """Open a bundle and compare it with its golden rows. Raises BundleError, or what the library raises."""
    predictor = Predictor.open(bundle, name, threads)
    stack.callback(predictor.close)
    if conformance.FILE not in bundle.names:
        if name == default_runtime(bundle):
            return predictor
        raise BundleError("the bundle has no golden rows to prove it with", where=str(bundle.path))
    conformance.check(predictor, bundle)
    return predictor


def sample(predictor: Predictor, bundle: Bundle, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows to race on; a writer's are to be written on from, greedily."""
    task = predictor.task
    known = list(rows) or conformance.parsed(task, conformance.read(bundle))
    if not task.writes:
        return known
    options = {"max_tokens": WRITTEN, "temperature": 0.0}
    texts = [str(row.get("text", "")).split() for row in known]
    return [task.parse({"text": " ".join(words[: max(1, len(words) // 2)]), **options}) for words in texts if words]


def race(
    predictors: Mapping[str, Predictor], default: str, rows: Sequence[Row], seconds: float, threads: int
) -> dict[str, Speed]:
    """Turns in shuffled order, each round on the same rows for all; the default runs twice, as its own control."""
    contestants = {CONTROL: predictors[default], **predictors}
    timings = {name: Timing() for name in contestants}
    generator = np.random.default_rng(0)
    size = min(BATCH, predictors[default].task.batch_size)
    for predictor in predictors.values():
        predictor.predict(draw(rows, size, generator))
    with collected_between_rounds() as collect:
        began = time.perf_counter()
        for number in range(MOST_ROUNDS):
            if number >= LEAST_ROUNDS and time.perf_counter() - began >= seconds:
                break
            singles, batch = draw(rows, SINGLES, generator), draw(rows, size, generator)
            collect()
            for name in generator.permutation(list(contestants)).tolist():
                turn(contestants[name], singles, batch, timings[name], time.perf_counter_ns)
    return {
        name: summarise(timings, name, default, size_mb=0.0, memory=(None, None), threads=threads, batch_size=size)
        for name in predictors
    }
