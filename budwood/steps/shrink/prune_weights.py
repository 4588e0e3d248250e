"""Make most weights zero, step by step, while the model is taught by what it was; or search for a lottery ticket.

Zhu and Gupta 2017 (arXiv:1710.01878) for the schedule, Frankle and Carbin 2019 (arXiv:1803.03635) for rewinding. The
zeros save room once the graph is packed (`shrink.pack`). On ordinary runtimes they save no time.
"""

from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset
from budwood.core.errors import StepError, UsageError
from budwood.core.step import Context, Step
from budwood.engine import graft
from budwood.engine.distilling import Distilling, distil, sizes_report, students_epochs, with_teacher

__all__ = ["PruneWeights"]

HEAD = ("head",)
SPEED = "as before on ordinary runtimes, which multiply by zeros too; shrink.pack makes the file smaller"


@final
@dataclass(frozen=True)
class PruneWeights(Step):
    """The child is an ordinary transformers model of the same shapes; the smallest weights of all layers are zero."""

    sparsity: float = 0.9
    """Share of the weights of linear layers and convolutions that become zero; norms and biases stay."""
    rewind: bool = False
    """Train, prune, put what is left back to the parent's weights, in rounds; instead of pruning while training."""
    rounds: int = 3
    """With `rewind`: how often."""
    embeddings: bool = False
    """Prune the embedding tables too."""
    heads: bool = False
    """Prune the task's head too."""
    epochs: int | None = None
    """Of all phases together, half of them with the zeros in place. None: at least 600 updates in 6 to 40 epochs;
    0 prunes at once and does not train."""
    learning_rate: float = 1e-4
    batch_size: int = 32
    temperature: float = 2.0
    hard: float = 0.3
    """Weight of the labels; the rest is the teacher's probabilities."""
    direction: float = 1.0
    """Weight of 1 - cosine between the pooled states."""

    name: ClassVar[str] = "shrink.prune_weights"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})
    tasks: ClassVar[frozenset[str]] = frozenset(
        {"text_classification", "image_classification", "image_regression", "molecule_property"}
    )

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises UsageError when the sparsity is not in (0, 1), StepError for other tasks or without such layers."""
        from budwood.engine.weight_pruning import check_sparsity, prunable, prune_once, sparsity_report

        check_sparsity(self.sparsity)
        Distilling.of(self).check()
        if self.rounds < 1:
            raise UsageError(f"{self.rounds} rounds", where="rounds", fix="give 1 or more")
        if (task := str((parent.manifest.task or {}).get("name"))) not in self.tasks:
            raise StepError(f"weights of {task} are not pruned", where=self.name, fix="quantize and pack it")
        studied, teacher = with_teacher(parent, context)
        model = studied.model
        modules = prunable(model, embeddings=self.embeddings, leave=() if self.heads else HEAD)
        if self.epochs == 0:
            prune_once(modules, self.sparsity).release()
            phases = []
        else:
            phases = self.learn(studied, teacher, modules, context)
        calibrated = graft.calibration(studied, studied.splits.validation.rows) or dict(parent.manifest.calibration)
        report = {"phases": phases, "speed": SPEED} | sparsity_report(model, modules) | sizes_report(teacher, model)
        return graft.save_child(parent, context, self, studied, calibrated, report)

    def learn(
        self, studied: graft.Lesson, teacher: Any, modules: dict[str, Any], context: Context
    ) -> list[dict[str, Any]]:
        """Phases that make zeros, each judged by nothing but its end, then one that recovers and keeps its best."""
        from budwood.engine.batching import Rows
        from budwood.engine.planning import TooLittleTime
        from budwood.engine.weight_pruning import GradualPruning, Masks, prune_and_rewind, prune_once

        rows = Rows(studied.task, studied.encoder, studied.splits.train.rows, context.unlabelled)
        total = students_epochs(self.epochs, rows.steps(self.batch_size))
        count = self.rounds if self.rewind else 1
        each = max(1, total // (2 * count))
        parts = [each] * count + [max(1, total - each * count)]
        began = monotonic()

        def grant(number: int) -> Context:
            """A phase gets its part of the time that is left, and with it what the phases before it did not use."""
            if context.seconds is None:
                return context
            remaining = max(0.0, context.seconds - (monotonic() - began))
            return replace(context, seconds=remaining * parts[number] / sum(parts[number:]))

        unjudged = replace(studied, splits=replace(studied.splits, validation=Dataset.of(())))
        early = {name: item.clone() for name, item in studied.model.state_dict().items()}
        phases = []
        for number in range(count):
            what = f"pruning, round {number + 1} of {count}" if self.rewind else "pruning"
            hook = Masks(modules) if self.rewind else GradualPruning(modules, self.sparsity, end=1.0)
            try:
                phases.append(self.phase(unjudged, teacher, grant(number), f"prune-{number + 1}", what, each, hook))
            except TooLittleTime as error:  # the zeros are made all the same, and recovering has more time
                phases.append({"phase": f"prune-{number + 1}", "skipped": error.cause})
            if self.rewind:
                reached = 1 - (1 - self.sparsity) ** ((number + 1) / count)
                prune_and_rewind(studied.model, modules, reached, early)
        # A run that ended early by the clock has not reached the share yet; in any other this changes nothing.
        masks = prune_once(modules, self.sparsity)
        phases.append(self.phase(studied, teacher, grant(count), "recover", "recovering", parts[-1], masks))
        masks.release()
        return phases

    def phase(
        self,
        studied: graft.Lesson,
        teacher: Any,
        context: Context,
        folder: str,
        what: str,
        epochs: int,
        hook: Any,
    ) -> dict[str, Any]:
        """Train for some epochs; zeros are kept by the hook."""
        from budwood.engine.fine_tune import trained_report

        own = replace(context, work=context.work / folder)
        settings = replace(Distilling.of(self), epochs=epochs)
        trained = distil(studied, teacher, own, settings, f"{what} to {self.sparsity:.0%} zeros", after_step=hook)
        return {"phase": folder, **trained_report(trained)}
