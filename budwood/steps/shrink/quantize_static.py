"""8-bit weights and activations with fixed ranges: the way for convolutional networks, where it multiplies the speed.

The ranges are those that training rows show, read as the server reads them. Affine quantization with one scale for each
output channel of the weights (Jacob et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342). Then biases
are corrected (Nagel et al. 2019, arXiv:1906.04721).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from budwood.core.bundle import Bundle
from budwood.core.errors import UsageError
from budwood.core.step import Context, Step
from budwood.engine import quantization
from budwood.engine.machine import instruction_set
from budwood.engine.predictor import task_of

__all__ = ["QuantizeStatic"]

BATCH = 8
CORRECTING = 64
"""So many of the last calibration rows correct the biases; the noise is measured on the first."""
CLEARLY = 0.9


@final
@dataclass(frozen=True)
class QuantizeStatic(Step):
    """The child serves from its int8 graph, in the QDQ form that other runtimes read too. Its head stays in float."""

    rows: int = 300
    """Training rows that set the ranges of activations, in equal parts of all labels."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.99
    """Share of an activation's values that its range holds, in percent; for `percentile` only."""
    activations: Literal["auto", "unsigned", "signed"] = "auto"
    """`auto` takes signed ones only where this CPU is faster with them."""
    per_channel: bool = True
    reduce_range: bool | None = None
    """7-bit weights; None: only where the CPU lacks VNNI."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay in float, by the names of their nodes."""
    correct_biases: bool = True
    """Undo the shifts of the means that rounding brings, layer by layer; see `engine/bias_correction.py`."""
    most_noise: float = 0.15
    """Change of the logits, as a share of their own deviation between rows, above which the layers that lose most stay
    in float."""

    name: ClassVar[str] = "shrink.quantize_static"
    takes: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx-int8"})

    def inputs(self) -> str:
        """The instruction set of this CPU, which decides between 7 and 8 bits, and which activations are fast."""
        return instruction_set()

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        self.check()
        from budwood.engine import quantized_graph as graphs
        from budwood.engine.bias_correction import corrected

        model = graphs.prepared(quantization.float_source(parent, self.name), context.work)
        task = task_of(parent)
        encoder = task.encoder(parent.path)
        context.progress("choosing calibration rows", 0, self.rows, "")
        rows = quantization.calibration_rows(task, encoder, context, self.rows, self.name)
        names = [item.name for item in model.graph.input]
        found = quantization.feeds(task, encoder, rows, names, BATCH)
        ranges = graphs.calibrated(model, found, self.method, self.percentile, context.work)
        sample = quantization.Sample.of(task, encoder, rows, model.SerializeToString())

        every, final = graphs.layers(model), graphs.final_layers(model)
        kept = quantization.check_names(self.keep_float, every, self.name)
        layers = quantization.remaining(every, {*kept, *final}, self.name)
        reduced = quantization.needs_reduced_range() if self.reduce_range is None else self.reduce_range

        def graph(more: Collection[str], signed: bool) -> bytes:
            left = {*kept, *final, *more}
            return graphs.static_graph(
                model, ranges, left, signed=signed, per_channel=self.per_channel, reduce_range=reduced
            )

        times = self.times(graph, sample)
        signed = times["signed"] < CLEARLY * times["unsigned"] if times else self.activations == "signed"

        def mend(content: bytes) -> bytes:
            if not self.correct_biases:
                return content
            context.progress("correcting biases", 0, 1, "")
            few = quantization.feeds(task, encoder, rows[-CORRECTING:], names, BATCH)
            return corrected(content, model, list(few))

        chosen = quantization.with_fallback(
            lambda more: graph(more, signed), layers, sample, self.most_noise, context, mend
        )
        report = {
            "scheme": f"{'S8' if signed else 'U8'}S8{' per channel' if self.per_channel else ''}",
            "activations_ms": {name: round(1000 * seconds, 3) for name, seconds in times.items()},
            "reduce_range": reduced,
            "biases": "corrected" if self.correct_biases else "as they were",
            "calibration": {"rows": len(rows), "method": self.method},
            "layers": len(every),
            "float_operators": graphs.float_operators(chosen.graph),
            **quantization.facts(chosen, [*kept, *final]),
        }
        return quantization.save_int8(parent, context, self, chosen.graph, report)

    def check(self) -> None:
        """Raises UsageError where a parameter is out of range."""
        if self.rows < quantization.LEAST_ROWS:
            raise UsageError(f"{self.rows} rows are too few", where=f"{self.name}.rows", fix="give 100 to 300")
        if not 90 <= self.percentile < 100:
            raise UsageError(
                f"{self.percentile} is no share to keep", where=f"{self.name}.percentile", fix="give 99.9 to 99.999"
            )

    def times(self, graph: Callable[[Collection[str], bool], bytes], sample: quantization.Sample) -> dict[str, float]:
        """Seconds for a batch with either kind of activations; empty where the kind is given.

        Unsigned ones have twice the steps behind a ReLU, so signed ones have to be clearly faster.
        """
        if self.activations != "auto":
            return {}
        return {name: sample.seconds(graph((), name == "signed")) for name in ("unsigned", "signed")}
