"""Fine-tune every weight, starting from the fitted head (linear probing, then fine-tuning: Kumar et al. 2022)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.core.task import Task
from budwood.engine import graft
from budwood.engine.table import note

__all__ = ["Full"]

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "head_learning_rate": 5e-4,
    "batch_size": 16,
    "epochs": None,
    "first_layer": 1.0,
    "stop_early": True,
    "interpolation": 1.0,
    "why": "the usual rates for text encoders",
}
"""For encoders of text (`learning_rate` of the encoder, `head_learning_rate` of the linear head)."""


@final
@dataclass(frozen=True)
class Full(Step):
    """For many rows: above about 64 a class, or 2,000 in all. Takes minutes on a CPU."""

    learning_rate: float | None = None
    head_learning_rate: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    """None: what the task advises for so many rows, else `DEFAULTS` and at least 600 updates in 3 to 20 epochs."""
    first_layer: float | None = None
    """Learning rate of the first block of layers as a share of the last block's."""
    interpolation: float | None = None
    """Share of the fine-tuned weights, the rest being those of the parent. None: as the task advises, for whom None
    means what the held-out rows say (see `engine/interpolation.py`)."""

    name: ClassVar[str] = "adapt.full"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def chosen(self, task: Task, n_rows: int) -> dict[str, Any]:
        """The parameters: what is given, else the task's advice, else the defaults."""
        given = {name: value for name, value in self.parameters().items() if value is not None}
        return DEFAULTS | task.recipe(n_rows) | given

    def advice(self, task: Task, n_rows: int) -> str:
        """The rates and epochs that it will take, and why."""
        chosen = self.chosen(task, n_rows)
        rate, head, epochs = chosen["learning_rate"], chosen["head_learning_rate"], self.effort(task, n_rows)[0]
        rates = f"{rate:g}, in the first layers {rate * chosen['first_layer']:g}, in the head {head:g}"
        return note("recipe", f"AdamW, {epochs} epochs, learning rate {rates}", chosen["why"])

    def effort(self, task: Task, n_rows: int) -> tuple[int, int]:
        """Epochs, and rows learnt from in all of them together, when nothing stops early."""
        from budwood.engine.planning import epochs_for

        chosen = self.chosen(task, n_rows)
        epochs = chosen["epochs"] or epochs_for(-(-n_rows // chosen["batch_size"]))
        return epochs, epochs * n_rows

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine import interpolation
        from budwood.engine.fine_tune import fine_tune, trained_report

        studied = graft.lesson(parent, context)
        studied = replace(studied, model=studied.task.prepare(studied.model))
        chosen = self.chosen(studied.task, len(studied.splits.train))
        whole = chosen["interpolation"] == 1.0
        before = {} if whole else interpolation.snapshot(studied.model)
        trained = fine_tune(
            studied,
            context,
            "fine-tuning",
            rate=chosen["learning_rate"],
            head_rate=chosen["head_learning_rate"],
            batch_size=chosen["batch_size"],
            epochs=chosen["epochs"],
            first_layer=chosen["first_layer"],
            stop_early=chosen["stop_early"],
        )
        if not whole:
            chosen["interpolation"] = interpolation.mix(studied, before, chosen["interpolation"])
        calibrated = graft.calibration(studied, studied.splits.validation.rows)
        return graft.save_child(
            parent, context, self, studied, calibrated, trained_report(trained) | {"recipe": chosen}
        )
