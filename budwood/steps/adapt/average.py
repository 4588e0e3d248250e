"""The mean of a SMILES transformer and a fingerprint model, as one graph: they err on different molecules."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.engine.molecule_bundle import Made, read_rows, run_graph, save_molecules, setting, temperature

__all__ = ["Average"]


@final
@dataclass(frozen=True)
class Average(Step):
    """Takes the transformer, fits the fingerprint model on the same rows, and keeps the graph of both only."""

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
        graph = average_graph(
            fitted.graph,
            parent.read_model("onnx"),
            classification=classification,
            temperatures=(temperature(calibration), temperature(parent.manifest.calibration)),
        )
        held = context.splits.validation.rows
        both = replace(inputs, fingerprint=True)
        calibrated = {}
        if held:
            calibrated = task.calibrate(
                run_graph(graph, read_rows(held, parent.path, both))["logits"], task.targets(held)
            )
        report = {**parent.manifest.report, "fingerprint": fitted.report}
        return save_molecules(parent, context, self, task, Made(graph, True, inputs.variants, calibrated, report))
