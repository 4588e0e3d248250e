"""Runtimes side by side on one bundle: each must give the golden rows, then they take turns. Use `runtime_choice`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, DataError
from budwood.core.report import Speed
from budwood.core.task import Row
from budwood.engine import conformance
from budwood.engine.measure import CONTROL, Timing, collected_between_rounds, draw, summarise, turn
from budwood.engine.predictor import Predictor, default_runtime

__all__ = ["Failed", "prove", "race", "sample"]

LEAST_ROUNDS, MOST_ROUNDS = 3, 200
SINGLES = 4
"""Single rows that a runtime answers in one turn."""
BATCH = 16
"""Rows that a server computes together."""


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
    """The rows to race on, as a server is asked them: the given ones, else the golden rows."""
    task = predictor.task
    return task.asked(list(rows) or conformance.parsed(task, conformance.read(bundle)))


class Failed(Exception):
    """A runtime that gave the golden rows could not answer in the race; `__cause__` is what its library raised."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@contextmanager
def blamed(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a library raises, its runtime is out
        raise Failed(name) from error


def race(
    predictors: Mapping[str, Predictor], default: str, rows: Sequence[Row], seconds: float, threads: int
) -> dict[str, Speed]:
    """Turns in shuffled order, each round on the same rows for all; the default runs twice, as its own control.

    Raises:
        Failed: a runtime could not answer. DataError: there are no rows.
    """
    if not rows:
        raise DataError("there are no rows to measure with", where="rows")
    contestants = {CONTROL: predictors[default], **predictors}
    timings = {name: Timing() for name in contestants}
    generator = np.random.default_rng(0)
    size = min(BATCH, predictors[default].task.batch_size)
    for name, predictor in predictors.items():
        with blamed(name):
            predictor.predict(draw(rows, size, generator))
    with collected_between_rounds() as collect:
        began = time.perf_counter()
        for number in range(MOST_ROUNDS):
            if number >= LEAST_ROUNDS and time.perf_counter() - began >= seconds:
                break
            singles, batch = draw(rows, SINGLES, generator), draw(rows, size, generator)
            collect()
            for name in generator.permutation(list(contestants)).tolist():
                with blamed(default if name == CONTROL else name):
                    turn(contestants[name], singles, batch, timings[name], time.perf_counter_ns)
    return {
        name: summarise(timings, name, default, size_mb=0.0, memory=(None, None), threads=threads, batch_size=size)
        for name in predictors
    }
