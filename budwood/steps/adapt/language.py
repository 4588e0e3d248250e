"""Learn to write like the user's texts: every weight of a causal language model, or low-rank updates of a large one."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError, UsageError
from budwood.core.step import Context, Step
from budwood.core.task import Row
from budwood.engine import conformance, graft
from budwood.engine.language_export import exported

__all__ = ["Language"]

PROMPTS = 3
PROMPT_WORDS = 8
SAMPLES = 8
"""Texts by which variety and copying are reported."""
SAMPLE_TOKENS = 120
METHODS = ("auto", "full", "lora")


@final
@dataclass(frozen=True)
class Language(Step):
    """For text generation. A base without weights is begun anew, with a vocabulary learnt from the texts."""

    method: str = "auto"
    """`full`, `lora`, or `auto`: full up to 400 M parameters."""
    learning_rate: float | None = None
    """None: 5e-5 for 124 M parameters, more for smaller models; ten times that for LoRA."""
    epochs: int | None = None
    """None: 3, for small models 10, for new ones 20; two readings without progress end it sooner."""
    batch_size: int | None = None
    """Blocks in a batch; None: 512 to 4,096 tokens, by the size of the corpus."""
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    name: ClassVar[str] = "adapt.language"
    takes: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})
    tasks: ClassVar[frozenset[str]] = frozenset({"text_generation"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises DataError when there is nothing to learn, StepError when the graph differs from torch."""
        if context.splits is None or context.task is None:
            raise StepError("this step needs data and a task", fix="pass --data")
        if self.method not in METHODS:
            raise UsageError(f"no method {self.method!r}", where="--method", fix=f"one of: {', '.join(METHODS)}")
        context.work.mkdir(parents=True, exist_ok=True)
        base, new = base_folder(parent, context)
        report = self.learn(base, new, context)
        trained = context.work / "trained"
        task = context.task.fit_to(base)
        golden, expected, graph, report["conformance"] = exported(
            task, trained, context.splits.train.rows, context.work
        )

        def write(stage: Path) -> None:
            shutil.copytree(trained, stage, dirs_exist_ok=True)
            (stage / "onnx").mkdir(exist_ok=True)
            shutil.copyfile(graph, stage / "onnx" / "model.onnx")
            conformance.write(stage, golden, expected, conformance.FLOAT_TOLERANCE)

        draft = parent.draft(
            self.name,
            self.parameters(),
            task={"name": task.name, **task.to_json()},
            data=graft.data_record(context.splits),
            report=report,
        )
        return Bundle.create(context.out, draft, write)

    def learn(self, base: Path, new: bool, context: Context) -> dict[str, Any]:
        """Train what is in `base`, leave it in `trained` of the work folder, and say how it went."""
        from budwood.engine import language_lesson as lesson
        from budwood.engine.generator import Shape
        from budwood.engine.language_model import likelihood, load_language_model, save_language_model
        from budwood.engine.vocabulary import Vocabulary

        assert context.splits is not None  # `apply` has checked both
        assert context.task is not None
        model, vocabulary, shape = load_language_model(base), Vocabulary.open(base), Shape.read(base)
        train, held, test = (
            lesson.documents_of(vocabulary, part.rows)
            for part in (context.splits.train, context.splits.validation, context.splits.test)
        )
        size = model.parameter_count
        lora = self.method == "lora" or (self.method == "auto" and size > lesson.LARGEST_FULL)
        schedule = self.changed(lesson.schedule_for(model, train, shape.window, new=new), lora)
        before = likelihood(model, test or held, schedule.block)
        limit = context.task.fit_to(base).to_json()["max_tokens"]
        baseline = baseline_of(model, train, lesson.shortened(test or held, limit), limit, new=new)
        if lora:
            lesson.lora_wrapped(model, context.seed, self.rank, self.alpha, self.dropout)
        prompts = prompts_of((context.splits.validation if held else context.splits.train).rows)
        samples = lesson.Samples(vocabulary, shape, prompts, context.work / "samples.json")
        done = lesson.learn(
            model,
            train,
            held,
            schedule,
            seed=context.seed,
            work=context.work,
            progress=context.progress,
            seconds=context.seconds,
            samples=samples,
            what="LoRA" if lora else "fine-tuning",
        )
        if lora:
            lesson.lora_merged(model)
        after = likelihood(model, test or held, schedule.block)
        shutil.rmtree(context.work / "trained", ignore_errors=True)
        save_language_model(model, context.work / "trained")
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            if (base / name).exists():
                shutil.copyfile(base / name, context.work / "trained" / name)
        texts = lesson.sampled(model, vocabulary, shape, prompts, n=SAMPLES // len(prompts), tokens=SAMPLE_TOKENS)
        known = lesson.unigram([item.ids for item in train], learnt_ids(test or held), model.config.vocab_size)
        return {
            "baseline": baseline,
            "way": "lora" if lora else "full",
            "new": new,
            "parameters": size,
            "schedule": schedule._asdict(),
            "steps": done.steps,
            "stopped": done.stopped,
            "history": [list(item) for item in done.history],
            "samples": samples.read(),
            "perplexity": lesson.perplexities(before, after, known),
            "writing": lesson.writing(texts, [row["text"] for row in context.splits.train.rows]),
        }

    def changed(self, schedule: Any, lora: bool) -> Any:
        """The schedule with what the user set."""
        rate = self.learning_rate or schedule.learning_rate * (10 if lora else 1)
        return schedule._replace(
            learning_rate=rate, epochs=self.epochs or schedule.epochs, batch_size=self.batch_size or schedule.batch_size
        )


def base_folder(parent: Bundle, context: Context) -> tuple[Path, bool]:
    """The folder with the weights to start from, and whether they are new: made from the texts, the same each time."""
    if "torch" in parent.formats:
        return parent.path, False
    from budwood.engine.language_model import new_model

    assert context.splits is not None  # `apply` has checked
    folder = context.work / "new"
    shutil.rmtree(folder, ignore_errors=True)
    new_model([row["text"] for row in context.splits.train.rows], folder, context.seed)
    return folder, True


def prompts_of(rows: Sequence[Row]) -> list[str]:
    """The beginnings of a few rows: their prompts, where they have prompts."""
    picks = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, PROMPTS).astype(int))]
    found = [str(row.get("prompt") or " ".join(row["text"].split()[:PROMPT_WORDS])) for row in picks]
    return list(dict.fromkeys(found))


def learnt_ids(documents: Sequence[Any]) -> list[list[int]]:
    """The tokens whose likelihood is measured."""
    return [
        [token for token, learnt in zip(item.ids[1:], item.learnt[1:], strict=True) if learnt] for item in documents
    ]


def baseline_of(
    model: Any, train: Sequence[Any], beginnings: Sequence[Any], limit: int, *, new: bool
) -> dict[str, Any]:
    """The base model's score, or for a new one that of the tokens' frequencies, on what the task measures."""
    from budwood.engine import language_lesson as lesson
    from budwood.engine.language_model import likelihood

    if not new:
        return lesson.baseline("base", likelihood(model, beginnings, limit))
    known = lesson.unigram([item.ids for item in train], learnt_ids(beginnings), model.config.vocab_size)
    return lesson.baseline("unigram", known)
