"""What the parts of `shrink` share: the job, and the run's surroundings."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from budwood.core.budget import Budget
from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Progress, Step
from budwood.core.store import Entry
from budwood.core.task import Row, Task
from budwood.engine.machine import EnergyMeter

__all__ = ["Bench", "Job"]


@dataclass(frozen=True)
class Job:
    """What `shrink` was asked for; the fields are those of `budwood.shrink`."""

    entry: Entry
    budget: Budget
    max_minutes: float | None
    data: Path | str | None
    test: Path | str | None
    name: str | None
    seed: int
    explore: bool = False
    """Try every rung, though an earlier one keeps the budget."""
    students: tuple[str, ...] = ()
    """Smaller bases to try, by name or folder, beside those that are here."""
    unlabelled: Path | str | None = None
    """Rows without labels for the students to learn from."""


@dataclass
class Bench:
    """The run's surroundings."""

    job: Job
    splits: Splits
    folder: Path
    progress: Progress
    meter: EnergyMeter
    began: float
    openings: Path
    """The file that counts how often the test rows were opened for this parent, whatever the seed and the budget."""
    unlabelled: Sequence[Row] = ()
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = round(self.stages.get(name, 0.0) + time.monotonic() - began, 2)

    def say(self, what: str, note: str) -> None:
        self.progress(what, 0, 0, note)

    @property
    def left(self) -> float:
        """Seconds that remain of the granted minutes; infinite without a limit."""
        if self.job.max_minutes is None:
            return float("inf")
        return 60 * self.job.max_minutes - (time.monotonic() - self.began)

    def make(
        self,
        parent: Bundle,
        steps: tuple[Step, ...],
        rows: Splits,
        *,
        seconds: float | None = None,
        task: Task | None = None,
    ) -> Bundle:
        """The bundle of a recipe on these rows, made once; a rerun finds it by its content."""
        context = Context(
            out=self.folder / "unused",
            work=self.folder / "run",
            splits=rows,
            task=task,
            seed=self.job.seed,
            seconds=seconds,
            progress=self.progress,
            unlabelled=self.unlabelled,
        )
        return Recipe(steps).run(parent, context, self.folder / "steps")
