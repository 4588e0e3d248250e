"""Teach a detector on a smaller backbone to see what the adapted one sees.

The student gets the teacher's head, where its shape does not depend on the backbone, and learns from true boxes and
from the teacher's scores and boxes at every place (Li et al. 2020, arXiv:2006.04388, for the loss of the scores).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.engine import graft
from budwood.engine.base_model import import_base
from budwood.engine.bases import content_here, find_here
from budwood.engine.distilling import sizes_report, with_teacher

__all__ = ["DistillDetector"]

SHARE = 0.8
"""Of the granted time that training gets; the rest is for scoring."""


@final
@dataclass(frozen=True)
class DistillDetector(Step):
    """For detectors on convolutional backbones. Rows without boxes are not used."""

    student: str = ""
    """The folder of an image classifier or of a bundle, or a base of `budwood adapt --list-bases` that is here."""
    images: int | None = None
    """Images that are seen, repetitions included; None decides by the rows."""
    rate: float | None = None
    """Of the backbone; None takes that of fine-tuning."""
    head_rate: float | None = None
    hard: float = 0.5
    """Weight of the true boxes; the rest is the teacher's scores and boxes."""

    name: ClassVar[str] = "shrink.distill_detector"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})
    tasks: ClassVar[frozenset[str]] = frozenset({"object_detection"})

    def inputs(self) -> str:
        return content_here(self.student)

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises StepError where teacher or student is a detector of transformers: it answers queries, not places."""
        from budwood.engine.detector_distilling import inherit_head
        from budwood.engine.detector_judge import Judge

        taught, teacher = with_teacher(parent, context)
        task: Any = taught.task
        base = import_base(find_here(self.student, context.work / "bases"), context.work / "student", type(task))
        studied = graft.Lesson(task, task.encoder(base.path), task.build(base.path), taught.splits)
        new = inherit_head(studied.model, teacher)
        trained = self.learn(studied, teacher, (parent, base), context)
        held, judge = studied.splits.validation.rows, Judge(studied)
        calibrated = {"threshold": judge.threshold(studied.model, held)} if judge.can_tell(held) else {}
        history = [list(item) for item in trained.history]
        report = {"steps": trained.steps, "stopped": trained.stopped, "history": history, "new_layers": new}
        draft = parent.draft(
            self.name,
            self.parameters() | {"student": base.manifest.base},
            data=graft.data_record(studied.splits),
            base=base.manifest.base,
            license=base.manifest.license,
            calibration=calibrated or dict(parent.manifest.calibration),
            report=report | sizes_report(teacher, studied.model),
        )

        def write(stage: Any) -> None:
            graft.copy_files(base, task.preprocessing, stage)
            task.save(studied.model, stage)

        return Bundle.create(context.out, draft, write)

    def learn(self, studied: graft.Lesson, teacher: Any, bundles: tuple[Bundle, Bundle], context: Context) -> Any:
        from budwood.engine.box_augment import Variation
        from budwood.engine.detector_distilling import guided
        from budwood.engine.detector_grant import granted
        from budwood.engine.detector_judge import Judge
        from budwood.engine.detector_training import Pictures, fit_detector

        task: Any = studied.task
        shown, pictures = (
            Pictures(task.frame(bundle.path), studied.splits.train.rows, task.labels) for bundle in bundles
        )
        judge, held = Judge(studied), studied.splits.validation.rows
        limited = replace(context, seconds=None if context.seconds is None else SHARE * context.seconds)
        grant = granted(studied.model, pictures, judge, held, limited, self_test=False)
        some = held[:: grant.every]
        given = {"rate": self.rate, "head_rate": self.head_rate, "images": self.images}
        recipe = studied.model.recipe(len(pictures), frozen=False)
        return fit_detector(
            studied.model,
            pictures,
            replace(recipe, **{name: value for name, value in given.items() if value is not None}),
            Variation(task.flip, task.rotate, mosaic=True),
            replace(limited, seconds=grant.seconds),
            "distilling the detector",
            evaluate=(lambda model: judge.quality(model, some)) if judge.can_tell(some) else None,
            looks=grant.looks,
            learn=guided(teacher, shown, pictures, self.hard),
        )
