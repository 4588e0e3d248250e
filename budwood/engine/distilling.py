"""A student learns from its teacher: soft targets, hard labels where rows have them, and the direction of embeddings.

Hinton et al. 2015 (arXiv:1503.02531) for the soft targets, DistilBERT (Sanh et al. 2019, arXiv:1910.01108) for the
cosine between states, FitNets and PKD (Romero et al. 2015, arXiv:1412.6550; Sun et al. 2019, arXiv:1908.09355) for
hidden states. Import torch's half only inside functions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError, UsageError
from budwood.core.step import Context, Step
from budwood.core.task import Encoder, Task
from budwood.engine import graft
from budwood.engine.predictor import task_of

if TYPE_CHECKING:
    from budwood.engine.train import Trained

__all__ = [
    "CLASSES",
    "NUMBERS",
    "Distilling",
    "distil",
    "same_order",
    "sizes_report",
    "soft_kind",
    "soft_loss",
    "students_epochs",
    "with_teacher",
]

READING = frozenset({"max_tokens", "flip", "rotate", "image_size"})
"""Fields of a task that say how inputs are read and varied, and nothing of what the outputs mean."""
CLASSES, LABELS, NUMBERS = "classes", "labels", "numbers"
LEAST, MOST = 6, 40
"""Epochs of a student whose number was left open, between which the updates decide."""


@dataclass(frozen=True)
class Distilling:
    """How a student learns from its teacher."""

    epochs: int | None = None
    """None: at least 600 updates in 6 to 40 epochs; 0 leaves the student as it is."""
    learning_rate: float = 1e-4
    batch_size: int = 32
    temperature: float = 2.0
    """Of both probabilities, for classes that exclude each other."""
    hard: float = 0.3
    """Weight of the labels; the rest is the teacher's answers. Rows without a label have the teacher's only."""
    direction: float = 1.0
    """Weight of 1 - cosine between the embeddings, where both have the same width."""
    hidden: float = 0.0
    """Weight of 1 - cosine between the states after layers at like depths, where both have the same shape."""

    @classmethod
    def of(cls, step: Step) -> Self:
        """Those of a step that has fields of these names; the others are as by default."""
        return cls(**{item.name: getattr(step, item.name) for item in fields(cls) if hasattr(step, item.name)})

    def check(self) -> None:
        """Raise UsageError where a value makes no sense."""
        sizes = (("direction", self.direction), ("hidden", self.hidden))
        for name, value, allowed, good in (
            ("epochs", self.epochs, "a whole number from 0 on", self.epochs is None or self.epochs >= 0),
            ("learning_rate", self.learning_rate, "a number above 0", 0 < self.learning_rate < inf),
            ("batch_size", self.batch_size, "a whole number from 1 on", self.batch_size >= 1),
            ("temperature", self.temperature, "a number above 0", 0 < self.temperature < inf),
            ("hard", self.hard, "a number from 0 to 1", 0 <= self.hard <= 1),
            *((name, value, "a number from 0 on", 0 <= value < inf) for name, value in sizes),
        ):
            if not good:
                raise UsageError(f"{name} is {value}", where="distilling", fix=f"give {allowed}")


def students_epochs(epochs: int | None, per_epoch: int) -> int:
    """The epochs of a student who takes so many updates in each: those that were asked for, or by the rows."""
    from budwood.engine.planning import epochs_for

    return epochs_for(per_epoch, LEAST, MOST) if epochs is None else epochs


def soft_kind(task: Task, targets: Any) -> str:
    """What soft targets mean: the task's `head`, `labels` where classes do not exclude each other, or `numbers`."""
    if task.head != CLASSES or targets.ndim == 1:
        return task.head
    return NUMBERS if task.to_json().get("kind") == "regression" else LABELS  # the kinds of molecules' properties


def soft_loss(student: Any, teacher: Any, temperature: float, head: str) -> Any:
    """How far a student's logits are from its teacher's, shape (rows, outputs) both; a scalar tensor.

    Classes: the divergence of the softened probabilities, scaled by T² so that its gradients keep their size. Numbers:
    squared error of the standardised outputs. Labels, events and hazards: cross-entropy with the teacher's chances, in
    all periods, since the teacher has an answer where a row's own label says nothing.

    Args:
        head: `classes`, `labels`, `numbers`, `events` or `hazards`, as `soft_kind` gives.
    """
    from torch.nn import functional

    if head == NUMBERS:
        return functional.mse_loss(student, teacher)
    if head != CLASSES:
        return functional.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    log_probabilities = functional.log_softmax(student / temperature, dim=-1)
    soft = functional.softmax(teacher / temperature, dim=-1)
    return functional.kl_div(log_probabilities, soft, reduction="batchmean") * temperature**2


def with_teacher(parent: Bundle, context: Context) -> tuple[graft.Lesson, Any]:
    """The parent's model twice: in a lesson, to be changed, and as the teacher. Both answer in the task's order.

    Raises:
        StepError: there is no data, or the task's outputs mean something else than the parent's.
    """
    own = task_of(parent)
    studied = graft.lesson(parent, replace(context, task=None))
    wanted = context.task or own
    teacher = same_order(own.build(parent.path), own, wanted)
    student = same_order(studied.model, own, wanted)
    return graft.Lesson(wanted, wanted.encoder(parent.path), student, studied.splits), teacher.eval()


def same_order(model: Any, own: Task, wanted: Task) -> Any:
    """The model with its outputs in the order of `wanted`'s labels, mapped by name in place.

    Raises:
        StepError: the two tasks do not have the same labels, or differ in more than their order.
    """
    import torch

    facts = [dict(sorted(task.to_json().items())) for task in (own, wanted)]
    known, asked = (list(fact.pop("labels", ())) for fact in facts)
    meanings = [{name: value for name, value in fact.items() if name not in READING} for fact in facts]
    if own.name != wanted.name or sorted(known) != sorted(asked) or meanings[0] != meanings[1]:
        raise StepError(
            "teacher and student do not answer the same question",
            where=f"teacher: {own.name} {brief(known)}; student: {wanted.name} {brief(asked)}",
            fix="distil with the task and the labels that the teacher has learnt",
        )
    if known == asked:
        return model
    head = model.head
    if not isinstance(head, torch.nn.Linear) or head.out_features != len(known):
        raise StepError(
            "the teacher's labels are in another order and cannot be mapped",
            where=brief(known),
            fix="distil with the labels in the order of the teacher's",
        )
    order = [known.index(label) for label in asked]
    with torch.no_grad():
        head.weight.copy_(head.weight[order].clone())
        if head.bias is not None:
            head.bias.copy_(head.bias[order].clone())
    return model


def sizes_report(teacher: Any, student: Any) -> dict[str, Any]:
    """How many numbers teacher and student hold, and a warning where the student is the larger one."""
    own, other = (sum(item.numel() for item in model.parameters()) for model in (student, teacher))
    sizes: dict[str, Any] = {"parameters": own, "teacher_parameters": other}
    if own > other:
        sizes["warning"] = f"the student has {own:,} parameters and its teacher {other:,}: nothing becomes smaller"
    return sizes


def brief(labels: list[Any]) -> str:
    shown = ", ".join(map(str, labels[:8]))
    return f"({shown}{', …' if len(labels) > 8 else ''})"


def time_left(granted: float | None, began: float) -> float | None:
    """Seconds for the student: half of what was granted at least, however long the teacher took to answer."""
    return None if granted is None else max(granted / 2, granted - (monotonic() - began))


def refuse_two_tokenizers(studied: graft.Lesson, settings: Distilling, teacher_encoder: Encoder | None) -> None:
    """Raise UsageError for hidden states of texts that student and teacher cut in different places."""
    if settings.hidden and teacher_encoder is not None and studied.task.inputs[:1] == ("text",):
        raise UsageError(
            "states after layers cannot be matched where two tokenizers cut the texts",
            where="hidden",
            fix="give hidden = 0, or direction instead",
        )


def distil(
    studied: graft.Lesson,
    teacher: Any,
    context: Context,
    settings: Distilling,
    what: str,
    *,
    after_step: Callable[[Any, int, int], None] | None = None,
    teacher_encoder: Encoder | None = None,
) -> "Trained":
    """Train the lesson's model in place by its teacher, on its train rows and on `context.unlabelled`.

    The best epoch by the validation rows is kept, or else the last. Where the task varies its inputs (images), student
    and teacher see the same variation; otherwise the teacher is asked once about each row. BatchNorm statistics and
    embedding tables stay as they are, as in fine-tuning.

    Args:
        studied: the task, the student and the rows.
        teacher: a module with the same outputs in the same order (`same_order`), in evaluation mode.
        what: what is being done, for the progress.
        after_step: called with the student, the number of updates so far and those in all, after each update.
        teacher_encoder: how the teacher reads rows, where not as the student does.

    Raises:
        StepError: the loss is not finite.
        UsageError: a setting makes no sense. TooLittleTime: `context.seconds` allows not even ten updates.
    """
    from budwood.engine.batching import freeze_lookups
    from budwood.engine.distilling_batches import Examples, Objective
    from budwood.engine.planning import within
    from budwood.engine.train import Plan, Trained, train

    settings.check()
    refuse_two_tokenizers(studied, settings, teacher_encoder)
    if settings.epochs == 0:
        return Trained(0, None, (), 0.0, "finished")
    began = monotonic()
    freeze_lookups(studied.model)
    examples = Examples(studied, context, teacher_encoder)
    per_epoch = examples.steps(settings.batch_size)
    plan = Plan(students_epochs(settings.epochs, per_epoch), per_epoch, settings.learning_rate, seed=context.seed)

    def batches(epoch: int) -> Iterator[Any]:
        return examples.batches(settings.batch_size, context.seed, epoch)

    with Objective.of(studied.model, teacher, examples, settings, context.progress) as loss:
        left = time_left(context.seconds, began)
        trained = train(
            studied.model,
            within(plan, left, studied.model, batches, loss, context.work, cheaper=""),
            batches,
            loss,
            evaluate=examples.score if len(studied.splits.validation) else None,
            checkpoints=context.work / "checkpoints",
            progress=context.progress,
            seconds=left,
            what=what,
            after_step=after_step,
        )
        return replace(trained, not_applied=loss.not_applied(studied.model, next(batches(0))))
