"""Batches and outputs of rows for training: encoded by the very encoder that serves. Import only inside functions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from budwood.core.task import Arrays, Encoder, Row, Task
from budwood.engine.predictor import batches as by_length

__all__ = ["Rows", "embeddings", "forward_by_length", "freeze_lookups", "run"]


class Rows:
    """Training rows. A batch is encoded when it is asked for, padded only to its own longest row.

    Rows without a label come after the others and have no targets.
    """

    def __init__(self, task: Task, encoder: Encoder, rows: Sequence[Row], unlabelled: Sequence[Row] = ()) -> None:
        self.task = task
        self.encoder = encoder
        self.rows = [*rows, *unlabelled] if unlabelled else rows
        self.lengths = task.lengths(self.rows)
        self.targets = task.targets(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, numbers: Sequence[int], random: np.random.Generator | None = None) -> dict[str, Tensor]:
        """The model's inputs for these rows, as they are, or varied by the task where `random` is given."""
        inputs = self.inputs(numbers)
        return tensors(inputs if random is None else self.task.augment(inputs, random))

    def inputs(self, numbers: Sequence[int]) -> Arrays:
        return self.encoder([self.rows[i] for i in numbers]).inputs

    def epoch(self, size: int, seed: int, number: int) -> Iterator[list[int]]:
        """Row numbers in shuffled batches of like length: shuffled in windows, sorted inside them, batches shuffled.

        Padding costs as much as text; windows of 32 batches keep the order random enough.
        """
        random = np.random.default_rng([seed, number])
        order = random.permutation(len(self))
        groups: list[list[int]] = []
        for start in range(0, len(order), size * 32):
            window = order[start : start + size * 32]
            window = window[np.argsort([self.lengths[i] for i in window], kind="stable")]
            groups.extend(window[first : first + size].tolist() for first in range(0, len(window), size))
        return (groups[i] for i in random.permutation(len(groups)))

    def steps(self, size: int) -> int:
        """Batches in an epoch."""
        window = size * 32
        full, rest = divmod(len(self), window)
        return full * 32 + -(-rest // size)


def tensors(inputs: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in inputs.items()}


def freeze_lookups(model: nn.Module) -> None:
    """Keep the embedding tables: they cost a quarter of a step, and small data meets few of their rows."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)


def forward_by_length(
    model: nn.Module, rows: Rows, numbers: Sequence[int] | NDArray[Any], output: str, parts: int = 4
) -> Tensor:
    """One output for a batch that could not be chosen by length, computed in `parts` groups of like length.

    Padding 32 mixed texts to the longest doubles the work.
    """
    order = np.argsort([rows.lengths[i] for i in numbers], kind="stable")
    groups = [group for group in np.array_split(order, parts) if len(group)]
    values = [model(**rows.batch([numbers[i] for i in group]))[output] for group in groups]
    return torch.cat(values)[torch.from_numpy(np.argsort(np.concatenate(groups)))]


def run(model: nn.Module, rows: Rows, output: str, batch_size: int = 64) -> NDArray[Any]:
    """One output of the model for all rows, in their order: `logits` (rows, labels) or `embedding` (rows, width)."""
    (values,) = collect(model, rows, output, batch_size, lambda inputs: [inputs])
    return np.asarray(values)


def embeddings(model: nn.Module, rows: Rows, batch_size: int = 64) -> NDArray[Any]:
    """Embeddings of all rows and of the task's further views of them, shape (views, rows, width); the rows first."""
    return collect(model, rows, "embedding", batch_size, lambda inputs: [inputs, *rows.task.views(inputs)])


def collect(
    model: nn.Module, rows: Rows, output: str, batch_size: int, views: Callable[[Arrays], list[Arrays]]
) -> NDArray[Any]:
    was_training = model.training
    model.eval()
    parts: list[NDArray[Any]] = []
    order: list[int] = []
    with torch.inference_mode():
        for numbers in by_length(rows.lengths, batch_size):
            order.extend(numbers)
            seen = views(rows.inputs(numbers))
            parts.append(np.stack([model(**tensors(inputs))[output].numpy() for inputs in seen]))
    model.train(was_training)
    return np.concatenate(parts, axis=1)[:, np.argsort(np.asarray(order))]
