"""What the steps of molecule models share: their base, the check of a graph, and the child bundle with its domain."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.errors import BundleError, StepError
from budwood.core.runtime import Runtime
from budwood.core.step import Context, Step
from budwood.core.task import Arrays, Row, Task
from budwood.engine import conformance, graft
from budwood.engine.molecule_domain import domain_of
from budwood.engine.molecule_inputs import Inputs, encode_prepared
from budwood.engine.molecules import prepare
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["Made", "NEW_BASE", "new_base", "read_rows", "run_graph", "save_molecules", "setting", "temperature"]

NEW_BASE = "new:smiles-mini"
"""The base that needs no download: a small transformer without pretrained weights."""
CARRIED = ("config.json", "tokenizer.json", "tokenizer_config.json")
ROWS = 512


@dataclass(frozen=True)
class Made:
    """What a step made: the graph, which inputs it reads, and what is written beside it."""

    graph: bytes
    fingerprint: bool
    variants: int
    calibration: dict[str, float]
    report: dict[str, Any]
    write: Callable[[Path], None] = lambda stage: None
    """Further files of the model, such as its float weights."""


def new_base(cache: Path) -> Bundle:
    """The base `new:smiles-mini` as a bundle in `cache`; made once."""
    from budwood.engine.smiles_model import write_new_base

    out = cache / "base-smiles-mini"
    if out.exists():
        return Bundle.open(out)
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=None, base=NEW_BASE, license="apache-2.0")
    return Bundle.create(out, draft, write_new_base)


def setting(parent: Bundle, context: Context) -> tuple[Task, Inputs]:
    """The task to learn and what the base can read. Raises StepError without data or on another kind of base."""
    if context.splits is None or context.task is None:
        raise StepError("this step needs data and a task", fix="pass --data")
    try:
        return context.task, Inputs.open(parent.path)
    except BundleError as error:
        fix = "leave out --base, or pass a SMILES encoder"
        raise StepError("the base is not one for molecules", where=str(parent.path), fix=fix) from error


def read_rows(rows: Sequence[Row], folder: Path, inputs: Inputs) -> Arrays:
    """Model inputs of all rows together, tokens padded alike."""
    tokenizer = read_tokenizer(folder, inputs.max_tokens) if inputs.variants else None
    return encode_prepared([prepare(row["smiles"]) for row in rows], inputs, tokenizer)


def run_graph(graph: bytes, arrays: Arrays) -> Arrays:
    """All outputs of a graph, in batches that bound the memory."""
    runtime: Runtime = registry.get("runtimes", "onnxruntime")(graph)
    total = len(next(iter(arrays.values())))
    with closing(runtime):
        parts = [
            runtime.run({name: value[start : start + ROWS] for name, value in arrays.items()})
            for start in range(0, total, ROWS)
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def save_molecules(parent: Bundle, context: Context, step: Step, task: Task, made: Made) -> Bundle:
    """Commit the model as the child of `parent`, with its golden rows and the molecules that it learnt from."""
    assert context.splits is not None  # `setting` has checked
    splits = context.splits
    draft = parent.draft(
        step.name,
        step.parameters(),
        task={"name": task.name, **task.to_json()},
        data=graft.data_record(splits),
        calibration=made.calibration,
        report=made.report,
    )
    golden = conformance.choose(task, splits.train.rows)
    learnt = [row["smiles"] for row in splits.train.rows]

    def write(stage: Path) -> None:
        graft.copy_files(parent, CARRIED, stage)
        inputs = Inputs.open(parent.path)
        inputs.save(stage, fingerprint=made.fingerprint, variants=made.variants)
        domain_of(learnt).save(stage)
        made.write(stage)
        (stage / "onnx").mkdir(exist_ok=True)
        (stage / "onnx" / "model.onnx").write_bytes(made.graph)
        outputs = run_graph(made.graph, read_rows(golden, stage, Inputs.open(stage)))
        conformance.write(stage, golden, outputs, conformance.FLOAT_TOLERANCE)

    return Bundle.create(context.out, draft, write)


def temperature(calibration: Mapping[str, float]) -> float:
    return float(calibration.get("temperature", 1.0))
