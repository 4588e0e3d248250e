"""Figures of all worker processes in one shared array: each writes its own row, any of them can add the rows up.

Use `Metrics` to write in a worker, `Board` to read. A restarted worker goes on in its row, so that counters never fall.
A further figure of each model is an entry of `FIGURES`, a method of `Metrics` that writes it and lines in `Board.text`.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from ctypes import Array, c_double
from dataclasses import dataclass
from typing import Any

from budwood.serving import recent
from budwood.serving.slots import Described, Layout, Slots, allocate, read_slot

__all__ = ["Board", "Described", "Layout", "Metrics", "Seen", "allocate", "make_layout"]

STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 499, 500, 503, 504)
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
    "log_entries_written": "Answers that the prediction log has.",
    "log_entries_dropped": "Answers that the prediction log had no room for.",
    "log_entries_failed": "Answers that the prediction log could not write, as when the disk was full.",
    "worker_restarts": "Worker processes that ended unexpectedly and were started again.",
    "worker_replacements": "Worker processes that were replaced because they took too much memory.",
    "model_loads": "Models that were opened while the server ran: later versions, and those that had been closed.",
    "model_evictions": "Models that were closed because others needed their memory.",
    "reload_failures": "Models, later versions most of all, that could not be opened; the version before goes on.",
}
GAUGES = {
    "queue_depth": "Inputs that wait for a runner.",
    "texts": "Texts that are written or wait for it.",
    "connections": "Open connections.",
    "models_open": "Models that are open, over all workers.",
    "workers_ready": "Worker processes that answer.",
}
SECONDS = 32
"""Length of the ring of one-second slots for the live figures."""
WINDOW = 10
"""The live figures cover this many whole seconds."""
LIVE_BUCKETS = 128
LIVE_FIRST, LIVE_RATIO = 1e-4, 1.12
"""The live histogram's buckets: the first ends at 0.1 ms, each further one 12 % later, the last at 180 s."""


CONFIDENCES = tuple(i / 10 for i in range(1, 11))
"""Upper bounds of the histogram of the best score."""
EDGES = 9
"""The most upper bounds of the histogram of numbers; each model has its own."""
SHARED = {"batches": len(SIZES) + 2, "keys": recent.KEYS.cells}
"""Cells of figures of a whole worker. A histogram has a cell for each bound, one for the rest and one for the sum."""
FIGURES = {
    "statuses": len(STATUSES),
    "durations": len(DURATIONS) + 2,
    "live": SECONDS * (LIVE_BUCKETS + 1),
    "confidences": len(CONFIDENCES) + 2,
    "values": EDGES + 2,
    "answers": recent.ANSWERS.cells,
    "insights": recent.INSIGHTS.cells,
}
"""Cells of the figures of one version of a model in one worker."""


def make_layout(models: Sequence[Described], workers: int) -> Layout:
    """Where the figures of a server with these models are."""
    return Layout(models, workers, (*COUNTERS, *GAUGES), SHARED, FIGURES)


class Metrics:
    """One worker's row. Called from its event loop only, so nothing is locked."""

    def __init__(self, layout: Layout, memory: "Array[c_double]", row: int) -> None:
        start = row * layout.size
        self.layout = layout
        self.row = memoryview(memory).cast("B").cast("d")[start : start + layout.size]
        self.slots = Slots(layout, self.row)
        for name in GAUGES:
            self.gauge(name, 0)

    def claim(self, model: Described) -> int:
        """The slot for the figures of a version that begins to answer; `model` in the methods below is such a slot.

        Raises:
            BudwoodError: every slot is in use.
        """
        return self.slots.claim(model)

    def release(self, model: int) -> None:
        """A version answers no more. Its figures stay until its slot is needed for another."""
        self.slots.release(model)

    def count(self, counter: str, amount: int = 1) -> None:
        self.row[self.layout.scalars[counter]] += amount

    def gauge(self, name: str, value: float) -> None:
        self.row[self.layout.scalars[name]] = value

    def batch(self, size: int) -> None:
        self.observe(self.layout.shared["batches"], SIZES, size)

    def request(self, model: int, status: int, seconds: float) -> None:
        """One finished request to a model's routes."""
        row, starts = self.row, self.layout.slots[model]
        row[starts["statuses"] + STATUSES.index(status)] += 1
        if status == 200:
            self.observe(starts["durations"], DURATIONS, seconds)
            second = int(time.monotonic())
            slot = starts["live"] + second % SECONDS * (LIVE_BUCKETS + 1)
            if row[slot] != second:
                row[slot : slot + LIVE_BUCKETS + 1] = NO_REQUESTS
                row[slot] = second
            row[slot + 1 + live_bucket(seconds)] += 1

    def answered(self, model: int, answer: Mapping[str, Any]) -> None:
        """Count the label or the labels of one answer, or each of its objects."""
        places = self.slots.places[model]
        several = answer.get("labels") or [item["label"] for item in answer.get("objects", ())]
        for label in (answer["label"],) if "label" in answer else several:
            if label in places:
                self.row[places[label]] += 1

    def observe(self, start: int, bounds: Sequence[float], value: float) -> None:
        self.row[start + bisect_left(bounds, value)] += 1
        self.row[start + len(bounds) + 1] += value


NO_REQUESTS = memoryview(bytearray(8 * (LIVE_BUCKETS + 1))).cast("d")


def live_bucket(seconds: float) -> int:
    if seconds <= LIVE_FIRST:
        return 0
    return min(LIVE_BUCKETS - 1, math.ceil(math.log(seconds / LIVE_FIRST) / math.log(LIVE_RATIO)))


@dataclass(frozen=True)
class Seen:
    """A version of a model in the figures."""

    model: Described
    places: tuple[tuple[int, int], ...]
    """The rows and slots that it has."""
    answers: bool
    """Whether a worker still answers with it."""


class Board:
    """Reads all rows: the Prometheus text for /metrics, and the live figures of the page."""

    def __init__(self, layout: Layout, memory: "Array[c_double]") -> None:
        self.layout = layout
        self.memory = memoryview(memory).cast("B").cast("d")
        self.read: dict[tuple[int, int], tuple[float, Described]] = {}
        """What was read in each row and slot, with the number of its claim."""

    def row(self, row: int) -> "memoryview[float]":
        return self.memory[row * self.layout.size : (row + 1) * self.layout.size]

    def described(self, row: int, slot: int) -> Described | None:
        number = self.row(row)[self.layout.slots[slot]["number"]]
        known, model = self.read.get((row, slot), (0.0, None))
        if number and number != known:
            model = read_slot(self.layout, self.row(row), slot)
            if model is not None:
                self.read[row, slot] = number, model
        return model if number else None

    def models(self) -> list[Seen]:
        """Every version that has figures, in the order in which they began to answer."""
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        named: dict[tuple[str, str], Described] = {}
        for row in range(self.layout.rows):
            for slot in sorted(range(self.layout.count), key=lambda i: self.row(row)[self.layout.slots[i]["number"]]):
                model = self.described(row, slot)
                if model is not None:
                    found.setdefault(model.key, []).append((row, slot))
                    named.setdefault(model.key, model)
        return [Seen(named[key], tuple(places), self.answering(places)) for key, places in found.items()]

    def find(self, name: str, version: str) -> Seen | None:
        """A version by its name; None where it has no figures."""
        return next((seen for seen in self.models() if seen.model.key == (name, version)), None)

    def answering(self, places: Sequence[tuple[int, int]]) -> bool:
        return any(not self.row(row)[self.layout.slots[slot]["released"]] for row, slot in places)

    def figure(self, seen: Seen, name: str) -> list[float]:
        """The cells of one of `FIGURES` for a version, summed over the workers."""
        count = self.layout.sizes[name]
        starts = [(row, self.layout.slots[slot][name]) for row, slot in seen.places]
        rows = [self.row(row)[start : start + count] for row, start in starts]
        return [sum(values) for values in zip(*rows, strict=True)]

    def cells(self, start: int, count: int) -> list[float]:
        """The sums over all rows of some neighbouring cells."""
        size = self.layout.size
        rows = [self.memory[row * size + start : row * size + start + count] for row in range(self.layout.rows)]
        return [sum(values) for values in zip(*rows, strict=True)]

    def scalar(self, name: str) -> float:
        return self.cells(self.layout.scalars[name], 1)[0]

    def text(self) -> str:
        """All figures in the Prometheus text format, version 0.0.4."""
        models = self.models()
        lines: list[str] = []
        for name, meaning in COUNTERS.items():
            lines += [*head(f"{name}_total", "counter", meaning), f"budwood_{name}_total {number(self.scalar(name))}"]
        for name, meaning in GAUGES.items():
            lines += [*head(name, "gauge", meaning), f"budwood_{name} {number(self.scalar(name))}"]
        lines += head("batch_size", "histogram", "Inputs in a batch.")
        lines += histogram("batch_size", self.cells(self.layout.shared["batches"], len(SIZES) + 2), SIZES, "")
        lines += head("model_info", "gauge", "The models that are served.")
        lines += [f"budwood_model_info{{{names(seen.model)}}} 1" for seen in models if seen.answers]
        lines += head("requests_total", "counter", "Finished requests to a model, by HTTP status.")
        for seen in models:
            lines += [
                f'budwood_requests_total{{{names(seen.model)},code="{status}"}} {number(value)}'
                for status, value in zip(STATUSES, self.figure(seen, "statuses"), strict=True)
                if value or status == 200
            ]
        lines += head("request_duration_seconds", "histogram", "From the request's headers to its answer, if 200.")
        for seen in models:
            durations = self.figure(seen, "durations")
            lines += histogram("request_duration_seconds", durations, DURATIONS, names(seen.model))
        lines += head("predictions_total", "counter", "Answers, by label.")
        for seen in models:
            for label, value in self.predictions(seen).items():
                lines.append(
                    f'budwood_predictions_total{{{names(seen.model)},label="{escape(label)}"}} {number(value)}'
                )
        return "\n".join(lines) + "\n"

    def predictions(self, seen: Seen | None) -> dict[str, float]:
        """Answers of a version by label."""
        counts: dict[str, float] = {}
        for row, slot in seen.places if seen else ():
            model, start = self.described(row, slot), self.layout.slots[slot]["predictions"]
            for i, label in enumerate(model.labels if model is not None else ()):
                counts[label] = counts.get(label, 0.0) + self.row(row)[start + i]
        return counts

    def live(self, of: Seen | None = None) -> dict[str, Any]:
        """The last ten whole seconds: requests a second, p50, p95 and p99 in milliseconds (None without requests).

        `of` one version, or of all together.
        """
        now = int(time.monotonic())
        counts = [0.0] * LIVE_BUCKETS
        per_second = [0.0] * WINDOW
        for row, slot in [place for seen in ([of] if of else self.models()) for place in seen.places]:
            cells, first = self.row(row), self.layout.slots[slot]["live"]
            for back in range(1, WINDOW + 1):
                second = now - back
                start = first + second % SECONDS * (LIVE_BUCKETS + 1)
                if cells[start] == second:
                    values = cells[start + 1 : start + LIVE_BUCKETS + 1]
                    per_second[WINDOW - back] += sum(values)
                    counts = [a + b for a, b in zip(counts, values, strict=True)]
        total = sum(counts)
        return {
            "window_seconds": WINDOW,
            "requests_per_second": round(total / WINDOW, 1),
            "per_second": per_second,
            "p50_ms": quantile_ms(counts, 0.5),
            "p95_ms": quantile_ms(counts, 0.95),
            "p99_ms": quantile_ms(counts, 0.99),
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


def histogram(name: str, cells: Sequence[float], bounds: Sequence[float], labels: str) -> list[str]:
    """The lines of a histogram: `cells` has a count for each bound, one for the rest, and the sum."""
    comma, braces = ("," if labels else ""), (f"{{{labels}}}" if labels else "")
    lines, seen = [], 0.0
    for bound, value in zip((*bounds, math.inf), cells[:-1], strict=True):
        seen += value
        edge = "+Inf" if math.isinf(bound) else f"{float(bound)}"
        lines.append(f'budwood_{name}_bucket{{{labels}{comma}le="{edge}"}} {number(seen)}')
    total = f"budwood_{name}_sum{braces} {number(cells[-1])}"
    return [*lines, total, f"budwood_{name}_count{braces} {number(seen)}"]


def head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP budwood_{name} {meaning}", f"# TYPE budwood_{name} {kind}"]


def names(model: Described) -> str:
    return f'model="{escape(model.name)}",version="{escape(model.version)}"'


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
