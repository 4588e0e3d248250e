"""Golden rows: a few inputs with the float model's outputs, which every graph and every server must reproduce."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, StepError
from budwood.core.task import Row, Task
from budwood.engine.predictor import Predictor

__all__ = ["FILE", "FLOAT_TOLERANCE", "check", "choose", "difference", "parsed", "read", "write"]

FILE = "golden.json"
N_ROWS = 16
FLOAT_TOLERANCE = 1e-3
"""Largest difference of a logit between torch and a float graph: kernels add in another order, nothing more."""
INT8_SLACK = 2.0
"""A quantized graph may differ at start by this much more than it did when it was made: other CPUs round otherwise."""


def choose(task: Task, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Request items spread over the rows' lengths, the shortest and the longest among them."""
    order = np.argsort(task.lengths(rows), kind="stable")
    picks = np.unique(np.linspace(0, len(rows) - 1, min(N_ROWS, len(rows))).astype(int))
    return [task.item(rows[order[i]]) for i in picks]


def parsed(task: Task, golden: Mapping[str, Any]) -> list[Row]:
    """The golden items as rows: they take the same way as a request."""
    return [task.parse(item) for item in golden["inputs"]]


def write(folder: Path, inputs: Sequence[Mapping[str, Any]], outputs: Mapping[str, Any], tolerance: float) -> None:
    logits = np.asarray(outputs["logits"], np.float64).round(6).tolist()
    content = {"inputs": [dict(row) for row in inputs], "outputs": {"logits": logits}, "tolerance": tolerance}
    (folder / FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read(bundle: Bundle) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(bundle.file(FILE).read_text(encoding="utf-8"))
    return golden


def difference(predictor: Predictor, golden: Mapping[str, Any]) -> float:
    """Largest absolute difference of any golden logit."""
    actual = predictor.outputs(parsed(predictor.task, golden))["logits"]
    expected = np.asarray(golden["outputs"]["logits"])
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual - expected).max())


def check(predictor: Predictor, bundle: Bundle) -> float:
    """Compare a predictor with the bundle's golden rows.

    Raises:
        BundleError: it differs by more than the tolerance that the bundle states.
    """
    golden = read(bundle)
    found = difference(predictor, golden)
    if not found <= golden["tolerance"]:
        raise BundleError(
            f"golden rows differ by {found:.4g}, at most {golden['tolerance']:.4g} is allowed",
            where=str(bundle.path),
            fix="serve the float parent, or make the bundle again on this machine",
        )
    return found


def demand(found: float, tolerance: float, what: str) -> None:
    """Raise StepError when an exported graph does not compute what its torch original computes."""
    if not found <= tolerance:
        raise StepError(
            f"{what} differs from torch by {found:.4g} on the golden rows, at most {tolerance:.4g} is allowed",
            where="export",
            fix="report this base model as unsupported; `--runtime torch` still serves it",
        )
