"""Train a model to bear 8 bits, for when quantizing it afterwards loses too much.

Weights and activations are rounded while the model learns from its own float parent, so that it moves to where rounding
costs little (Jacob et al. 2018, arXiv:1712.05877). The child is an ordinary float model; `export.onnx` and a step that
quantizes make it int8.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.core.task import Task
from budwood.engine import graft, quantization
from budwood.engine.distilling import Distilling, distil, with_teacher
from budwood.engine.machine import instruction_set
from budwood.engine.predictor import task_of

__all__ = ["QuantizeAware"]

BATCH = 16


@final
@dataclass(frozen=True)
class QuantizeAware(Step):
    """A few epochs at a low rate; BatchNorm statistics and embedding tables stay still, and the head stays in float."""

    epochs: int | None = 3
    """None: at least 600 updates in 6 to 40 epochs."""
    learning_rate: float = 2e-5
    batch_size: int = 32
    temperature: float = 2.0
    hard: float = 0.1
    """Weight of the labels; the rest is the parent's answers."""
    direction: float = 1.0
    """Weight of 1 - cosine between the embeddings."""
    rows: int = 100
    """Training rows that set the ranges of activations."""
    reduce_range: bool | None = None
    """7-bit weights; None: only where the CPU lacks VNNI."""

    name: ClassVar[str] = "shrink.quantize_aware"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})

    def inputs(self) -> str:
        """The instruction set of this CPU, which decides between 7 and 8 bits."""
        return instruction_set()

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.batching import Rows
        from budwood.engine.fake_quantization import ranges, rounded
        from budwood.engine.fine_tune import trained_report

        refuse_others(context.task or task_of(parent))
        studied, teacher = with_teacher(parent, context)
        model = studied.model
        chosen = quantization.calibration_rows(studied.task, studied.encoder, context, self.rows, self.name)
        rows = Rows(studied.task, studied.encoder, chosen)
        spans = ranges(model.eval(), lambda: logits(model, rows))
        if not spans:
            raise StepError("the model has no layer that can be quantized", where=self.name, fix="leave this step out")
        reduced = quantization.needs_reduced_range() if self.reduce_range is None else self.reduce_range
        settings = Distilling(
            self.epochs, self.learning_rate, self.batch_size, self.temperature, self.hard, self.direction
        )
        expected = logits(teacher, rows)
        with rounded(model, spans, 7 if reduced else 8):
            before = quantization.noise_of(logits(model, rows), expected)
            trained = distil(studied, teacher, context, settings, "learning to bear 8 bits")
            after = quantization.noise_of(logits(model, rows), expected)
        calibrated = graft.calibration(studied, studied.splits.validation.rows) or dict(parent.manifest.calibration)
        facts = {"layers": len(spans), "reduce_range": reduced, "noise_before": before, "noise": after}
        return graft.save_child(parent, context, self, studied, calibrated, trained_report(trained) | facts)


def logits(model: Any, rows: Any) -> Any:
    from budwood.engine.batching import run

    return run(model, rows, "logits", BATCH)


def refuse_others(task: Task) -> None:
    """Raise StepError for models that learn in another way than by one batch of rows after another."""
    if task.writes or task.finds_objects:
        raise StepError(
            f"{task.name} learns in another way",
            where=QuantizeAware.name,
            fix="quantize it without training: shrink.quantize_static, or shrink.quantize_weights for generators",
        )
