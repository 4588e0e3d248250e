"""A transformer on SMILES, trained on randomised spellings and averaged over several; minutes on two cores."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.core.task import Arrays
from budwood.engine import conformance
from budwood.engine.molecule_bundle import Made, read_rows, run_graph, save_molecules, setting
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["Smiles"]

OUTPUTS = ("logits", "embedding", "spread")
NEW_RATE, PRETRAINED_RATE = 5e-4, 3e-5
NEW_EPOCHS, PRETRAINED_EPOCHS = 25, 20


@final
@dataclass(frozen=True)
class Smiles(Step):
    """From the base's weights, or from none where the base has none."""

    learning_rate: float | None = None
    """None: 5e-4 from scratch, 3e-5 from a pretrained base."""
    batch_size: int = 32
    epochs: int | None = None
    """None: 25 from scratch, 20 from a pretrained base."""

    name: ClassVar[str] = "adapt.smiles"
    takes: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})
    tasks: ClassVar[frozenset[str]] = frozenset({"molecule_property"})

    def readings(self, pretrained: bool) -> int:
        """How many times the molecules are read, at most."""
        return self.epochs or (PRETRAINED_EPOCHS if pretrained else NEW_EPOCHS)

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.smiles_training import Molecules, predict, train_smiles

        task, inputs = setting(parent, context)
        assert context.splits is not None  # `setting` has checked
        model = task.build(parent.path)
        tokenizer = read_tokenizer(parent.path, inputs.max_tokens)
        learn = Molecules(task, tokenizer, context.splits.train.rows)
        held = Molecules(task, tokenizer, context.splits.validation.rows)
        pretrained = "model.safetensors" in parent.manifest.files
        trained = train_smiles(
            model,
            task,
            learn,
            held,
            context,
            rate=self.learning_rate or (PRETRAINED_RATE if pretrained else NEW_RATE),
            head_rate=self.learning_rate or NEW_RATE,
            batch_size=self.batch_size,
            epochs=self.readings(pretrained),
        )
        known = len(held) > 0
        calibration = task.calibrate(predict(model, held, model.variants)["logits"], held.targets) if known else {}
        golden = conformance.choose(task, context.splits.train.rows)
        sample = read_rows(golden, parent.path, replace(inputs, fingerprint=False))
        graph, facts = exported(model, sample, context.work)
        report = {
            "steps": trained.steps,
            "stopped": trained.stopped,
            "history": [list(item) for item in trained.history],
            "conformance": facts,
        }

        def write(stage: Path) -> None:
            task.save(model, stage)

        made = Made(graph, False, inputs.variants, calibration, report, write)
        return save_molecules(parent, context, self, task, made)


def exported(model: Any, sample: Arrays, work: Path) -> tuple[bytes, dict[str, Any]]:
    """The graph of a model, fused where that changes nothing. Raises StepError when it differs from torch."""
    import torch

    from budwood.engine.onnx_graph import export_graph, fuse

    tensors = {name: torch.from_numpy(value) for name, value in sample.items()}
    with torch.inference_mode():
        expected = {name: value.numpy() for name, value in model(**tensors).items()}
    work.mkdir(parents=True, exist_ok=True)
    path = work / "model.onnx"
    export_graph(model, tensors, OUTPUTS, path)
    graph = path.read_bytes()
    facts: dict[str, Any] = {"tolerance": conformance.FLOAT_TOLERANCE, "fused": fuse(path, model.encoder.config)}
    fused = path.read_bytes()
    path.unlink()
    if difference(fused, sample, expected) <= conformance.FLOAT_TOLERANCE:
        graph = fused
    else:
        facts["fused"] = {}
    facts["difference"] = difference(graph, sample, expected)
    conformance.demand(facts["difference"], conformance.FLOAT_TOLERANCE, "the ONNX graph")
    return graph, facts


def difference(graph: bytes, sample: Arrays, expected: Arrays) -> float:
    actual = run_graph(graph, sample)
    return max(float(np.abs(actual[name] - expected[name]).max()) for name in OUTPUTS)
