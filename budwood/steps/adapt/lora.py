"""Train low-rank updates of every linear layer and merge them (Hu et al. 2021): for encoders too big to fine-tune."""

import warnings
from dataclasses import dataclass
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import require
from budwood.core.step import Context, Step
from budwood.core.task import Task
from budwood.engine import graft

__all__ = ["Lora"]


@final
@dataclass(frozen=True)
class Lora(Step):
    """The child's weights are merged, so it serves like any other bundle."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    learning_rate: float = 2e-4
    head_learning_rate: float = 5e-4
    batch_size: int = 16
    epochs: int | None = None

    name: ClassVar[str] = "adapt.lora"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def effort(self, task: Task, n_rows: int) -> tuple[int, int]:
        """Epochs, and rows learnt from in all of them together, when nothing stops early."""
        from budwood.engine.planning import epochs_for

        epochs = self.epochs or epochs_for(-(-n_rows // self.batch_size))
        return epochs, epochs * n_rows

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.fine_tune import fine_tune, trained_report

        peft = require("peft", extra="train")
        studied = graft.lesson(parent, context)
        settings = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules="all-linear"
        )
        require("torch", extra="train").manual_seed(context.seed)  # the updates start from random numbers
        with warnings.catch_warnings():
            # peft still asks for a name that transformers has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            studied.model.encoder = peft.get_peft_model(studied.model.encoder, settings)
        trained = fine_tune(
            studied,
            context,
            "LoRA",
            rate=self.learning_rate,
            head_rate=self.head_learning_rate,
            batch_size=self.batch_size,
            epochs=self.epochs,
        )
        studied.model.encoder = studied.model.encoder.merge_and_unload()
        calibrated = graft.calibration(studied, studied.splits.validation.rows)
        return graft.save_child(parent, context, self, studied, calibrated, trained_report(trained))
