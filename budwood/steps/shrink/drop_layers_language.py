"""Keep some layers of a generator and teach the short one to write as the long one does.

DistilGPT2's recipe (Sanh et al. 2019, arXiv:1910.01108, and its code): layers taken from the teacher in turn, then its
softened next-token probabilities, the texts themselves, and the direction of the last hidden states.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.engine import conformance, graft
from budwood.engine.distilling import Distilling, sizes_report
from budwood.engine.language_export import exported
from budwood.engine.predictor import task_of

__all__ = ["DropLayersLanguage"]

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@final
@dataclass(frozen=True)
class DropLayersLanguage(Step):
    """For text generation: the child is an ordinary transformers model of fewer layers with a graph of its own."""

    layers: int | None = None
    """Layers to keep; None keeps half of them."""
    spacing: str = "alternate"
    """`alternate`, every second from the first on, or `even`, with the first and the last among them."""
    epochs: int | None = None
    """Readings of the texts; None: 3, for small models 10; 0 cuts and does not train, which is enough for its speed."""
    learning_rate: float | None = None
    """None: by the student's size, four times that of fine-tuning, since half of its layers are gone."""
    batch_size: int | None = None
    """Blocks in a batch; None: 512 to 4,096 tokens, by the size of the corpus, fewer for large vocabularies."""
    temperature: float = 2.0
    hard: float = 0.3
    """Weight of the texts' own tokens; the rest is the teacher's probabilities."""
    direction: float = 1.0
    """Weight of 1 - cosine between the last hidden states."""

    name: ClassVar[str] = "shrink.drop_layers_language"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})
    tasks: ClassVar[frozenset[str]] = frozenset({"text_generation"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises StepError without data, and when so many layers cannot be kept or the graph differs from torch."""
        if context.splits is None:
            raise StepError("this step needs data", fix="pass --data")
        context.work.mkdir(parents=True, exist_ok=True)
        short = context.work / "short"
        report = self.distilled(parent, short, context)
        task = task_of(parent)
        golden, expected, graph, report["conformance"] = exported(task, short, context.splits.train.rows, context.work)

        def write(stage: Path) -> None:
            shutil.copytree(short, stage, dirs_exist_ok=True)
            (stage / "onnx").mkdir(exist_ok=True)
            shutil.copyfile(graph, stage / "onnx" / "model.onnx")
            conformance.write(stage, golden, expected, conformance.FLOAT_TOLERANCE)

        draft = parent.draft(
            self.name, self.parameters(), data=graft.data_record(context.splits), calibration={}, report=report
        )
        return Bundle.create(context.out, draft, write)

    def distilled(self, parent: Bundle, out: Path, context: Context) -> dict[str, Any]:
        """Cut and train, leave the student in `out`, and say how it went."""
        from budwood.engine.language_distilling import Pair, distil_language
        from budwood.engine.language_model import load_language_model, save_language_model
        from budwood.engine.layer_cut import depth_of, keep_layers

        teacher, student = load_language_model(parent.path), load_language_model(parent.path)
        layers = depth_of(student.body) // 2 if self.layers is None else self.layers
        kept = keep_layers(student, layers, self.spacing)
        pair = Pair(student, teacher, parent.path)
        settings = Distilling(self.epochs, temperature=self.temperature, hard=self.hard, direction=self.direction)
        report = distil_language(
            pair, context, settings, f"distilling to {layers} layers", rate=self.learning_rate, blocks=self.batch_size
        )
        shutil.rmtree(out, ignore_errors=True)
        save_language_model(student, out)
        graft.copy_files(parent, FILES, out)
        return report | {"kept_layers": kept} | sizes_report(teacher, student)
