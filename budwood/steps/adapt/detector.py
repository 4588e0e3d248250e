"""Learn to find objects: the head on a frozen backbone first, which is the baseline, then all of the network."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.engine import graft

__all__ = ["Detector"]

FROZEN_SHARE, FULL_SHARE = 0.25, 0.8
"""Of the granted time that the head alone and all of the network get; the self-test is part of the first. Together they
take a little of the fifth that is left for measuring, which a detector needs less of.
"""


@final
@dataclass(frozen=True)
class Detector(Step):
    """`frozen` trains what decides on the features of the base; else everything but its first layers learns."""

    frozen: bool = True
    rate: float | None = None
    """Of the backbone; None takes what suits the network."""
    head_rate: float | None = None
    images: int | None = None
    """Images that are seen, repetitions included; None decides by the rows."""
    self_test: bool = True

    name: ClassVar[str] = "adapt.detector"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})
    tasks: ClassVar[frozenset[str]] = frozenset({"object_detection"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.box_augment import Variation
        from budwood.engine.detector_grant import granted
        from budwood.engine.detector_judge import Judge
        from budwood.engine.detector_training import Pictures, fit_detector

        studied = graft.lesson(parent, context)
        task: Any = studied.task
        pictures = Pictures(task.frame(parent.path), studied.splits.train.rows, task.labels)
        judge = Judge(studied)
        share = FROZEN_SHARE if self.frozen else FULL_SHARE
        limited = replace(context, seconds=None if context.seconds is None else share * context.seconds)
        held = studied.splits.validation.rows
        testing = self.frozen and self.self_test
        grant = granted(studied.model, pictures, judge, held, limited, self_test=testing)
        tested = grant.self_test if testing else parent.manifest.report.get("self_test")
        report: dict[str, Any] = {"self_test": tested} if tested else {}
        some = held[:: grant.every]
        held = some if judge.can_tell(some) else held
        if not judge.can_tell(held):
            why = "no validation image has an object: the last weights are kept, and the usual threshold"
            context.progress("choosing", 0, 0, why)
            held = ()
        recipe = studied.model.recipe(len(pictures), frozen=self.frozen)
        given = {"rate": self.rate, "head_rate": self.head_rate, "images": self.images}
        trained = fit_detector(
            studied.model,
            pictures,
            replace(recipe, **{name: value for name, value in given.items() if value is not None}),
            Variation(task.flip, task.rotate, mosaic=True),
            replace(limited, seconds=grant.seconds),
            "frozen backbone" if self.frozen else "fine-tuning",
            evaluate=(lambda model: judge.quality(model, held)) if held else None,
            looks=grant.looks,
            cached=self.frozen,
        )
        report |= {"steps": trained.steps, "stopped": trained.stopped, "history": [list(x) for x in trained.history]}
        calibrated = {"threshold": judge.threshold(studied.model, held)} if held else {}
        return graft.save_child(parent, context, self, studied, calibrated, report)
