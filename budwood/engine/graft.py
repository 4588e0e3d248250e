"""What the ways to learn share: the parent's model with the task's head, validation, and the child bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle, DataRecord
from budwood.core.dataset import Splits
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.core.task import Encoder, Row, Task
from budwood.engine.predictor import task_of

__all__ = ["Lesson", "data_record", "lesson", "save_child"]


@dataclass(frozen=True)
class Lesson:
    """A task, the rows to learn it from, and the model that will."""

    task: Task
    encoder: Encoder
    model: Any
    splits: Splits


def lesson(parent: Bundle, context: Context) -> Lesson:
    """Build the parent's model for the context's task, or else the parent's own.

    Raises:
        StepError: the context has no data.
        DataError: the data has labels that the task does not know.
    """
    if context.splits is None:
        raise StepError("this step needs data", fix="pass --data")
    task = context.task or task_of(parent)
    return Lesson(task, task.encoder(parent.path), task.build(parent.path), context.splits)


def data_record(splits: Splits) -> DataRecord:
    return DataRecord(
        fingerprint=splits.fingerprint,
        sources=splits.train.sources,
        seed=splits.seed,
        rows=splits.sizes(),
        options=splits.options,
    )


def calibration(
    studied: Lesson, rows: Sequence[Row], left_out: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> dict[str, float]:
    """What makes the answers on held-out rows honest; nothing without such rows.

    `left_out` are logits and targets of training rows, from models that had not seen them; they count as held out.
    """
    from budwood.engine.batching import Rows, run

    parts = [] if left_out is None else [left_out]
    if rows:
        logits = run(studied.model, Rows(studied.task, studied.encoder, rows), "logits")
        parts.append((logits, studied.task.targets(rows)))
    if not parts:
        return {}
    return studied.task.calibrate(*(np.concatenate(found) for found in zip(*parts, strict=True)))


def save_child(
    parent: Bundle, context: Context, step: Step, studied: Lesson, calibrated: dict[str, float], report: dict[str, Any]
) -> Bundle:
    """Commit the trained model as the child of `parent`."""
    draft = parent.draft(
        step.name,
        step.parameters(),
        task={"name": studied.task.name, **studied.task.to_json()},
        data=data_record(studied.splits),
        calibration=calibrated,
        report=report,
    )

    def write(stage: Path) -> None:
        copy_files(parent, studied.task.preprocessing, stage)
        studied.task.save(studied.model, stage)

    return Bundle.create(context.out, draft, write)


def copy_files(parent: Bundle, names: Sequence[str], stage: Path) -> None:
    """Copy those of these files that the parent has. Raises BundleError when one changed since it was opened."""
    for name in names:
        if name in parent.manifest.files:
            parent.copy_file(name, stage / name)
