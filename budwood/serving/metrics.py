"""Figures of all worker processes in one shared array: each writes its own row, any of them can add the rows up.

Use `Metrics` to write in a worker, `Board` to read. A restarted worker goes on in its row, so that counters never fall.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from ctypes import Array, c_double
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import Any

__all__ = ["Board", "Described", "Layout", "Metrics", "allocate"]

STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 431, 499, 500, 503, 504)
DURATIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of seconds."""
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the histogram of batch sizes."""
COUNTERS = {
    "cancelled": "Requests whose client went away before the answer.",
    "expired": "Requests that were not answered in time (504).",
    "rejected": "Requests refused because the queue was full or the server drains (503).",
    "failed_inputs": "Inputs on which the model failed, alone; their batch mates were answered.",
    "written_tokens": "Tokens of texts that were written.",
    "worker_restarts": "Worker processes that ended unexpectedly and were started again.",
}
GAUGES = {
    "queue_depth": "Inputs that wait for a runner.",
    "texts": "Texts that are written or wait for it.",
    "connections": "Open connections.",
    "workers_ready": "Worker processes that answer.",
}
SECONDS = 32
"""Length of the ring of one-second slots for the live figures."""
WINDOW = 10
"""The live figures cover this many whole seconds."""
LIVE_BUCKETS = 128
LIVE_FIRST, LIVE_RATIO = 1e-4, 1.12
"""The live histogram's buckets: the first ends at 0.1 ms, each further one 12 % later, the last at 180 s."""


@dataclass(frozen=True)
class Described:
    """What the figures say of one model."""

    name: str
    version: str
    labels: tuple[str, ...]


class Layout:
    """Where each figure is in a row of doubles. All processes compute the same one from the same models."""

    def __init__(self, models: Sequence[Described], workers: int) -> None:
        self.models = tuple(models)
        self.workers = workers
        self.size = 0
        self.scalars = {name: self.take(1) for name in (*COUNTERS, *GAUGES)}
        self.batches = self.take(len(SIZES) + 2)
        self.statuses = [self.take(len(STATUSES)) for _ in range(len(self.models))]
        self.durations = [self.take(len(DURATIONS) + 2) for _ in self.models]
        self.predictions = [self.take(len(model.labels)) for model in self.models]
        self.live = self.take(SECONDS * (LIVE_BUCKETS + 1))

    def take(self, cells: int) -> int:
        start = self.size
        self.size += cells
        return start

    @property
    def rows(self) -> int:
        """One row a worker, and one for their supervisor."""
        return self.workers + 1


def allocate(layout: Layout) -> "Array[c_double]":
    """The shared memory, zeroed. It passes to child processes by fork and by spawn."""
    return RawArray(c_double, layout.rows * layout.size)


class Metrics:
    """One worker's row. Called from its event loop only, so nothing is locked."""

    def __init__(self, layout: Layout, memory: "Array[c_double]", row: int) -> None:
        start = row * layout.size
        self.layout = layout
        self.row = memoryview(memory).cast("B").cast("d")[start : start + layout.size]
        self.labels = [{label: i for i, label in enumerate(model.labels)} for model in layout.models]
        for name in GAUGES:
            self.gauge(name, 0)

    def count(self, counter: str, amount: int = 1) -> None:
        self.row[self.layout.scalars[counter]] += amount

    def gauge(self, name: str, value: float) -> None:
        self.row[self.layout.scalars[name]] = value

    def batch(self, size: int) -> None:
        self.observe(self.layout.batches, SIZES, size)

    def request(self, model: int, status: int, seconds: float) -> None:
        """One finished request to a model's routes."""
        row, layout = self.row, self.layout
        row[layout.statuses[model] + STATUSES.index(status)] += 1
        if status == 200:
            self.observe(layout.durations[model], DURATIONS, seconds)
            second = int(time.monotonic())
            slot = layout.live + second % SECONDS * (LIVE_BUCKETS + 1)
            if row[slot] != second:
                row[slot : slot + LIVE_BUCKETS + 1] = NO_REQUESTS
                row[slot] = second
            row[slot + 1 + live_bucket(seconds)] += 1

    def answered(self, model: int, answer: Mapping[str, Any]) -> None:
        """Count the label or the labels of one answer, or each of its objects."""
        labels, start = self.labels[model], self.layout.predictions[model]
        several = answer.get("labels") or [item["label"] for item in answer.get("objects", ())]
        for label in (answer["label"],) if "label" in answer else several:
            if label in labels:
                self.row[start + labels[label]] += 1

    def observe(self, start: int, bounds: Sequence[float], value: float) -> None:
        self.row[start + bisect_left(bounds, value)] += 1
        self.row[start + len(bounds) + 1] += value


NO_REQUESTS = memoryview(bytearray(8 * (LIVE_BUCKETS + 1))).cast("d")


def live_bucket(seconds: float) -> int:
    if seconds <= LIVE_FIRST:
        return 0
    return min(LIVE_BUCKETS - 1, math.ceil(math.log(seconds / LIVE_FIRST) / math.log(LIVE_RATIO)))


class Board:
    """Reads all rows: the Prometheus text for /metrics, and the live figures of the page."""

    def __init__(self, layout: Layout, memory: "Array[c_double]") -> None:
        self.layout = layout
        self.memory = memoryview(memory).cast("B").cast("d")

    def cells(self, start: int, count: int) -> list[float]:
        """The sums over all rows of some neighbouring cells."""
        size = self.layout.size
        rows = [self.memory[row * size + start : row * size + start + count] for row in range(self.layout.rows)]
        return [sum(values) for values in zip(*rows, strict=True)]

    def scalar(self, name: str) -> float:
        return self.cells(self.layout.scalars[name], 1)[0]

    def text(self) -> str:
        """All figures in the Prometheus text format, version 0.0.4."""
        layout = self.layout
        lines = []
        for name, meaning in COUNTERS.items():
            lines += [*head(f"{name}_total", "counter", meaning), f"budwood_{name}_total {number(self.scalar(name))}"]
        for name, meaning in GAUGES.items():
            lines += [*head(name, "gauge", meaning), f"budwood_{name} {number(self.scalar(name))}"]
        lines += head("batch_size", "histogram", "Inputs in a batch.")
        lines += self.histogram("batch_size", layout.batches, SIZES, "")
        lines += head("model_info", "gauge", "The models that are served.")
        lines += [f"budwood_model_info{{{names(model)}}} 1" for model in layout.models]
        lines += head("requests_total", "counter", "Finished requests to a model, by HTTP status.")
        for model, start in zip(layout.models, layout.statuses, strict=True):
            counts = zip(STATUSES, self.cells(start, len(STATUSES)), strict=True)
            lines += [
                f'budwood_requests_total{{{names(model)},code="{status}"}} {number(value)}'
                for status, value in counts
                if value or status == 200
            ]
        lines += head("request_duration_seconds", "histogram", "From the request's headers to its answer, if 200.")
        for model, start in zip(layout.models, layout.durations, strict=True):
            lines += self.histogram("request_duration_seconds", start, DURATIONS, names(model))
        lines += head("predictions_total", "counter", "Answers, by label.")
        for i, model in enumerate(layout.models):
            for label, value in self.predictions(i).items():
                lines.append(f'budwood_predictions_total{{{names(model)},label="{escape(label)}"}} {number(value)}')
        return "\n".join(lines) + "\n"

    def histogram(self, name: str, start: int, bounds: Sequence[float], labels: str) -> list[str]:
        cells = self.cells(start, len(bounds) + 2)
        comma, braces = ("," if labels else ""), (f"{{{labels}}}" if labels else "")
        lines, seen = [], 0.0
        for bound, value in zip((*bounds, math.inf), cells[:-1], strict=True):
            seen += value
            edge = "+Inf" if math.isinf(bound) else f"{float(bound)}"
            lines.append(f'budwood_{name}_bucket{{{labels}{comma}le="{edge}"}} {number(seen)}')
        total = f"budwood_{name}_sum{braces} {number(cells[-1])}"
        return [*lines, total, f"budwood_{name}_count{braces} {number(seen)}"]

    def predictions(self, model: int) -> dict[str, float]:
        labels = self.layout.models[model].labels
        return dict(zip(labels, self.cells(self.layout.predictions[model], len(labels)), strict=True))

    def live(self) -> dict[str, Any]:
        """The last ten whole seconds: requests a second, p50 and p95 in milliseconds (None without requests)."""
        now = int(time.monotonic())
        counts = [0.0] * LIVE_BUCKETS
        per_second = [0.0] * WINDOW
        for row in range(self.layout.rows):
            for back in range(1, WINDOW + 1):
                second = now - back
                slot = row * self.layout.size + self.layout.live + second % SECONDS * (LIVE_BUCKETS + 1)
                if self.memory[slot] == second:
                    values = self.memory[slot + 1 : slot + LIVE_BUCKETS + 1]
                    per_second[WINDOW - back] += sum(values)
                    counts = [a + b for a, b in zip(counts, values, strict=True)]
        total = sum(counts)
        return {
            "window_seconds": WINDOW,
            "requests_per_second": round(total / WINDOW, 1),
            "per_second": per_second,
            "p50_ms": quantile_ms(counts, 0.5),
            "p95_ms": quantile_ms(counts, 0.95),
            "queue_depth": int(self.scalar("queue_depth")),
            "workers_ready": int(self.scalar("workers_ready")),
        }


def quantile_ms(counts: Sequence[float], q: float) -> float | None:
    """The upper edge of the bucket that holds the quantile; at most 12 % too high."""
    wanted, seen = q * sum(counts), 0.0
    for bucket, value in enumerate(counts):
        seen += value
        if value and seen >= wanted:
            return round(LIVE_FIRST * LIVE_RATIO**bucket * 1e3, 2)
    return None


def head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP budwood_{name} {meaning}", f"# TYPE budwood_{name} {kind}"]


def names(model: Described) -> str:
    return f'model="{escape(model.name)}",version="{escape(model.version)}"'


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
