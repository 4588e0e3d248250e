"""`plan`: what `adapt` would do and cost, from a short probe, and what more labels would bring."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.errors import UsageError
from budwood.core.step import Progress
from budwood.core.store import Store
from budwood.core.task import Task
from budwood.engine.base_model import import_base
from budwood.engine.forecast import Forecast
from budwood.engine.machine import EnergyMeter, peak_memory_mb, usable_cores
from budwood.engine.threads import share_cores
from budwood.stages import adapting
from budwood.stages.results import Planned
from budwood.stages.workbench import Job

__all__ = ["CURVE_ROWS", "Foreseen", "Survey", "run", "timed"]

CURVE_ROWS = 1500
"""Rows of the learning curve; more would take longer than a plan may."""


@dataclass(frozen=True)
class Survey:
    """What a way to learn may look at to foresee its cost."""

    base: Bundle
    task: Task
    splits: Splits
    job: Job
    folder: Path
    """To write into; it is removed afterwards."""
    progress: Progress

    def say(self, what: str, note: str) -> None:
        self.progress(what, 0, 0, note)


@dataclass(frozen=True)
class Foreseen:
    """What a way to learn would do."""

    method: str
    why: str
    parameters: int
    stages: Mapping[str, float]
    """Seconds of each stage, at most."""
    curve: Forecast | None = None
    """The baseline's learning curve, where one is cheap."""


def run(job: Job, store: Store, progress: Progress) -> Planned:
    """Probe the data and the base. Nothing is published.

    Raises:
        DataError, UsageError, NotFoundError: as `adapt`.
    """
    began = time.monotonic()
    share_cores()
    adapting.check(job)
    splits, kind = adapting.read(job, progress)
    task, found = adapting.plan_task(job, kind, splits, store)
    foresee = foresight(task, job)
    base = import_base(found, store.work("bases"), type(task))
    with tempfile.TemporaryDirectory(dir=store.work("plans")) as folder, EnergyMeter() as meter:
        foreseen = foresee(Survey(base, task.fit_to(base.path), splits, job, Path(folder), progress))
        spent = time.monotonic() - began
        watts = 3600 * meter.energy.wh / spent
    seconds = sum(foreseen.stages.values())
    granted = None if job.max_minutes is None else 60 * job.max_minutes
    expected = seconds if granted is None else min(seconds, granted)
    energy = watts * expected / 3600
    return Planned(
        task=task.name,
        base=found.label,
        license=base.manifest.license,
        parameters=foreseen.parameters,
        method=foreseen.method,
        why=foreseen.why,
        rows=splits.sizes(),
        seconds=round(expected, 1),
        seconds_wanted=round(seconds, 1),
        fits=granted is None or seconds <= granted,
        stages={name: round(value, 1) for name, value in foreseen.stages.items()},
        memory_mb=round(peak_memory_mb(), 1),
        energy_wh=round(energy, 3),
        co2_g=round(energy / 1000 * meter.energy.grams_per_kwh, 3),
        energy_method=f"{meter.energy.method}; {meter.energy.grams_per_kwh:.0f} g per kWh, {meter.energy.grid}",
        curve=foreseen.curve.to_json() if foreseen.curve else None,
        probe_seconds=round(time.monotonic() - began, 1),
        cores=usable_cores(),
    )


def foresight(task: Task, job: Job) -> Callable[[Survey], Foreseen]:
    """The probe of the task's way to learn: `budwood/stages/planning_<way>.py`.

    Raises:
        UsageError: that way has none.
    """
    module = f"budwood.stages.planning_{task.learning}"
    if find_spec(module) is None:
        raise UsageError(
            f"plan cannot foresee what {task.name} takes",
            where=str(job.data),
            fix=f"budwood adapt {job.data} --max-minutes 5 keeps to a limit",
        )
    found: Callable[[Survey], Foreseen] = import_module(module).foresee
    return found


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began
