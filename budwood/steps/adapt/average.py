"""The mean of a SMILES transformer and a fingerprint model, weighed by skill, as one graph: they err differently."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.core.task import Arrays
from budwood.engine.molecule_bundle import Made, read_rows, run_graph, save_molecules, setting, temperature

__all__ = ["Average"]


class Part(NamedTuple):
    """One of the two models."""

    graph: bytes
    temperature: float


@final
@dataclass(frozen=True)
class Average(Step):
    """Takes the transformer, fits the fingerprint model on the same rows, and keeps the graph of both only."""

    weight: float | None = None
    """Of the transformer, from 0 to 1. None: by the skill of both on the validation rows, half without such rows."""

    name: ClassVar[str] = "adapt.average"
    takes: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx"})
    tasks: ClassVar[frozenset[str]] = frozenset({"molecule_property"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.fingerprint_graph import average_graph
        from budwood.engine.fingerprint_model import fit_rows

        task, inputs = setting(parent, context)
        assert context.splits is not None  # `setting` has checked
        classification = task.to_json()["kind"] == "classification"
        fitted, calibration = fit_rows(task, context.splits.train.rows, seed=context.seed)
        held = context.splits.validation.rows
        both = replace(inputs, fingerprint=True)
        parts = (
            Part(fitted.graph, temperature(calibration)),
            Part(parent.read_model("onnx"), temperature(parent.manifest.calibration)),
        )
        weight = self.weight
        if weight is None:
            arrays = read_rows(held, parent.path, both) if held else {}
            weight = weight_of(parts, arrays, task.targets(held), classification) if held else 0.5
        graph = average_graph(
            *(part.graph for part in parts),
            classification=classification,
            temperatures=(parts[0].temperature, parts[1].temperature),
            weight=weight,
        )
        calibrated = {}
        if held:
            calibrated = task.calibrate(
                run_graph(graph, read_rows(held, parent.path, both))["logits"], task.targets(held)
            )
        report = {**parent.manifest.report, "fingerprint": fitted.report, "weight": round(weight, 4)}
        return save_molecules(parent, context, self, task, Made(graph, True, inputs.variants, calibrated, report))


def weight_of(parts: tuple[Part, Part], arrays: Arrays, truth: NDArray[Any], classification: bool) -> float:
    """The second part's weight: its squared skill over the sum of both.

    Skill is the share of the variance that a model explains (1 - Brier score / variance, for classes). The best weights
    of two models whose errors are correlated fall faster than their skills, and a weak model brings more noise than
    news, hence the squares; two equally good models get half each.
    """
    known = np.isfinite(truth)
    skills = []
    for part in parts:
        values = run_graph(part.graph, arrays)["logits"].astype(np.float64)
        if classification:
            values = 1 / (1 + np.exp(-values / part.temperature))
        error = np.where(known, values - truth, 0.0)
        spread = np.where(known, truth - np.nanmean(truth, axis=0, where=known), 0.0)
        skills.append(max(0.0, 1 - float((error**2).sum()) / max(float((spread**2).sum()), 1e-12)))
    total = skills[0] ** 2 + skills[1] ** 2
    return skills[1] ** 2 / total if total > 0 else 0.5
