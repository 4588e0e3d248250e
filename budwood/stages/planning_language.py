"""What `adapt` would cost for text generation: a few steps on the texts, and readings of those that are held out."""

import shutil
from collections.abc import Sequence
from typing import Any

from budwood.core import registry
from budwood.core.errors import DataError, UsageError
from budwood.stages.language import METHODS
from budwood.stages.planning import Foreseen, Survey, timed

__all__ = ["foresee"]

READ_DOCUMENTS = 16
PROMPTS = ("Once", "The", "In")
"""As many as `adapt` writes to at each evaluation."""


def foresee(survey: Survey) -> Foreseen:
    """Every weight or low-rank updates, and the seconds of learning, of reading what is held out, and of the graph.

    Raises:
        UsageError: there is no such method. DataError: there is nothing to learn from.
    """
    from budwood.engine import language_lesson as lesson
    from budwood.engine.generator import Shape
    from budwood.engine.language_model import load_language_model, new_model
    from budwood.engine.vocabulary import Vocabulary

    method, splits = survey.job.method, survey.splits
    if method not in METHODS:
        fix = f"one of: {', '.join(METHODS)}"
        raise UsageError(f"no method {method!r} for text generation", where="--method", fix=fix)
    folder, new = survey.base.path, "torch" not in survey.base.formats
    begun = 0.0
    if new:
        survey.say("trying out", "a vocabulary of the texts")
        folder = survey.folder / "new"
        begun = timed(lambda: new_model([row["text"] for row in splits.train.rows], folder, survey.job.seed))
    model, vocabulary, shape = load_language_model(folder), Vocabulary.open(folder), Shape.read(folder)
    train, held, test = (
        lesson.documents_of(vocabulary, part.rows) for part in (splits.train, splits.validation, splits.test)
    )
    if not train:
        raise DataError("no document has anything to learn", where=str(survey.job.data), fix="give texts")
    size = model.parameter_count
    schedule = lesson.schedule_for(model, train, shape.window, new=new)
    way = method if method != "auto" else "lora" if size > lesson.LARGEST_FULL else "full"
    survey.say("trying out", "a few steps of the network")
    read = reading(model, test or held or train, schedule.block)
    writing = timed(lambda: lesson.sampled(model, vocabulary, shape, PROMPTS))
    export = timed(lambda: exported(survey, folder))
    if way == "lora":
        lesson.lora_wrapped(model, survey.job.seed)
    course = lesson.Course.of(train, schedule.block, schedule.batch_size, survey.job.seed)
    step = step_seconds(model, next(course.batches(0)))
    rounds = schedule.epochs * course.parts
    judged = tokens_of(held) * read + writing if held else 0.0
    stages = {
        "learning": begun + rounds * course.steps * step,
        "held-out texts": rounds * judged,
        "test": 4 * tokens_of(test or held) * read + 2 * writing,
        "export and checks": export,
    }
    why = f"{schedule.why}; {schedule.epochs} readings of {course.parts * course.steps:,} steps at most"
    return Foreseen(way, why, size, stages)


def reading(model: Any, documents: Sequence[Any], block: int) -> float:
    """Seconds a token of measuring how likely a text is."""
    from budwood.engine.language_model import likelihood

    few = documents[:READ_DOCUMENTS]
    likelihood(model, few, block)
    return timed(lambda: likelihood(model, few, block)) / max(tokens_of(few), 1)


def tokens_of(documents: Sequence[Any]) -> int:
    return sum(len(document.ids) for document in documents)


def step_seconds(model: Any, batch: Any) -> float:
    from budwood.engine import planning
    from budwood.engine.language_lesson import loss_of

    return planning.step_seconds(model, batch, loss_of)


def exported(survey: Survey, folder: Any) -> None:
    """The graph of the base as it is, held against torch, as `adapt` does at its end."""
    from budwood.engine.causal_graph import export_causal_graph

    path = survey.folder / "graph"
    path.mkdir()
    export_causal_graph(folder, path / "model.onnx")
    registry.get("runtimes", "onnxruntime")((path / "model.onnx").read_bytes()).close()
    shutil.rmtree(path)
