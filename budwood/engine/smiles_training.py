"""Training of a SMILES transformer: every epoch sees other spellings of the molecules. Import only inside functions."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from budwood.core.step import Context
from budwood.core.task import Arrays, Row, Task
from budwood.engine.molecule_inputs import spellings, tokens
from budwood.engine.molecules import prepare, randomised
from budwood.engine.planning import within
from budwood.engine.smiles_model import SmilesModel
from budwood.engine.train import Plan, Trained, train

__all__ = ["Molecules", "predict", "train_smiles"]

WINDOW = 32
"""Batches that are sorted by length together; see `batching.Rows.epoch`."""
PREDICTED = 128


class Molecules:
    """Labelled molecules, parsed once."""

    def __init__(self, task: Task, tokenizer: Any, rows: Sequence[Row]) -> None:
        self.tokenizer = tokenizer
        self.molecules = [prepare(row["smiles"]).molecule for row in rows]
        self.lengths = np.asarray([len(row["smiles"]) for row in rows])
        self.targets = task.targets(rows)

    def __len__(self) -> int:
        return len(self.molecules)

    def varied(self, numbers: Sequence[int], seed: int, epoch: int) -> Arrays:
        """One random spelling of each, the same one for the same seed and epoch."""
        texts = [
            randomised(self.molecules[i], 1, int(np.random.SeedSequence([seed, epoch, i]).generate_state(1)[0]))
            for i in numbers
        ]
        return tokens(texts, self.tokenizer)

    def plain(self, numbers: Sequence[int], variants: int) -> Arrays:
        return tokens([spellings(self.molecules[i], variants) for i in numbers], self.tokenizer)

    def epoch(self, size: int, seed: int, number: int) -> Iterator[list[int]]:
        """Row numbers in shuffled batches of like length."""
        random = np.random.default_rng([seed, number])
        order = random.permutation(len(self))
        groups: list[list[int]] = []
        for start in range(0, len(order), size * WINDOW):
            window = order[start : start + size * WINDOW]
            window = window[np.argsort(self.lengths[window], kind="stable")]
            groups.extend(window[first : first + size].tolist() for first in range(0, len(window), size))
        return (groups[i] for i in random.permutation(len(groups)))

    def steps(self, size: int) -> int:
        full, rest = divmod(len(self), size * WINDOW)
        return full * WINDOW + -(-rest // size)


Batch = tuple[dict[str, Tensor], Tensor]


def train_smiles(
    model: SmilesModel,
    task: Task,
    learn: Molecules,
    held: Molecules,
    context: Context,
    *,
    rate: float,
    head_rate: float,
    batch_size: int,
    epochs: int,
) -> Trained:
    """Train on one spelling a molecule and epoch; keep the epoch with the least loss on the held-out molecules."""
    variants, model.variants = model.variants, 1
    # New scaffolds make the held-out loss jump while the rate is high, so that patience would end the run too soon.
    plan = Plan(epochs, learn.steps(batch_size), rate, head_rate, patience=epochs, seed=context.seed)

    def batches(epoch: int) -> Iterator[Batch]:
        for numbers in learn.epoch(batch_size, context.seed, epoch):
            yield tensors(learn.varied(numbers, context.seed, epoch)), torch.from_numpy(learn.targets[numbers])

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        value: Tensor = task.loss(module(**batch[0]), batch[1])
        return value

    def score(module: nn.Module) -> float:
        logits = torch.from_numpy(predict(module, held, 1)["logits"])
        return -float(task.loss({"logits": logits}, torch.from_numpy(held.targets)))

    try:
        return train(
            model,
            within(plan, context.seconds, model, batches, loss, context.work),
            batches,
            loss,
            evaluate=score if len(held) else None,
            checkpoints=context.work / "checkpoints",
            progress=context.progress,
            seconds=context.seconds,
            what="learning SMILES",
        )
    finally:
        model.variants = variants


def predict(model: nn.Module, rows: Molecules, variants: int) -> dict[str, NDArray[Any]]:
    """All outputs for all rows, in their order, from the model as it is set (its `variants` must be these)."""
    model.eval()
    order = np.argsort(rows.lengths, kind="stable")
    parts: list[dict[str, NDArray[Any]]] = []
    with torch.inference_mode():
        for start in range(0, len(order), PREDICTED):
            outputs = model(**tensors(rows.plain(order[start : start + PREDICTED].tolist(), variants)))
            parts.append({name: value.numpy() for name, value in outputs.items()})
    back = np.argsort(order)
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
