"""4-bit or 8-bit weights for generators: each token of a text reads all weights, so fewer bytes are speed.

Blocks of weights have a scale each; what rounding one input's weights loses, the weights of later inputs make good
(GPTQ: Frantar et al. 2023, arXiv:2210.17323). The vocabulary keeps 8 bits: it is both the first and the last layer.
Each row of activations is rounded by itself, so a text does not depend on those beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.errors import DataError, UsageError
from budwood.core.step import Context, Step
from budwood.core.task import Arrays, Row, Task
from budwood.engine import quantization
from budwood.engine.predictor import task_of

__all__ = ["QuantizeWeights"]

TOKENS = 8192
"""Read for the calibration: the error of 4 bits hardly changes with more, and 124 M parameters take half a minute."""


@final
@dataclass(frozen=True)
class QuantizeWeights(Step):
    """The child writes from its quantized graph and carries no float weights; its parent has those."""

    bits: int = 4
    """Of each weight inside: 4, which gives `onnx-q4`, or 8, which gives `onnx-int8`."""
    block: int = 32
    """Weights that share a scale: 16, 32, 64 or 128. Fewer are closer to the parent, and take more space."""
    calibrate: bool = True
    """Round 4-bit weights for the inputs that training rows give; without such rows, or if off, each by itself."""
    most_noise: float = 0.5
    """Change of the logits on the golden rows, as a share of their own deviation, above which the graph is refused:
    with 4 bits GPT-2 has 0.07, one of 50,000 random weights 0.3, and one whose weights are mixed up more than 1."""

    name: ClassVar[str] = "shrink.quantize_weights"
    takes: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx-q4"})
    tasks: ClassVar[frozenset[str]] = frozenset({"text_generation"})

    def __post_init__(self) -> None:
        if self.bits == 8:  # the one step whose format depends on a parameter
            object.__setattr__(self, "gives", frozenset({"onnx-int8"}))

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Make the child.

        Raises:
            UsageError: no kernel has these parameters.
            StepError: a weight or an answer is no number, or the logits changed too much.
        """
        from budwood.engine.causal_quantization import input_moments, quantize_decoder

        self.check(task_of(parent), parent)
        context.work.mkdir(parents=True, exist_ok=True)
        source, graph = parent.model_file("onnx"), context.work / "quantized.onnx"
        fine = self.bits == 8 or not self.calibrate
        rows = context.splits.train.rows if context.splits is not None and not fine else ()
        context.progress("reading calibration texts", 0, 2, "")
        found = input_moments(source, texts(task_of(parent), parent, rows, context.seed)) if rows else {}
        moments = {name: sums for name, sums in found.items() if sums.ndim == 2}  # no sums where no row was read
        context.progress("rounding weights", 1, 2, "")
        products = quantize_decoder(
            source, graph, "blocks-8" if self.bits == 8 else "blocks-4", block=self.block, moments=moments
        )
        content = graph.read_bytes()
        graph.unlink()
        noise = quantization.check_writer(parent, content, self.most_noise, self.name)
        report = {"products": products, "calibrated": len(moments), "noise": noise}
        return quantization.save_quantized(parent, context, self, content, report, *self.gives)

    def check(self, task: Task, parent: Bundle) -> None:
        if not task.writes:
            raise UsageError(
                f"weights in blocks are for models that write, not for {task.name}",
                where=str(parent.path),
                fix="take shrink.quantize_dynamic",
            )
        if self.bits not in (4, 8):
            raise UsageError(f"bits is {self.bits}", where=f"{self.name}.bits", fix="4 or 8")
        if self.block not in (16, 32, 64, 128):
            raise UsageError(f"block is {self.block}", where=f"{self.name}.block", fix="16, 32, 64 or 128")


def texts(task: Task, parent: Bundle, rows: Sequence[Row], seed: int) -> Iterator[Arrays]:
    """Rows in a random order, one at a time, as a server measures them, until enough tokens were read.

    Rows that a server would refuse are passed by.
    """
    encoder, read = task.encoder(parent.path), 0
    for number in np.random.default_rng(seed).permutation(len(rows)).tolist():
        try:
            inputs = encoder([task.parse(task.item(rows[number]))]).inputs
        except DataError:
            continue
        read += int(inputs["attention_mask"].sum())
        yield inputs | {"num_logits_to_keep": np.asarray(1, np.int64)}
        if read >= TOKENS:
            return
