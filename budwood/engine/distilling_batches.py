"""What a student and its teacher see while one learns from the other: batches, the teacher's answers, hidden states.

Import only inside functions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from budwood.core.step import Context, Progress
from budwood.core.task import Encoder, Task
from budwood.engine.batching import Rows
from budwood.engine.distilling import NUMBERS, Distilling, soft_kind, soft_loss
from budwood.engine.fine_tune import validation_score
from budwood.engine.graft import Lesson
from budwood.engine.layer_cut import find_stack
from budwood.engine.predictor import batches as by_length

__all__ = ["Examples", "Guide", "Objective", "States"]

Inputs = dict[str, Tensor]
Batch = tuple[Inputs, list[int], list[int]]
"""What the student reads, the numbers of the rows, and the seed of their variation."""
ASKED = 64
"""Rows about which the teacher is asked together."""


class Examples:
    """The train rows with their targets, then the rows without a label."""

    def __init__(self, studied: Lesson, context: Context, teacher_encoder: Encoder | None = None) -> None:
        task = self.task = studied.task
        self.studied = studied
        labelled, more = studied.splits.train.rows, context.unlabelled
        self.rows = Rows(task, studied.encoder, labelled, more)
        self.shown = self.rows if teacher_encoder is None else Rows(task, teacher_encoder, labelled, more)
        """The rows as the teacher reads them."""
        self.held = Rows(task, studied.encoder, studied.splits.validation.rows)
        self.targets = self.rows.targets
        self.kind = soft_kind(task, self.targets)
        self.varies = type(task).augment is not Task.augment
        """Whether every epoch sees the rows in another way."""

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, size: int) -> int:
        return self.rows.steps(size)

    def batches(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """The same ones for the same seed and epoch."""
        for index, numbers in enumerate(self.rows.epoch(size, seed, epoch)):
            drawn = [seed, epoch, index]
            yield self.rows.batch(numbers, self.random(drawn)), numbers, drawn

    def random(self, drawn: list[int]) -> np.random.Generator | None:
        return np.random.default_rng(drawn) if self.varies else None

    def to_teacher(self, batch: Batch) -> Inputs:
        """The same rows as the teacher reads them, varied by the same random numbers."""
        inputs, numbers, drawn = batch
        return inputs if self.shown is self.rows else self.shown.batch(numbers, self.random(drawn))

    def groups(self) -> list[list[int]]:
        """All row numbers in batches of like length."""
        return by_length(self.rows.lengths, ASKED)

    def soft(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        if self.kind == NUMBERS:  # each task has its own unit
            return torch.as_tensor(self.task.loss({"logits": student}, teacher))
        return torch.as_tensor(soft_loss(student, teacher, temperature, self.kind))

    def score(self, model: nn.Module) -> float:
        """How well the student does on the validation rows."""
        return validation_score(self.studied, model, self.held)


def hard_share(examples: Examples, outputs: Any, numbers: Sequence[int]) -> tuple[Any, float]:
    """The loss of those rows of a batch that have a label, and their share of the batch."""
    count = len(examples.targets)
    places = [place for place, number in enumerate(numbers) if number < count]
    if not places:
        return None, 0.0
    logits = outputs["logits"] if len(places) == len(numbers) else outputs["logits"][places]
    targets = torch.from_numpy(examples.targets[[numbers[place] for place in places]])
    return examples.task.loss({"logits": logits}, targets), len(places) / len(numbers)


class Guide:
    """The teacher's `logits` and `embedding` for a batch: asked once about every row, or `live` about each batch."""

    def __init__(self, teacher: Any, examples: Examples, *, live: bool, progress: Progress) -> None:
        self.teacher, self.examples = teacher.eval(), examples
        self.kept = None if live else self.answers(examples, progress)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if self.kept is not None:
            return {name: value[batch[1]] for name, value in self.kept.items()}
        with torch.no_grad():
            outputs = self.teacher(**self.examples.to_teacher(batch))
        return {name: outputs[name] for name in ("logits", "embedding")}

    def answers(self, examples: Examples, progress: Progress) -> dict[str, Tensor]:
        order: list[int] = []
        parts: dict[str, list[Tensor]] = {"logits": [], "embedding": []}
        for numbers in examples.groups():
            progress("asking the teacher", len(order), len(examples), "")
            order.extend(numbers)
            with torch.no_grad():
                outputs = self.teacher(**examples.shown.batch(numbers))
            for name, found in parts.items():
                found.append(outputs[name])
        back = torch.from_numpy(np.argsort(np.asarray(order)))
        return {name: torch.cat(found)[back] for name, found in parts.items()}

    def turned(self, outputs: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
        """1 - the mean cosine between the embeddings; 0 where their widths differ."""
        own, other = outputs["embedding"], wanted["embedding"]
        if own.shape != other.shape:
            return own.new_zeros(())
        return 1 - functional.cosine_similarity(own, other).mean()


class States:
    """What the layers of two models gave in their last forward pass."""

    def __init__(self) -> None:
        self.student: dict[int, Tensor] = {}
        self.teacher: dict[int, Tensor] = {}

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Student's and teacher's states at like depths whose shapes agree."""
        every = [(self.student[depth], self.teacher[depth]) for depth in sorted(self.student)]
        return [(own, other) for own, other in every if own.shape == other.shape]

    def apart(self, mask: Tensor | None = None) -> Tensor:
        """1 - the mean cosine between the states at like depths whose shapes agree; 0 where none do.

        Args:
            mask: 1 for tokens and 0 for padding, shape (rows, tokens); None where every place counts.
        """
        same = self.pairs()
        if not same:
            return torch.zeros(())
        return torch.stack([1 - masked_mean(functional.cosine_similarity(*pair, dim=-1), mask) for pair in same]).mean()


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of what the mask leaves; of all values where there is no mask of their shape."""
    if mask is None or mask.shape != values.shape:
        return values.mean()
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum()


@dataclass(frozen=True)
class Objective:
    """What a student minimises; called with the student and a batch it gives a scalar."""

    examples: Examples
    guide: Guide
    states: States
    settings: Distilling

    @classmethod
    @contextmanager
    def of(
        cls, student: Any, teacher: Any, examples: Examples, settings: Distilling, progress: Progress
    ) -> Iterator["Objective"]:
        """The objective for as long as the models are watched."""
        with watched(student, teacher, settings.hidden) as states:
            live = examples.varies or bool(settings.hidden)
            yield cls(examples, Guide(teacher, examples, live=live, progress=progress), states, settings)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs, wanted = model(**batch[0]), self.guide(batch)
        hard, share = hard_share(self.examples, outputs, batch[1])
        weight = self.settings.hard * share
        total = (1 - weight) * self.examples.soft(outputs["logits"], wanted["logits"], self.settings.temperature)
        if share:
            total = total + weight * hard
        if self.settings.direction:
            total = total + self.settings.direction * self.guide.turned(outputs, wanted)
        if self.settings.hidden:
            total = total + self.settings.hidden * self.states.apart(batch[0].get("attention_mask"))
        return total

    def not_applied(self, model: nn.Module, batch: Batch) -> dict[str, str]:
        """Parts of the loss that were asked for and say nothing about these two models: `direction`, `hidden`."""
        model.eval()
        with torch.no_grad():
            outputs, wanted = model(**batch[0]), self.guide(batch)
        found = {}
        widths = [item["embedding"].shape[-1] for item in (outputs, wanted)]
        if self.settings.direction and widths[0] != widths[1]:
            found["direction"] = f"not applied: embeddings of {widths[0]} and of the teacher's {widths[1]} numbers"
        if self.settings.hidden and not self.states.pairs():
            known = bool(self.states.student)
            why = "no two layers' states have the same shape" if known else "no list of layers that both state"
            found["hidden"] = f"not applied: {why}"
        return found


@contextmanager
def watched(student: Any, teacher: Any, weight: float) -> Iterator[States]:
    """Keep the states after each of the student's layers, and after the teacher's layer at the same relative depth."""
    states = States()
    stacks = [find_stack(model) for model in (student, teacher)] if weight else []
    hooks = []
    if stacks and all(stack is not None for stack in stacks):
        own, other = ([*stack] for stack in stacks if stack is not None)
        for depth, layer in enumerate(own):
            partner = round((depth + 1) * len(other) / len(own)) - 1
            hooks.append(layer.register_forward_hook(keeper(states.student, depth)))
            hooks.append(other[partner].register_forward_hook(keeper(states.teacher, depth)))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def keeper(kept: dict[int, Tensor], depth: int) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        kept[depth] = output[0] if isinstance(output, tuple) else output

    return keep
