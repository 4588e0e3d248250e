"""What all ways to learn share: the job, the run's surroundings, and what learning gives."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Progress, Step
from budwood.core.task import Task
from budwood.engine.machine import EnergyMeter
from budwood.engine.measure import Scores, score
from budwood.engine.predictor import Predictor
from budwood.stages.results import Baseline

__all__ = ["HEAD", "ONNX", "Bench", "Job", "Learned", "measured"]

HEAD: Step = registry.get("steps/adapt", "head")()
ONNX: Step = registry.get("steps/export", "onnx")()


@dataclass(frozen=True)
class Job:
    """What `adapt` was asked for; the fields are those of `budwood.adapt`."""

    data: Path | str
    task: str
    base: str
    name: str | None
    target: str | None
    input: str | None
    group: str | None
    test: Path | str | None
    method: str
    shots: int | None
    seed: int
    max_minutes: float | None
    fresh: bool
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only some tasks take; the task checks it."""
    unlabelled: Path | str | None = None
    """A folder or a table of rows without labels to learn from."""


@dataclass
class Bench:
    """The run's surroundings: where results are kept, whom to tell, and how long each stage took."""

    base: Bundle
    task: Task
    folder: Path
    job: Job
    progress: Progress
    meter: EnergyMeter
    began: float
    seconds: float | None = None
    """What each fit may take."""
    stages: dict[str, float] = field(default_factory=dict)

    def say(self, what: str, note: str) -> None:
        self.progress(what, 0, 0, note)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.stages[name] = round(self.stages.get(name, 0.0) + time.monotonic() - began, 2)

    def share_time(self, fits: int) -> None:
        """Divide the granted minutes between this many fits; a fifth is left for measuring and exporting."""
        if self.job.max_minutes is not None:
            self.seconds = 48 * self.job.max_minutes / fits

    def make(self, splits: Splits, steps: tuple[Step, ...]) -> Bundle:
        """The bundle of a recipe on these rows, made once."""
        context = Context(
            out=self.folder / "unused",
            work=self.folder / "run",
            splits=splits,
            task=self.task,
            seed=self.job.seed,
            seconds=self.seconds,
            progress=self.progress,
        )
        return Recipe(steps).run(self.base, context, self.folder / "steps")


@dataclass(frozen=True)
class Learned:
    """What a way to learn found: the model to ship, with its graph, and how it compares with the baseline."""

    method: str
    why: str
    model: Bundle
    calibration: Mapping[str, float]
    baseline: Baseline
    n_train: int
    """Rows that the model has learnt from."""
    histories: Sequence[Any] = ()
    """(step, score) on held-out rows of each fit of the method that was tried."""
    curve: Mapping[str, Any] | None = None
    """The baseline's learning curve."""
    split: str = ""
    """How the test rows were set apart, where a score means little without it."""
    splits: Splits | None = None
    """The rows with those that the way to learn has added; None where it added none."""
    unlabelled: Mapping[str, Any] | None = None
    """What became of the rows without labels, where there were any."""

    @property
    def adapted(self) -> bool:
        """Whether something else than the baseline ships."""
        return self.method != self.baseline.method


def measured(bundle: Bundle, splits: Splits) -> Scores:
    """Scores on the test rows, through the runtime that serves."""
    with closing(Predictor.open(bundle)) as predictor:
        return score(predictor, splits.test.rows)
