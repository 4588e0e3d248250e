"""Take channels out of a convolutional network in rounds, and teach what is left by the whole one after each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.engine import graft
from budwood.engine.distilling import Distilling, distil, sizes_report, students_epochs, with_teacher

__all__ = ["PruneChannels"]

ENCODER = "encoder."
LOOKED_AT = 256
"""Training rows whose gradients say which channels matter."""
BATCH = 32
SETTLED = 64
"""Training images that set BatchNorm after a cut: each has some thousand places, and all pass at once."""


@final
@dataclass(frozen=True)
class PruneChannels(Step):
    """The child needs a share of its parent's multiplications. `cuts.json` says which channels are left."""

    macs: float = 0.5
    """Share of the multiplications to keep."""
    rounds: int = 3
    """Cuts, with training after each; half of the epochs come after the last."""
    epochs: int | None = None
    """Of all rounds together. None: at least 600 updates in 6 to 40 epochs; 0 cuts once and does not train, which is
    enough to measure the speed."""
    learning_rate: float = 1e-4
    batch_size: int = 32
    temperature: float = 2.0
    hard: float = 0.3
    """Weight of the labels; the rest is the teacher's probabilities."""
    direction: float = 1.0
    """Weight of 1 - cosine between what the two heads read."""
    round_to: int = 8
    """Channels that stay are a multiple of it."""
    importance: str = "magnitude"
    """`magnitude` of the weights, or `gradient`: what the loss on training rows would change by, to first order."""

    name: ClassVar[str] = "shrink.prune_channels"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})
    tasks: ClassVar[frozenset[str]] = frozenset({"image_classification", "image_regression"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises StepError when the model is no network of convolutions, or too few of its channels can be cut."""
        from budwood.engine.channel_cuts import remember_cuts
        from budwood.engine.channel_pruning import cut_channels

        if self.importance not in ("gradient", "magnitude"):
            raise StepError(f"there is no importance {self.importance!a}", where=self.name, fix="gradient or magnitude")
        Distilling.of(self).check()
        studied, teacher = with_teacher(parent, context)
        model = studied.model
        self.refuse_others(studied.task.name, model)
        histories: list[dict[str, Any]] = []
        cutting = cut_channels(
            model,
            examples(studied, 1),
            macs=self.macs,
            rounds=1 if self.epochs == 0 else self.rounds,
            round_to=self.round_to,
            gradients=gradients(studied) if self.importance == "gradient" else None,
            settle=examples(studied, SETTLED),
            recover=None if self.epochs == 0 else self.recovery(studied, teacher, context, histories),
        )
        remember_cuts(model.encoder, {name.removeprefix(ENCODER): kept for name, kept in cutting.cuts.items()})
        calibrated = graft.calibration(studied, studied.splits.validation.rows) or dict(parent.manifest.calibration)
        report = {
            "macs_before": cutting.macs_before,
            "macs_after": cutting.macs_after,
            "left_whole": cutting.ignored,
            "rounds": histories,
        } | sizes_report(teacher, model)
        return graft.save_child(parent, context, self, studied, calibrated, report)

    def refuse_others(self, task: str, model: Any) -> None:
        from torch import nn

        every = [item for item in model.modules() if isinstance(item, nn.Conv2d)]
        if task not in self.tasks or all(item.kernel_size == item.stride for item in every):  # ViT has one of patches
            raise StepError(
                "there are no convolutions to cut",
                where=f"{self.name}: {task}, {type(getattr(model, 'encoder', model)).__name__}",
                fix="use shrink.prune_width or shrink.drop_layers",
            )

    def recovery(
        self, studied: graft.Lesson, teacher: Any, context: Context, histories: list[dict[str, Any]]
    ) -> Callable[[Any, int, Any], None]:
        """Training after each cut: the rounds before the last share half of the epochs and of the time."""
        from budwood.engine.batching import Rows
        from budwood.engine.fine_tune import trained_report
        from budwood.engine.planning import TooLittleTime

        rows = Rows(studied.task, studied.encoder, studied.splits.train.rows, context.unlabelled)
        parts = shares(students_epochs(self.epochs, rows.steps(self.batch_size)), self.rounds)
        began = monotonic()

        def recover(model: Any, number: int, cuts: Any) -> None:
            left = None if context.seconds is None else context.seconds - (monotonic() - began)
            own = replace(
                context,
                work=context.work / f"round-{number + 1}",
                seconds=None if left is None else left * parts[number] / sum(parts[number:]),
            )
            settings = replace(Distilling.of(self), epochs=parts[number])
            what = f"round {number + 1} of {self.rounds}: learning with fewer channels"
            try:
                histories.append(trained_report(distil(studied, teacher, own, settings, what)))
            except TooLittleTime as error:  # its share of the time is too short: a later round has more
                if number + 1 == self.rounds:
                    raise
                histories.append({"skipped": error.cause})

        return recover


def shares(total: int, rounds: int) -> list[int]:
    """Epochs of each round: about half of all for the last, at least one for each."""
    first = max(1, total // (2 * (rounds - 1))) if rounds > 1 else 0
    return [first] * (rounds - 1) + [max(1, total - first * (rounds - 1))]


def examples(studied: graft.Lesson, count: int) -> dict[str, Any]:
    """The inputs of some training rows, spread over the split."""
    from budwood.engine.batching import Rows

    every = studied.splits.train.rows
    rows = every[:: max(1, len(every) // count)][:count]
    return Rows(studied.task, studied.encoder, rows).batch(range(len(rows)))


def gradients(studied: graft.Lesson) -> Callable[[Any], None]:
    """Leaves the gradients of the task's loss on some hundred training rows, drawn by their order in the split."""

    def leave(model: Any) -> None:
        import torch

        from budwood.engine.batching import Rows

        rows = Rows(studied.task, studied.encoder, studied.splits.train.rows[:LOOKED_AT])
        model.zero_grad(set_to_none=True)
        for start in range(0, len(rows), BATCH):
            numbers = list(range(start, min(start + BATCH, len(rows))))
            outputs = model(**rows.batch(numbers))
            studied.task.loss(outputs, torch.from_numpy(rows.targets[numbers])).backward()

    return leave
