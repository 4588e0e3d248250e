"""Random forest or linear models on Morgan fingerprints: the baseline of molecules, fitted in seconds."""

from dataclasses import dataclass
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.step import Context, Step
from budwood.engine.molecule_bundle import Made, save_molecules, setting

__all__ = ["Fingerprint"]


@final
@dataclass(frozen=True)
class Fingerprint(Step):
    """Which of the two, on bits or on counts, is chosen by cross-validation over scaffolds."""

    name: ClassVar[str] = "adapt.fingerprint"
    takes: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"onnx"})
    tasks: ClassVar[frozenset[str]] = frozenset({"molecule_property"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.fingerprint_model import fit_rows

        task, _ = setting(parent, context)
        assert context.splits is not None  # `setting` has checked
        rows = context.splits.train.rows
        context.progress("fingerprints", 0, len(rows), "")
        fitted, calibration = fit_rows(task, rows, seed=context.seed)
        made = Made(fitted.graph, True, 0, calibration, {"fingerprint": fitted.report})
        return save_molecules(parent, context, self, task, made)
