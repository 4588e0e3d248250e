"""How many steps a training run gets: by the rows, and by the minutes that the user grants."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from budwood.core.commit import write_atomic
from budwood.core.errors import UsageError
from budwood.engine.train import Batches, Loss, Plan

__all__ = ["CHEAPER", "TooLittleTime", "epochs_for", "within"]

CHEAPER = "use --method head"
UPDATES = 600
"""Few-sample fine-tuning is stable from hundreds of updates on (Zhang et al. 2021, arXiv:2006.05987)."""


class TooLittleTime(UsageError):
    """The granted time is not enough for a training that is worth the name."""


def epochs_for(steps_per_epoch: int, least: int = 3, most: int = 20) -> int:
    """At least `UPDATES` updates, between `least` and `most` epochs."""
    return min(most, max(least, -(-UPDATES // steps_per_epoch)))


def within(
    plan: Plan, seconds: float | None, model: Any, batches: Batches, loss: Loss, work: Path, *, cheaper: str = CHEAPER
) -> Plan:
    """The plan, cut to the steps that `seconds` allow by a timed probe; kept in `work` for the run that resumes.

    Args:
        cheaper: what else the user may do where they allow too little; empty where there is nothing.

    Raises:
        TooLittleTime: not even ten steps fit.
    """
    path = work / "plan.json"
    if path.exists():
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    if seconds is not None:
        plan = cut(plan, seconds, step_seconds(model, next(batches(0)), loss), cheaper)
    write_atomic(path, json.dumps(asdict(plan)).encode())
    return plan


def step_seconds(model: Any, batch: Any, loss: Loss) -> float:
    """Median time of a forward and a backward pass, after one that warms up. The weights stay as they are."""
    times = []
    model.train()
    for _ in range(4):
        began = time.monotonic()
        loss(model, batch).backward()  # type: ignore[no-untyped-call]
        times.append(time.monotonic() - began)
    model.zero_grad(set_to_none=True)
    return sorted(times[1:])[1]


def cut(plan: Plan, seconds: float, each: float, cheaper: str = CHEAPER) -> Plan:
    steps = int(0.9 * seconds / each)
    if steps >= plan.steps:
        return plan
    if steps < 10:
        raise TooLittleTime(
            f"{max(seconds, 0.0) / 60:.1f} minutes allow {max(steps, 0)} training steps of {each:.1f} s",
            where="--max-minutes",
            fix=", or ".join(filter(None, ("grant more minutes", cheaper))),
        )
    epochs = max(1, steps // plan.steps_per_epoch)
    return replace(plan, epochs=epochs, steps_per_epoch=min(plan.steps_per_epoch, steps))
