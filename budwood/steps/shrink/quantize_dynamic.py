"""8-bit weights and, at run time, 8-bit activations: a quarter of the size, and faster where the CPU has the kernels.

The variant is chosen by the instruction set. Without VNNI the 16-bit sums of AVX2 saturate, so weights keep 7 bits
(`reduce_range`); per-channel scales keep the encoder's answers close (cosine 0.99 instead of 0.96).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import StepError, require
from budwood.core.step import Context, Step
from budwood.engine import conformance, graft
from budwood.engine.machine import instruction_set
from budwood.engine.predictor import Predictor, task_of

__all__ = ["QuantizeDynamic"]


@final
@dataclass(frozen=True)
class QuantizeDynamic(Step):
    """The child serves from its int8 graph and carries no float weights; its parent has those."""

    per_channel: bool = True
    reduce_range: bool | None = None
    """None: only where the CPU lacks VNNI."""

    name: ClassVar[str] = "shrink.quantize_dynamic"
    takes: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx-int8"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        context.work.mkdir(parents=True, exist_ok=True)
        graph = context.work / "model_quantized.onnx"
        reduce_range = instruction_set() == "avx2" if self.reduce_range is None else self.reduce_range
        quantize(parent.model_file("onnx"), graph, self.per_channel, reduce_range)
        content = graph.read_bytes()
        graph.unlink()

        task = task_of(parent)
        golden = conformance.read(parent)
        runtime = registry.get("runtimes", "onnxruntime")(content)
        found = conformance.difference(Predictor(task, task.encoder(parent.path), runtime, {}), golden)
        if not np.isfinite(found):
            raise StepError("the int8 graph gives infinite or no numbers", where="shrink.quantize_dynamic")
        tolerance = round(found * conformance.INT8_SLACK, 4) + conformance.FLOAT_TOLERANCE

        def write(stage: Path) -> None:
            graft.copy_files(parent, ("config.json", "pooling.json", *task.preprocessing), stage)
            (stage / "onnx").mkdir()
            (stage / "onnx" / "model_quantized.onnx").write_bytes(content)
            conformance.write(stage, golden["inputs"], golden["outputs"], tolerance)

        report = {"reduce_range": reduce_range, "difference": found, "tolerance": tolerance}
        return Bundle.create(context.out, parent.draft(self.name, self.parameters(), report=report), write)


def quantize(source: Path, target: Path, per_channel: bool, reduce_range: bool) -> None:
    """Signed 8-bit weights, symmetric; every matrix product and lookup that has an integer kernel."""
    import logging

    quantization = require("onnxruntime.quantization", extra="train")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a shape inference that a fused graph neither needs nor passes
    try:
        quantization.quantize_dynamic(
            source,
            target,
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},  # FLOAT, for tensors whose type inference leaves open
        )
    finally:
        logging.disable(before)
