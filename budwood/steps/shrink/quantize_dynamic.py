"""8-bit weights and, at run time, 8-bit activations: a quarter of the size, and faster where the CPU has the kernels.

The variant is chosen by the instruction set. Without VNNI the 16-bit sums of AVX2 saturate, so weights keep 7 bits
(`reduce_range`); per-channel scales keep the encoder's answers close (cosine 0.99 instead of 0.96).
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError, UsageError
from budwood.core.step import Context, Step
from budwood.engine import quantization
from budwood.engine.machine import instruction_set
from budwood.engine.predictor import task_of

__all__ = ["QuantizeDynamic"]

NOT_FOR_GENERATORS = ("per_channel", "keep_float")
"""A generator's products all have a scale for each output, and none of them stays in float."""


@final
@dataclass(frozen=True)
class QuantizeDynamic(Step):
    """The child serves from its int8 graph and carries no float weights; its parent has those."""

    per_channel: bool = True
    reduce_range: bool | None = None
    """None: only where the CPU lacks VNNI."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay in float, by the names of their nodes."""
    most_noise: float = 0.25
    """Change of the logits on training rows, as a share of their own deviation between rows, above which the layers
    that lose most stay in float. A generator's graph is refused above it."""

    name: ClassVar[str] = "shrink.quantize_dynamic"
    takes: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx-int8"})

    def inputs(self) -> str:
        """The instruction set of this CPU, which decides between 7 and 8 bits."""
        return instruction_set()

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        from budwood.engine import quantized_graph as graphs

        if task_of(parent).writes:
            return self.decoder(parent, context)
        model = quantization.float_source(parent, self.name)
        context.work.mkdir(parents=True, exist_ok=True)
        every = graphs.dynamic_layers(model)
        if not every:
            raise StepError(
                "the graph has no matrix product that can be quantized at run time",
                where=self.name,
                fix="convolutions need fixed ranges: shrink.quantize_static",
            )
        kept = quantization.check_names(self.keep_float, every, self.name)
        reduced = quantization.needs_reduced_range() if self.reduce_range is None else self.reduce_range

        def graph(more: Collection[str]) -> bytes:
            return graphs.dynamic_graph(model, {*kept, *more}, self.per_channel, reduced, context.work)

        sample = self.sample(parent, context, model)
        chosen = quantization.with_fallback(
            graph, [name for name in every if name not in kept], sample, self.most_noise, context
        )
        facts = {"reduce_range": reduced, "layers": len(every), **quantization.facts(chosen, kept)}
        facts["float_operators"] = graphs.float_operators(chosen.graph)
        return quantization.save_int8(parent, context, self, chosen.graph, facts)

    def decoder(self, parent: Bundle, context: Context) -> Bundle:
        """The graph of a generator: all its products, and one table for the vocabulary in and out."""
        from budwood.engine.causal_quantization import quantize_decoder

        for item in fields(self):
            if item.name in NOT_FOR_GENERATORS and getattr(self, item.name) != item.default:
                raise UsageError(
                    f"{item.name} has no effect on generators",
                    where=f"{self.name}.{item.name}",
                    fix="leave it out; shrink.quantize_weights has a scale for each block of weights",
                )
        context.work.mkdir(parents=True, exist_ok=True)
        graph = context.work / "model_quantized.onnx"
        reduced = quantization.needs_reduced_range() if self.reduce_range is None else self.reduce_range
        products = quantize_decoder(parent.model_file("onnx"), graph, "int8", reduce_range=reduced)
        content = graph.read_bytes()
        graph.unlink()
        noise = quantization.check_writer(parent, content, self.most_noise, self.name)
        report = {"reduce_range": reduced, "layers": products, "noise": noise}
        return quantization.save_int8(parent, context, self, content, report)

    def sample(self, parent: Bundle, context: Context, model: Any) -> quantization.Sample | None:
        """What the int8 graph is held against; None without training rows, since ranges are found without them."""
        if context.splits is None or len(context.splits.train) < quantization.LEAST_ROWS:
            return None
        task = task_of(parent)
        encoder = task.encoder(parent.path)
        rows = quantization.calibration_rows(task, encoder, context, quantization.SAMPLE_ROWS, self.name)
        return quantization.Sample.of(task, encoder, rows, model.SerializeToString())
