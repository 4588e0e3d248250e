"""What the ways to quantize share: the CPU's variant, calibration rows, layers left in float, the checked child."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core import registry
from budwood.core.bundle import FORMATS, Bundle
from budwood.core.errors import BudwoodError, DataError, StepError, UsageError
from budwood.core.step import Context, Step
from budwood.core.task import Arrays, Encoder, Row, Task
from budwood.engine import conformance, graft
from budwood.engine.machine import instruction_set
from budwood.engine.predictor import Predictor, batches, task_of

__all__ = [
    "LEAST_ROWS",
    "Chosen",
    "Sample",
    "calibration_rows",
    "check_names",
    "check_writer",
    "facts",
    "feeds",
    "float_source",
    "needs_reduced_range",
    "noise_of",
    "remaining",
    "save_int8",
    "save_quantized",
    "strata",
    "with_fallback",
]

LEAST_ROWS = 10
"""Rows without which a range says nothing."""
SAMPLE_ROWS = 32
BATCH = 8
LAST = 16
"""Tokens of a golden row whose logits a generator's graph is held against: a large vocabulary has many of each."""
BINS = 10
DOTS = frozenset({"amx", "vnni", "arm-dot", "arm"})
"""Instruction sets whose sums of 8-bit products have 32 bits, or are widened before they are added."""


def needs_reduced_range() -> bool:
    """Whether weights should keep 7 bits here: without VNNI, x86 adds pairs of products in 16 bits, which overflow."""
    return instruction_set() not in DOTS


def float_source(parent: Bundle, where: str) -> Any:
    """The float graph of a bundle.

    Raises:
        UsageError: the model is quantized already.
        StepError: a weight is infinite or not a number, or the graph is a generator's, which has ways of its own.
    """
    from budwood.engine.quantized_graph import float_graph

    if task_of(parent).writes:
        raise StepError(
            "a generator's graph with its cache is quantized in other ways",
            where=where,
            fix="use shrink.quantize_dynamic or shrink.quantize_weights",
        )
    if "onnx" not in parent.formats and parent.formats & {"onnx-int8", "onnx-q4"}:
        raise UsageError(
            "the model is already quantized",
            where=str(parent.path),
            fix="quantize the float version it came from: budwood models lineage NAME",
        )
    return float_graph(parent.model_file("onnx"), where)


def calibration_rows(task: Task, encoder: Encoder, context: Context, count: int, where: str) -> list[Row]:
    """At most `count` training rows in equal parts of all strata, without those that cannot be read.

    Raises:
        DataError: fewer than ten rows can be used.
    """
    rows = context.splits.train.rows if context.splits is not None else ()
    groups = strata(task, rows) if rows else []
    chosen: list[Row] = []
    for number in in_turns(groups, context.seed):
        if len(chosen) == count:
            break
        if readable(encoder, rows[number]):
            chosen.append(rows[number])
    if len(chosen) < LEAST_ROWS:
        raise DataError(
            f"{len(chosen)} training rows can be used to set the ranges of activations, {LEAST_ROWS} are needed",
            where=where,
            fix=f"pass --data with {LEAST_ROWS} or more readable rows, 100 to 300 are better",
        )
    return chosen


def readable(encoder: Encoder, row: Row) -> bool:
    try:
        inputs = encoder([row]).inputs
    except DataError:
        return False
    return all(np.isfinite(value).all() for name, value in inputs.items() if name != "min_score")


def strata(task: Task, rows: Sequence[Row]) -> list[list[int]]:
    """Row numbers grouped by label, by the tenth of the rows that a number lies in, or, without targets, by length."""
    try:
        targets = task.targets(rows)
    except (BudwoodError, NotImplementedError, KeyError):
        targets = np.asarray(task.lengths(rows), np.float64)
    flat = targets.reshape(len(rows), -1)
    keys: list[Any] = [tuple(row) for row in flat.tolist()]
    if targets.dtype.kind == "f" and len(set(keys)) > BINS:
        ranks = np.argsort(np.argsort(np.nan_to_num(flat[:, 0]), kind="stable"), kind="stable")
        keys = (ranks * BINS // len(rows)).tolist()
    groups: dict[Any, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def in_turns(groups: Sequence[Sequence[int]], seed: int) -> Iterator[int]:
    """One of each group in turn, each group in an order drawn by the seed, until all are used up."""
    random = np.random.default_rng(seed)
    queues = [random.permutation(np.asarray(group)).tolist() for group in groups]
    while queues:
        for queue in queues:
            yield int(queue.pop())
        queues = [queue for queue in queues if queue]


def feeds(task: Task, encoder: Encoder, rows: Sequence[Row], names: Collection[str], size: int) -> Iterator[Arrays]:
    """What a graph with these inputs reads, in batches of like length, each encoded when it is asked for."""
    for numbers in batches(task.lengths(rows), size):
        inputs = encoder([rows[i] for i in numbers]).inputs
        yield {name: inputs[name] for name in names}


@dataclass(frozen=True)
class Sample:
    """A few calibration rows and what the float graph answers on them: what a quantized graph is held against."""

    task: Task
    inputs: Sequence[Arrays]
    expected: NDArray[Any]

    @classmethod
    def of(cls, task: Task, encoder: Encoder, rows: Sequence[Row], graph: bytes) -> "Sample":
        """Up to 32 of the rows, and their logits by the float graph."""
        few = rows[:SAMPLE_ROWS]
        inputs = [encoder([few[i] for i in numbers]).inputs for numbers in batches(task.lengths(few), BATCH)]
        return cls(task, inputs, logits_of(task, inputs, graph))

    def noise(self, graph: bytes) -> float:
        """Root mean square of the change of the logits, as a share of their own deviation between rows."""
        return noise_of(logits_of(self.task, self.inputs, graph), self.expected)

    def seconds(self, graph: bytes, times: int = 3) -> float:
        """The shortest time for the first batch."""
        with closing(registry.get("runtimes", "onnxruntime")(graph)) as runtime:
            found = []
            for _ in range(times + 1):
                began = time.perf_counter()
                runtime.run(self.inputs[0])
                found.append(time.perf_counter() - began)
        return min(found)


def noise_of(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square of `found - expected`, shape (rows, …), by the deviation of `expected` between rows."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    spread = float(np.sqrt(np.mean((expected - expected.mean(axis=0)) ** 2)))
    return float(np.sqrt(np.mean((found - expected) ** 2))) / max(spread, 1e-9)


def logits_of(task: Task, inputs: Sequence[Arrays], graph: bytes) -> NDArray[Any]:
    with closing(registry.get("runtimes", "onnxruntime")(graph)) as runtime:
        parts = [task.finish(batch, runtime.run(batch))["logits"] for batch in inputs]
    return np.concatenate(parts).astype(np.float64)


def check_writer(parent: Bundle, graph: bytes, most_noise: float, where: str) -> float | None:
    """The noise of a generator's quantized graph, see `Sample.noise`: here of the whole vocabulary, between tokens.

    The tokens are the last ones of each golden row; None where there is one token only.

    Raises:
        StepError: the graph writes something else than its parent.
    """
    task = task_of(parent)
    encoder = task.encoder(parent.path)
    rows = [encoder([row]).inputs for row in conformance.parsed(task, conformance.read(parent))]
    expected = vocabulary_logits(parent.read_model("onnx"), rows)
    if len(expected) < 2:
        return None
    noise = noise_of(vocabulary_logits(graph, rows), expected)
    if not noise <= most_noise:
        raise StepError(
            f"the logits moved by {noise:.3g} of their own deviation, at most {most_noise:.3g} is allowed",
            where=f"{where}.most_noise",
            fix="take shrink.quantize_weights with bits = 8, or allow more",
        )
    return noise


def vocabulary_logits(graph: bytes, rows: Sequence[Arrays]) -> NDArray[Any]:
    """(tokens, vocabulary), of the last tokens of each row."""
    with closing(registry.get("runtimes", "onnxruntime")(graph)) as runtime:
        kept = [np.asarray(min(LAST, row["input_ids"].shape[1]), np.int64) for row in rows]
        parts = [
            runtime.run(row | {"num_logits_to_keep": count})["logits"][0] for row, count in zip(rows, kept, strict=True)
        ]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Chosen:
    """A quantized graph, and what was learnt while it was made."""

    graph: bytes
    kept: tuple[str, ...]
    """Layers that stay in float because of what they lost, the worst first."""
    noise: float | None
    """See `Sample.noise`; None where it was not measured."""
    lost: dict[str, float]
    """The noise of each layer when it alone is quantized, the worst first; empty where nothing lost too much."""


def with_fallback(
    make: Callable[[Collection[str]], bytes],
    layers: Sequence[str],
    sample: Sample | None,
    most_noise: float,
    context: Context,
    mend: Callable[[bytes], bytes] = lambda graph: graph,
) -> Chosen:
    """Quantize all layers; where that changes the logits too much, leave those that lose most in float.

    The worst 1, 2, 4, … layers are left out until the noise is low enough, at most half of them. When that is not
    enough, the graph with the least noise is given: whether it is good enough is for a test to say.

    Args:
        make: the quantized graph without the layers that are named.
        sample: without one, all layers are quantized and nothing is measured.
        most_noise: see `Sample.noise`.
        mend: what is done to a graph that may be given; the ranking of layers does without.
    """
    graph = mend(make(()))
    if sample is None:
        return Chosen(graph, (), None, {})
    noise = sample.noise(graph)
    best = Chosen(graph, (), noise, {})
    if noise <= most_noise or len(layers) < 2:
        return best
    lost = ranked(make, layers, sample, context)
    worst, count, least = list(lost), 1, noise
    while count <= len(layers) // 2 and least > most_noise:
        graph = mend(make(worst[:count]))
        noise = sample.noise(graph)
        if noise < least:
            best, least = Chosen(graph, tuple(worst[:count]), noise, lost), noise
        count *= 2
    return replace(best, lost=lost)


def ranked(
    make: Callable[[Collection[str]], bytes], layers: Sequence[str], sample: Sample, context: Context
) -> dict[str, float]:
    """The noise of each layer when it alone is quantized, the worst first."""
    lost = {}
    for number, name in enumerate(layers):
        context.progress("finding the layers that lose most", number, len(layers), name)
        lost[name] = sample.noise(make([other for other in layers if other != name]))
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def facts(chosen: Chosen, kept: Sequence[str]) -> dict[str, Any]:
    """For the bundle: which layers stay in float, by which of them it was measured, and how far the logits moved.

    Args:
        kept: layers that were to stay in float from the start.
    """
    noise = None if chosen.noise is None or not np.isfinite(chosen.noise) else chosen.noise
    return {
        "kept_float": [*kept, *chosen.kept],
        "fell_back": list(chosen.kept),
        "lost": [[name, round(value, 6)] for name, value in chosen.lost.items() if np.isfinite(value)],
        "noise": noise,
    }


def check_names(keep_float: Sequence[str], layers: Sequence[str], where: str) -> list[str]:
    """The layers that the names mean: a layer, or all that begin with the name and a slash.

    Raises:
        UsageError: the graph has no such layer.
    """
    found: list[str] = []
    for name in keep_float:
        meant = [layer for layer in layers if layer == name or layer.startswith(name.rstrip("/") + "/")]
        if not meant:
            near = get_close_matches(name, layers, n=3, cutoff=0.3) or list(layers[:3])
            raise UsageError(f"the graph has no layer {name!a}", where=f"{where}.keep_float", fix=", ".join(near))
        found.extend(meant)
    return found


def remaining(layers: Sequence[str], kept: Collection[str], where: str) -> list[str]:
    """The layers to quantize. Raises StepError when there are none, so that no float graph is called int8."""
    found = [name for name in layers if name not in kept]
    if not found:
        raise StepError(
            f"none of the {len(layers)} layers is left to quantize",
            where=where,
            fix="keep fewer layers in float; a model of one layer is served as it is",
        )
    return found


def save_int8(parent: Bundle, context: Context, step: Step, graph: bytes, report: dict[str, Any]) -> Bundle:
    """Commit an int8 graph as the child of `parent`. Raises as `save_quantized`."""
    return save_quantized(parent, context, step, graph, report, "onnx-int8")


def save_quantized(
    parent: Bundle, context: Context, step: Step, graph: bytes, report: dict[str, Any], format: str
) -> Bundle:
    """Commit a quantized graph as the child of `parent`; it serves from it and carries no float weights.

    Raises:
        StepError: ONNX Runtime does not run it on the golden rows, or it gives infinite or no numbers.
    """
    task = task_of(parent)
    golden = conformance.read(parent)
    runtime = registry.get("runtimes", "onnxruntime")(graph)
    with closing(Predictor(task, task.encoder(parent.path), runtime, {})) as predictor:
        found = conformance.difference(predictor, golden)
    if not np.isfinite(found):
        raise StepError("the quantized graph gives infinite or no numbers", where=step.name)
    tolerance = round(found * conformance.INT8_SLACK, 4) + conformance.FLOAT_TOLERANCE

    def write(stage: Path) -> None:
        graft.copy_files(parent, ("config.json", "pooling.json", *task.preprocessing), stage)
        (stage / "onnx").mkdir()
        (stage / FORMATS[format]).write_bytes(graph)
        conformance.write(stage, golden["inputs"], golden["outputs"], tolerance)

    facts = {**report, "difference": found, "tolerance": tolerance}
    return Bundle.create(context.out, parent.draft(step.name, step.parameters(), report=facts), write)
