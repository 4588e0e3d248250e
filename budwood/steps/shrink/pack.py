"""Store a bundle's graph as Deep Compression does: zeros left out, values shared, everything entropy-coded.

Han et al. 2015, arXiv:1510.00149. The server expands it when it loads: smaller on disk and over the network, no faster.
"""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from budwood.core import registry
from budwood.core.bundle import FORMATS, Bundle
from budwood.core.errors import StepError
from budwood.core.packed import SUFFIX, expand_graph
from budwood.core.step import Context, Step
from budwood.engine import conformance, graft
from budwood.engine.predictor import Predictor, task_of

__all__ = ["Pack"]

WEIGHTS = FORMATS["torch"] + SUFFIX
NOT_COPIED = (FORMATS["torch"], conformance.FILE, "README.md")


@final
@dataclass(frozen=True)
class Pack(Step):
    """The child holds the packed graph: of several the one that would be served. Float weights stay behind.

    It takes any graph. Weights of integer graphs and zeros keep their value; float weights become one of 2^bits that
    their tensor has. Train or shrink its parent, not this.
    """

    bits: int = 8
    """1 to 8, or 32 to keep every number as it is."""
    sharing: str = "k-means"
    """How shared values are chosen: `k-means`, or `linear` for even steps."""
    weights: bool = False
    """Keep the float weights too, packed in the same way. `export.unpacked` gives an ordinary folder again."""

    name: ClassVar[str] = "shrink.pack"
    takes: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine.packed import find_tensors, find_weights, pack

        format = served(parent)
        others = ("config.json", "pooling.json", *task_of(parent).preprocessing)
        extra: dict[str, bytes] = {}
        if self.weights:
            content = parent.read_model("torch")
            extra[WEIGHTS] = pack(content, find_weights(content), self.bits, self.sharing).content
            others = tuple(name for name in parent.names if not name.endswith((".onnx", *NOT_COPIED)))
        graph = parent.read_model(format)
        packed = pack(graph, find_tensors(graph), self.bits, self.sharing)
        if len(packed.content) >= len(graph):
            raise StepError(
                f"packing makes {len(graph):,} bytes into {len(packed.content):,}",
                where=self.name,
                fix="leave this step out, or prune or quantize first",
            )
        began = time.perf_counter()
        expanded = expand_graph(packed.content)
        seconds = time.perf_counter() - began
        golden = conformance.read(parent)
        found, tolerance = None, float(golden["tolerance"])
        if expanded != graph:
            found = difference(parent, expanded, golden)
            tolerance = max(tolerance, round(found * conformance.INT8_SLACK, 4) + conformance.FLOAT_TOLERANCE)
        report: dict[str, Any] = packed.report | {
            "format": format,
            "load_seconds": round(seconds, 4),
            "difference": found,
            "tolerance": tolerance,
            "speed": "as before: it is expanded when it is loaded",
        }
        extra[FORMATS[format] + SUFFIX] = packed.content

        def write(stage: Path) -> None:
            graft.copy_files(parent, others, stage)
            (stage / "onnx").mkdir(exist_ok=True)
            for name, content in extra.items():
                (stage / name).write_bytes(content)
            conformance.write(stage, golden["inputs"], golden["outputs"], tolerance)

        past = parent.manifest.report
        draft = parent.draft(self.name, self.parameters(), report=past | {"packed": report})
        return Bundle.create(context.out, draft, write)


def served(parent: Bundle) -> str:
    """The format of the graph that a server would take.

    Raises:
        StepError: there is none, or it is packed already.
    """
    kind = registry.get("runtimes", "onnxruntime")
    format: str | None = next((name for name in kind.reads if name in parent.formats), None)
    if format is None:
        raise StepError("the bundle has no graph to pack", where=str(parent.path), fix="put export.onnx before")
    if parent.stored(format).endswith(SUFFIX):
        raise StepError("the graph is packed already", where=str(parent.path), fix="leave this step out")
    return format


def difference(parent: Bundle, graph: bytes, golden: dict[str, Any]) -> float:
    """Of the changed graph on the golden rows. Raises StepError when it gives no numbers."""
    task = task_of(parent)
    runtime = registry.get("runtimes", "onnxruntime")(graph)
    with closing(Predictor(task, task.encoder(parent.path), runtime, {})) as predictor:
        found = conformance.difference(predictor, golden)
    if not np.isfinite(found):
        raise StepError("the packed graph gives infinite or no numbers", where="shrink.pack", fix="use more bits")
    return found
