"""Put an ONNX graph beside the safetensors, fused for ONNX Runtime, and prove that it computes what torch computes."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.core.task import Row
from budwood.engine import conformance, graft
from budwood.engine.predictor import Predictor, task_of

__all__ = ["Onnx"]

OUTPUTS = ("logits", "embedding")


@final
@dataclass(frozen=True)
class Onnx(Step):
    """Fusing is skipped where it changes the answers; a graph that differs from torch fails the step."""

    fuse: bool = True

    name: ClassVar[str] = "export.onnx"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        golden = golden_inputs(parent, context)
        reference = Predictor.open(parent, "torch")
        rows = conformance.parsed(reference.task, golden)
        golden["outputs"] = reference.outputs(rows)
        draft_path = context.work / "model.onnx"
        context.work.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {"tolerance": conformance.FLOAT_TOLERANCE, "golden_rows": len(rows)}
        if reference.task.writes:
            from budwood.engine.causal_graph import export_causal_graph

            export_causal_graph(parent.path, draft_path)
        else:
            report["fused"] = self.trace(reference, parent, golden, draft_path)
        report["difference"] = differs(reference, draft_path, golden)
        conformance.demand(report["difference"], conformance.FLOAT_TOLERANCE, "the ONNX graph")

        def write(stage: Path) -> None:
            graft.copy_files(parent, sorted(set(parent.manifest.files) - {conformance.FILE, "README.md"}), stage)
            (stage / "onnx").mkdir(exist_ok=True)
            (stage / "onnx" / "model.onnx").write_bytes(draft_path.read_bytes())
            conformance.write(stage, golden["inputs"], golden["outputs"], conformance.FLOAT_TOLERANCE)

        past = parent.manifest.report
        draft = parent.draft(self.name, self.parameters(), report=past | {"conformance": report})
        child = Bundle.create(context.out, draft, write)
        draft_path.unlink()
        return child

    def trace(self, reference: Predictor, parent: Bundle, golden: dict[str, Any], path: Path) -> dict[str, int]:
        """Write the graph of a model that answers in one pass. Gives how many parts of it were fused, by their kind."""
        from budwood.engine.onnx_graph import export_graph, fuse

        model = reference.task.traceable(parent.path)
        sample = sample_of(reference, model, conformance.parsed(reference.task, golden))
        export_graph(model, sample, getattr(model, "outputs", OUTPUTS), path)
        if not self.fuse or not getattr(model, "fusible", True):
            return {}
        plain = path.read_bytes()
        fused = fuse(path, model.encoder.config)
        if differs(reference, path, golden) <= conformance.FLOAT_TOLERANCE:
            return fused
        path.write_bytes(plain)
        return {}


def golden_inputs(parent: Bundle, context: Context) -> dict[str, Any]:
    if context.splits is not None:
        return {"inputs": conformance.choose(task_of(parent), context.splits.train.rows)}
    if conformance.FILE in parent.manifest.files:
        return {"inputs": conformance.read(parent)["inputs"]}
    raise StepError("there are no golden rows to check the graph with", where=str(parent.path), fix="pass --data")


def sample_of(reference: Predictor, model: Any, rows: list[Row]) -> dict[str, Any]:
    """A batch of two rows of unlike length, with the inputs that the model takes."""
    import torch

    inputs = reference.encoder([rows[0], rows[-1]]).inputs
    return {name: torch.from_numpy(value) for name, value in inputs.items() if name in model.inputs}


def differs(reference: Predictor, graph: Path, golden: dict[str, Any]) -> float:
    runtime = registry.get("runtimes", "onnxruntime")(graph.read_bytes())
    with closing(Predictor(reference.task, reference.encoder, runtime, {})) as predictor:
        return conformance.difference(predictor, golden)
