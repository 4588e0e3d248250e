"""Teach a given model, such as a smaller base, to answer as the adapted one does.

The student's head is first fitted on its frozen embeddings, then all of it learns from the teacher's answers
(linear probing first: Kumar et al. 2022, arXiv:2202.10054; soft targets: Hinton et al. 2015, arXiv:1503.02531).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.engine import graft
from budwood.engine.base_model import import_base
from budwood.engine.bases import content_here, find_here
from budwood.engine.distilling import Distilling, distil, sizes_report, with_teacher
from budwood.engine.predictor import task_of

__all__ = ["Distill"]


@final
@dataclass(frozen=True)
class Distill(Step):
    """The child is the student, with its own preprocessing; each of the two reads the rows in its own way."""

    student: str = ""
    """The folder of a transformers model or of a bundle, or a base of `budwood adapt --list-bases` that is here."""
    epochs: int | None = None
    """None: at least 600 updates in 6 to 40 epochs; 0 fits the head and leaves the rest as it is."""
    learning_rate: float = 1e-4
    batch_size: int = 32
    temperature: float = 2.0
    hard: float = 0.3
    """Weight of the labels; the rest is the teacher's answers."""
    direction: float = 0.0
    """Weight of 1 - cosine between the embeddings, where both have the same width."""
    hidden: float = 0.0
    """Weight of 1 - cosine between the states after layers at like depths, where both have the same shape."""

    name: ClassVar[str] = "shrink.distill"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})
    tasks: ClassVar[frozenset[str]] = frozenset({"text_classification", "image_classification", "image_regression"})

    def inputs(self) -> str:
        return content_here(self.student)

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises NotFoundError when there is no such student, BundleError when it is not one for this task."""
        from budwood.engine.fine_tune import trained_report

        settings = Distilling.of(self)
        settings.check()  # the head is fitted first
        taught, teacher = with_teacher(parent, context)
        base = import_base(find_here(self.student, context.work / "bases"), context.work / "student", type(taught.task))
        task = taught.task.fit_to(base.path)
        studied = graft.Lesson(task, task.encoder(base.path), task.build(base.path), taught.splits)
        penalty = fit_head(studied, context)
        trained = distil(
            studied,
            teacher,
            context,
            settings,
            f"distilling to {Path(self.student).name}",
            teacher_encoder=task_of(parent).encoder(parent.path),
        )
        calibrated = graft.calibration(studied, studied.splits.validation.rows)
        report = trained_report(trained) | {"penalty": penalty} | sizes_report(teacher, studied.model)
        draft = parent.draft(
            self.name,
            self.parameters() | {"student": base.manifest.base},
            task={"name": task.name, **task.to_json()},
            data=graft.data_record(studied.splits),
            base=base.manifest.base,
            license=base.manifest.license,
            calibration=calibrated,
            report=report,
        )

        def write(stage: Path) -> None:
            graft.copy_files(base, task.preprocessing, stage)
            task.save(studied.model, stage)

        return Bundle.create(context.out, draft, write)


def fit_head(studied: graft.Lesson, context: Context) -> float:
    """Fit the student's head on its frozen embeddings of the labelled rows; the penalty that was chosen."""
    from budwood.engine import head_fit, linear_head
    from budwood.engine.batching import Rows, run

    rows = Rows(studied.task, studied.encoder, studied.splits.train.rows)
    context.progress("embedding", 0, len(rows), "")
    embeddings = run(studied.model, rows, "embedding")
    fitter, outputs = head_fit.fitter(studied.task.head), studied.model.head.out_features
    penalties = studied.task.penalties
    penalty = fitter.choose(embeddings, rows.targets, outputs, rows.rows, context.seed, penalties)
    linear_head.install(studied.model, fitter.fit(embeddings, rows.targets, outputs, penalty))
    return penalty
