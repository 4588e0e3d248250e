"""Training a causal language model on documents, chats or prompts with completions, by the one training loop.

What `full` and `lora` do for text generation. Import this module only inside functions.
"""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from budwood.core.commit import write_atomic
from budwood.core.errors import DataError, require
from budwood.core.step import Progress
from budwood.core.task import Arrays, Row
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Decoder, Generator, Shape
from budwood.engine.language_model import LanguageModel, likelihood, packed_loss
from budwood.engine.packing import Blocks, block_length, pack, segments
from budwood.engine.planning import within
from budwood.engine.statistics import interval
from budwood.engine.text_quality import (
    Likelihood,
    distinct,
    longest_copied_run,
    perplexity_ratio,
    repetition,
    unigram,
)
from budwood.engine.train import SAVE_SECONDS, Loss, Plan, Trained, train
from budwood.engine.vocabulary import Document, Vocabulary

__all__ = [
    "LARGEST_FULL",
    "Samples",
    "Schedule",
    "documents_of",
    "learn",
    "lora_merged",
    "lora_wrapped",
    "perplexities",
    "sampled",
    "schedule_for",
    "unigram",
    "writing",
]

LARGEST_FULL = 400_000_000
"""Parameters up to which every weight is trained; above, low-rank updates (LoRA) fit into memory."""
TOKENS_PER_UPDATE = (512, 4_096)
"""The least and the most; between them a reading of the corpus is 200 updates, so that small corpora are learnt."""
UPDATES_PER_READING = 200
JUDGED_EVERY = 250
"""Updates between two evaluations, at most: a corpus of millions of tokens is not judged only at its end."""
SAMPLE_TOKENS = 60


class Schedule(NamedTuple):
    """How long and how fast to learn."""

    learning_rate: float
    epochs: int
    block: int
    batch_size: int
    why: str


def schedule_for(model: LanguageModel, train_documents: Sequence[Document], window: int, *, new: bool) -> Schedule:
    """The schedule by the model's size and the documents.

    Full fine-tuning of GPT-2 takes 5e-5; smaller models bear and need more, in proportion to about the inverse square
    root of their parameters. A new model reads its corpus up to 20 times and stops when the validation loss rises.
    """
    block = block_length(train_documents, window)
    count = model.parameter_count
    rate = min(1e-3, 5e-5 * math.sqrt(124e6 / count))
    if new:
        rate = min(3e-3, 6e-4 * math.sqrt(124e6 / count))
    epochs = 20 if new else 10 if count < 20e6 else 3
    least, most = TOKENS_PER_UPDATE
    batch = max(1, min(most, max(least, total(train_documents) // UPDATES_PER_READING)) // block)
    why = f"{count / 1e6:.1f} M parameters, {total(train_documents):,} tokens, {'new' if new else 'trained before'}"
    return Schedule(float(f"{rate:.2g}"), epochs, block, batch, why)


def total(documents: Sequence[Document]) -> int:
    return sum(len(document.ids) for document in documents)


def documents_of(vocabulary: Vocabulary, rows: Sequence[Row]) -> list[Document]:
    """Rows as documents; those with nothing to learn are left out.

    Raises:
        DataError: a row has none of the known fields.
    """
    documents = [vocabulary.document(row) for row in rows]
    return [document for document in documents if any(document.learnt[1:])]


@dataclass(frozen=True)
class Course:
    """The blocks of each epoch: the same for the same seed, so that a killed run goes on as if it had not been."""

    documents: Sequence[Document]
    block: int
    batch_size: int
    seed: int
    parts: int
    """Evaluations in one reading of the corpus; the training loop's epoch is such a part."""
    steps: int
    """Updates in a part."""

    @classmethod
    def of(cls, documents: Sequence[Document], block: int, batch_size: int, seed: int) -> "Course":
        whole = -(-len(pack(segments(documents, block), block)) // batch_size)
        parts = -(-whole // JUDGED_EVERY)
        return cls(documents, block, batch_size, seed, parts, -(-whole // parts))

    def plan(self, schedule: Schedule, patience: int, seed: int) -> Plan:
        """An epoch of the plan is one part of a reading, so that long readings are judged on the way."""
        return Plan(
            epochs=schedule.epochs * self.parts,
            steps_per_epoch=self.steps,
            learning_rate=schedule.learning_rate,
            warmup=0.1,
            patience=patience * self.parts,
            seed=seed,
        )

    def batches(self, epoch: int) -> Iterator[Blocks]:
        """The batches of one part of one reading."""
        reading, part = divmod(epoch, self.parts)
        random = np.random.default_rng([self.seed, reading])
        blocks = pack(segments(self.documents, self.block, random), self.block)
        wanted = self.steps * self.parts * self.batch_size
        # The cuts differ between readings, so do the numbers of blocks; the first ones fill the last batches up.
        order = np.resize(random.permutation(len(blocks)), wanted)
        size = self.batch_size
        for start in range(part * self.steps * size, (part + 1) * self.steps * size, size):
            yield Blocks(*(array[order[start : start + size]] for array in blocks))


def loss_of(model: nn.Module, batch: Blocks) -> Tensor:
    assert isinstance(model, LanguageModel)
    return packed_loss(model, batch)


def learn(
    model: LanguageModel,
    train_documents: Sequence[Document],
    held: Sequence[Document],
    schedule: Schedule,
    *,
    seed: int,
    work: Path,
    progress: Progress,
    seconds: float | None = None,
    samples: "Samples | None" = None,
    what: str = "fine-tuning",
    patience: int = 2,
    save_seconds: float = SAVE_SECONDS,
    loss: Loss = loss_of,
) -> Trained:
    """Train in place; stop by the validation loss and keep the best weights. A killed run goes on where it was.

    Args:
        model: what `load_language_model` or `lora_wrapped` gave.
        train_documents, held: what to learn, and what to stop by (may be empty: then the last weights stay).
        schedule: of `schedule_for`.
        seed: of the order and of dropout.
        work: a folder for checkpoints that outlives the process.
        seconds: how long it may take; the schedule is cut to fit.
        samples: writes texts to fixed prompts at each evaluation.
        patience: readings of the corpus without a better validation loss before it stops.
        save_seconds: time between two checkpoints.
        loss: of a batch of `Blocks`; that of the texts' own tokens by default.

    Raises:
        DataError: there is nothing to learn from.
        StepError: the loss is not finite.
    """
    if not train_documents:
        raise DataError("no document has anything to learn", fix="give texts, or rows with a completion")
    course = Course.of(train_documents, schedule.block, schedule.batch_size, seed)
    plan = course.plan(schedule, patience, seed)

    def judge(trained: nn.Module) -> float:
        assert isinstance(trained, LanguageModel)
        found = likelihood(trained, held, schedule.block)
        if samples is not None:
            samples.write(trained, found)
        return -float(found.nats.sum() / found.tokens.sum())

    return train(
        model,
        within(plan, seconds, model, course.batches, loss, work, cheaper=""),
        course.batches,
        loss,
        evaluate=judge if held else None,
        checkpoints=work / "checkpoints",
        progress=progress,
        what=what,
        seconds=seconds,
        save_seconds=save_seconds,
    )


class Samples:
    """Texts to fixed prompts at each evaluation, kept in one file, so that one can watch a model learn."""

    def __init__(self, vocabulary: Vocabulary, shape: Shape, prompts: Sequence[str], path: Path) -> None:
        self.vocabulary, self.shape, self.prompts, self.path = vocabulary, shape, tuple(prompts), path

    def write(self, model: LanguageModel, found: Likelihood) -> None:
        """Add the texts of this evaluation. Torch's random numbers are not touched: the run stays reproducible."""
        texts = sampled(model, self.vocabulary, self.shape, self.prompts)
        past = self.read()
        entry = {"perplexity": round(found.perplexity, 4), "texts": dict(zip(self.prompts, texts, strict=True))}
        if entry not in past:  # a resumed run judges once more what it judged before it was killed
            write_atomic(self.path, json.dumps([*past, entry], ensure_ascii=False, indent=1).encode())

    def read(self) -> list[dict[str, Any]]:
        """All evaluations so far, the oldest first."""
        if not self.path.exists():
            return []
        found: list[dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        return found


def sampled(
    model: LanguageModel,
    vocabulary: Vocabulary,
    shape: Shape,
    prompts: Sequence[str],
    *,
    n: int = 1,
    tokens: int = SAMPLE_TOKENS,
    seed: int = 0,
) -> list[str]:
    """Texts of the model as it is, by the code that serves."""
    was_training = model.training
    model.eval()

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            outputs = model(**{name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    generator = Generator(Decoder(run, shape), vocabulary)
    found = generator.complete(prompts, Sampling(max_tokens=tokens, seed=seed), n=n)
    model.train(was_training)
    return [item.text for item in found]


def lora_wrapped(model: LanguageModel, seed: int, rank: int = 16, alpha: int = 32, dropout: float = 0.05) -> None:
    """Freeze the weights and put trainable low-rank updates on every linear layer of the body (Hu et al. 2021)."""
    peft = require("peft", extra="train")
    torch.manual_seed(seed)  # the updates start from random numbers
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")
    with warnings.catch_warnings():
        # peft still asks for a name that transformers has renamed, and says that GPT-2 keeps its layers transposed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        model.body = peft.get_peft_model(model.body, settings)
    model.requires_grad_(False)
    for name, item in model.named_parameters():
        item.requires_grad_("lora_" in name)


def lora_merged(model: LanguageModel) -> None:
    """Add the updates to the weights, so that the model is an ordinary one again."""
    model.body = model.body.merge_and_unload()  # type: ignore[operator]


def perplexities(base: Likelihood, adapted: Likelihood, frequencies: Likelihood) -> dict[str, Any]:
    """Perplexity before and after on the same held-out tokens, with 95 % intervals over documents."""
    ratio, interval = perplexity_ratio(adapted, base)
    by_frequency, by_frequency_interval = perplexity_ratio(adapted, frequencies)
    return {
        "base": base.perplexity,
        "base_ci": list(base.interval()),
        "adapted": adapted.perplexity,
        "adapted_ci": list(adapted.interval()),
        "ratio": ratio,
        "ratio_ci": list(interval),
        "unigram": frequencies.perplexity,
        "unigram_ratio": by_frequency,
        "unigram_ratio_ci": list(by_frequency_interval),
        "documents": len(adapted.nats),
        "tokens": int(adapted.tokens.sum()),
    }


def shortened(documents: Sequence[Document], tokens: int) -> list[Document]:
    """Documents up to their first so many predicted tokens; those without anything learnt in them are left out."""
    cut = [Document(item.ids[: tokens + 1], item.learnt[: tokens + 1]) for item in documents]
    return [item for item in cut if any(item.learnt[1:])]


def baseline(name: str, found: Likelihood) -> dict[str, Any]:
    """A baseline in the task's metric, the mean of 1 / perplexity, and in perplexity; 95 % intervals over documents."""
    scores = 1 / found.per_document
    return {
        "name": name,
        "score": float(scores.mean()),
        "ci": list(interval(scores)),
        "perplexity": found.perplexity,
        "perplexity_ci": list(found.interval()),
    }


def writing(texts: Sequence[str], training: Sequence[str]) -> dict[str, Any]:
    """How varied and how original these texts are."""
    copied = longest_copied_run(texts, training)
    return {
        "texts": len(texts),
        "distinct_2": distinct(texts, 2),
        "repetition_4": repetition(texts, 4),
        "longest_copied_words": copied.words,
        "longest_copied_text": copied.text,
    }
