"""A small generator learns from a large one of the same vocabulary. Import only inside functions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from budwood.core.errors import StepError
from budwood.core.step import Context
from budwood.engine import language_lesson
from budwood.engine.distilling import CLASSES, Distilling, soft_loss
from budwood.engine.generator import Shape
from budwood.engine.language_model import LanguageModel, likelihood
from budwood.engine.packing import IGNORED, Blocks
from budwood.engine.text_quality import perplexity_ratio
from budwood.engine.vocabulary import Document, Vocabulary

__all__ = ["Pair", "distil_language", "guided_loss"]

FASTER = 4.0
"""Learning rate of a student as a multiple of fine-tuning's: what is left of its layers has to take over from the rest.
"""
LOGITS = 1 << 25
"""Numbers that the vocabulary's logits of a batch may hold, for student and teacher each: 128 MB."""


@dataclass(frozen=True)
class Pair:
    """A student, its teacher, and the folder of their common tokenizer."""

    student: LanguageModel
    teacher: LanguageModel
    folder: Path


def distil_language(
    pair: Pair, context: Context, settings: Distilling, what: str, *, rate: float | None, blocks: int | None
) -> dict[str, Any]:
    """Train the student in place on the train texts and on those of `context.unlabelled`; the facts of the run.

    Of `settings`, the learning rate and the batch size are not read: they follow the model's size.

    Args:
        rate: the learning rate; None chooses it.
        blocks: blocks in a batch; None chooses them.

    Raises:
        DataError: there is nothing to learn from. StepError: the vocabularies differ, or the loss is not finite.
    """
    assert context.splits is not None  # the step has checked
    asked = replace(settings, learning_rate=settings.learning_rate if rate is None else rate)
    replace(asked, batch_size=asked.batch_size if blocks is None else blocks).check()
    if pair.student.config.vocab_size != pair.teacher.config.vocab_size:
        raise StepError("teacher and student have other vocabularies", where=what, fix="distil within one family")
    vocabulary = Vocabulary.open(pair.folder)
    learn = language_lesson.documents_of(vocabulary, [*context.splits.train.rows, *context.unlabelled])
    held = language_lesson.documents_of(vocabulary, context.splits.validation.rows)
    schedule = schedule_of(pair.student, learn, Shape.read(pair.folder).window, settings, rate, blocks)
    report: dict[str, Any] = {"schedule": schedule._asdict(), "steps": 0, "stopped": "finished", "history": []}
    teacher = pair.teacher.eval()
    if settings.epochs != 0:
        done = language_lesson.learn(
            pair.student,
            learn,
            held,
            schedule,
            seed=context.seed,
            work=context.work,
            progress=context.progress,
            seconds=context.seconds,
            what=what,
            loss=lambda student, batch: guided_loss(student, teacher, batch, settings),
        )
        report |= {"steps": done.steps, "stopped": done.stopped, "history": [list(item) for item in done.history]}
    return report | {"perplexity": compared(pair, held or learn, schedule.block)}


def schedule_of(
    student: LanguageModel,
    documents: Sequence[Document],
    window: int,
    settings: Distilling,
    rate: float | None,
    blocks: int | None,
) -> language_lesson.Schedule:
    """That of fine-tuning, faster, with batches whose logits fit into memory."""
    found = language_lesson.schedule_for(student, documents, window, new=False)
    room = max(1, LOGITS // (student.config.vocab_size * found.block))
    return found._replace(
        learning_rate=min(1e-3, FASTER * found.learning_rate) if rate is None else rate,
        epochs=found.epochs if settings.epochs is None else settings.epochs,
        batch_size=min(found.batch_size, room) if blocks is None else blocks,
    )


def guided_loss(student: nn.Module, teacher: LanguageModel, batch: Blocks, settings: Distilling) -> Tensor:
    """Soft targets, the texts' own tokens, and 1 - cosine of the last states, over the learnt tokens; a scalar."""
    assert isinstance(student, LanguageModel)
    targets = torch.from_numpy(batch.targets)
    learnt = targets != IGNORED
    ids, positions = torch.from_numpy(batch.ids), torch.from_numpy(batch.positions)
    states = student.states(ids, positions)[learnt]
    logits = student.logits(states)
    value: Tensor = settings.hard * functional.cross_entropy(logits, targets[learnt])
    if settings.hard == 1 and not settings.direction:
        return value
    with torch.no_grad():
        wanted = teacher.states(ids, positions)[learnt]
        answers = teacher.logits(wanted)
    value = value + (1 - settings.hard) * soft_loss(logits, answers, settings.temperature, CLASSES)
    if settings.direction and wanted.shape == states.shape:
        value = value + settings.direction * (1 - functional.cosine_similarity(states, wanted, dim=-1).mean())
    return value


def compared(pair: Pair, documents: Sequence[Document], block: int) -> dict[str, Any]:
    """Perplexity of both on the same held-out texts (those that were learnt where none are held out)."""
    before, after = (likelihood(model, documents, block) for model in (pair.teacher, pair.student))
    ratio, ratio_ci = perplexity_ratio(after, before)
    return {
        "teacher": before.perplexity,
        "student": after.perplexity,
        "ratio": ratio,
        "ratio_ci": list(ratio_ci),
        "documents": len(documents),
        "tokens": int(after.tokens.sum()),
    }
