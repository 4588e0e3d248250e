"""What a detector's training may take of the granted time, after what is tried before it. Import only inside functions.

Kept in the step's work folder, so that a run that goes on neither repeats the self-test nor changes its schedule.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from budwood.core.commit import write_atomic
from budwood.core.step import Context
from budwood.core.task import Row
from budwood.engine.detector_judge import Judge
from budwood.engine.detector_training import EVALUATIONS, Pictures
from budwood.engine.overfitting import by_heart

__all__ = ["Grant", "granted"]

FILE = "grant.json"
TEST_SHARE = 0.4
"""Of a step's time that its self-test may take."""
LOOKING_SHARE = 0.25
"""Of the rest that scoring validation images may take."""
SPARE = 0.85
"""Of the rest that training may take: images are decoded and checkpoints are written besides."""
LEAST_LOOKS = 2
TIMED = 8
"""Images by which the time of scoring is estimated."""


@dataclass(frozen=True)
class Grant:
    """The time and the looks at validation images that a training gets."""

    seconds: float | None = None
    """Of the training alone; None for as long as it takes."""
    looks: int = EVALUATIONS
    """Evaluations, evenly spread."""
    every: int = 1
    """One validation image in so many is looked at; more than 1 where all would take too long."""
    self_test: Mapping[str, float] | None = None
    """What came of it; None where there was none."""


def granted(
    model: Any, pictures: Pictures, judge: Judge, held: Sequence[Row], context: Context, *, self_test: bool
) -> Grant:
    """Do the self-test, where asked for, and share out what is left of `context.seconds`.

    Raises:
        StepError: the self-test has failed.
    """
    path = context.work / FILE
    if path.exists():
        return Grant(**json.loads(path.read_text(encoding="utf-8")))
    began, seconds = time.monotonic(), context.seconds
    limit = None if seconds is None else TEST_SHARE * seconds
    tested = by_heart(model, pictures, judge.ap50, context, limit) if self_test else None
    grant = Grant(self_test=tested)
    if seconds is not None:
        each = judge.seconds(model, held[:TIMED])
        grant = shared_out(seconds - (time.monotonic() - began), len(held), each, tested)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(asdict(grant)).encode())
    return grant


def shared_out(seconds: float, n_held: int, each: float, tested: Mapping[str, float] | None) -> Grant:
    """The grant for so many seconds, where a look at one of `n_held` images takes `each` seconds.

    A last look after the training finds the threshold.
    """
    looks, every = EVALUATIONS, 1
    affordable = LOOKING_SHARE * max(seconds, 0.0) / each if each else float("inf")
    if (EVALUATIONS + 1) * n_held > affordable:
        looks = max(LEAST_LOOKS, int(affordable / n_held) - 1)
        every = max(1, -(-(looks + 1) * n_held // max(1, int(affordable))))
    looking = (looks + 1) * -(-n_held // every) * each
    return Grant(max(0.0, min(SPARE * seconds, seconds - looking)), looks, every, tested)
