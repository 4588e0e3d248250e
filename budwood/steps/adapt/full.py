"""Fine-tune every weight, starting from the fitted head (linear probing, then fine-tuning: Kumar et al. 2022)."""

from dataclasses import dataclass
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.engine import graft

__all__ = ["Full"]


@final
@dataclass(frozen=True)
class Full(Step):
    """For many rows: above about 64 a class, or 2,000 in all. Takes minutes on a CPU."""

    learning_rate: float = 5e-5
    head_learning_rate: float = 5e-4
    batch_size: int = 16
    epochs: int | None = None
    """None: at least 600 updates, between 3 and 20 epochs."""

    name: ClassVar[str] = "adapt.full"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.fine_tune import fine_tune, trained_report

        studied = graft.lesson(parent, context)
        trained = fine_tune(
            studied,
            context,
            "fine-tuning",
            rate=self.learning_rate,
            head_rate=self.head_learning_rate,
            batch_size=self.batch_size,
            epochs=self.epochs,
        )
        calibrated = graft.calibration(studied, studied.splits.validation.rows)
        return graft.save_child(parent, context, self, studied, calibrated, trained_report(trained))
