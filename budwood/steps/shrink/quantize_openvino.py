"""8-bit weights and activations by NNCF, OpenVINO's compression framework: its ranges, and biases that it corrects.

It works on the ONNX graph and gives the QDQ form, so that the child runs on ONNX Runtime and OpenVINO alike.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError, UsageError, require
from budwood.core.step import Context, Step
from budwood.core.task import Arrays, Row
from budwood.engine import quantization
from budwood.engine.predictor import batches, task_of

__all__ = ["QuantizeOpenvino"]

BATCH = 8
TELEMETRY = "openvino_telemetry"


@final
@dataclass(frozen=True)
class QuantizeOpenvino(Step):
    """The child serves from its int8 graph; needs the extra `openvino`."""

    rows: int = 300
    """Training rows that set the ranges of activations, in equal parts of all labels."""
    exact_bias: bool = False
    """Correct biases layer by layer instead of all from one pass: slower, and now and then closer."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay in float, by the names of their nodes."""

    name: ClassVar[str] = "shrink.quantize_openvino"
    takes: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx-int8"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        if self.rows < quantization.LEAST_ROWS:
            raise UsageError(f"{self.rows} rows are too few", where=f"{self.name}.rows", fix="give 100 to 300")
        from budwood.engine import quantized_graph as graphs

        with silent_nncf():  # so that a missing extra is told before any work
            pass
        model = graphs.prepared(quantization.float_source(parent, self.name), context.work)
        task = task_of(parent)
        encoder = task.encoder(parent.path)
        rows = quantization.calibration_rows(task, encoder, context, self.rows, self.name)
        sample = quantization.Sample.of(task, encoder, rows, model.SerializeToString())
        every, final = graphs.layers(model), graphs.final_layers(model)
        kept = [*quantization.check_names(self.keep_float, every, self.name), *final]
        quantization.remaining(every, kept, self.name)
        names = [item.name for item in model.graph.input]
        groups = [[rows[i] for i in numbers] for numbers in batches(task.lengths(rows), BATCH)]

        def feed(group: Sequence[Row]) -> Arrays:
            return next(quantization.feeds(task, encoder, group, names, BATCH))

        with silent_nncf(), graphs.quiet():
            made = self.quantized(model, groups, feed, kept, graphs.is_transformer(model))
        content: bytes = graphs.compact(graphs.unsigned(made)).SerializeToString()
        report = {
            "calibration": {"rows": len(rows), "method": "nncf"},
            "layers": len(every),
            "float_operators": graphs.float_operators(content),
            **quantization.facts(quantization.Chosen(content, (), sample.noise(content), {}), kept),
        }
        return quantization.save_int8(parent, context, self, content, report)

    def quantized(
        self,
        model: Any,
        groups: Sequence[Sequence[Row]],
        feed: Callable[[Sequence[Row]], Arrays],
        kept: Sequence[str],
        transformer: bool,
    ) -> Any:
        """Batches are encoded when NNCF asks for them. Raises StepError where it does not take the graph."""
        nncf = require("nncf", extra="openvino")
        advanced = require("nncf.quantization.advanced_parameters", extra="openvino")
        # One range for all channels of an activation: ONNX Runtime computes in float where each has its own.
        whole = advanced.QuantizationParameters(per_channel=False)
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(groups, feed),
                preset=nncf.QuantizationPreset.MIXED,
                advanced_parameters=advanced.AdvancedQuantizationParameters(activations_quantization_params=whole),
                subset_size=len(groups),
                fast_bias_correction=not self.exact_bias,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
            )
        except Exception as error:  # its kinds of errors share no base
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise StepError(
                f"NNCF cannot quantize the graph: {first[:200]}", where=self.name, fix="use shrink.quantize_static"
            ) from error


@contextlib.contextmanager
def silent_nncf() -> Iterator[None]:
    """NNCF without a word to its makers or to the terminal: it is loaded as if their telemetry were not installed."""
    hidden = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # an import then fails, which NNCF is prepared for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nncf = require("nncf", extra="openvino")
            decorator: Any = require("nncf.telemetry.decorator", extra="openvino")
            wrapper: Any = require("nncf.telemetry.wrapper", extra="openvino")
            decorator.telemetry = wrapper.telemetry = wrapper.NNCFTelemetryStub()  # where others had loaded it before
            nncf.set_log_level(logging.ERROR)
            yield
    finally:
        del sys.modules[TELEMETRY]
        if hidden is not None:
            sys.modules[TELEMETRY] = hidden
