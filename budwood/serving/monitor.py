"""What a worker notes of each answer, so that drift is seen from the first request on and labels may come later.

An answer costs a few microseconds: three small records in shared memory. A thread of its own looks at some inputs more
closely, for at most a hundredth of the time, and judges when somebody asks.
"""

import asyncio
import logging
import math
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Answer, Row
from budwood.engine.drift_verdict import Judged, Window, judge
from budwood.engine.reference import DIRECTIONS, NONE, NUMBERS, Insight, gist, unknown_token
from budwood.serving.batch import Answered, Failed
from budwood.serving.metrics import CONFIDENCES, EDGES, Board, Described, Metrics, Seen
from budwood.serving.model import Model
from budwood.serving.recent import ANSWERS, INSIGHTS, KEYS, Ring

__all__ = ["Kept", "Monitor", "edges_of", "key_of"]

logger = logging.getLogger("budwood.serving")

PER_SECOND = 10.0
"""Answers a second that a window takes once it is full, so that it covers minutes under load."""
OLDEST_SECONDS = 86_400.0
"""Answers that are older tell nothing of the traffic of today."""
LOOK_SECONDS = 0.5
"""Least time between two inputs that are looked at."""
LOOK_SHARE = 0.01
"""The most of a worker's time that looking takes."""
STALE_SECONDS = 5.0
"""A verdict is formed anew when it is older, and somebody asks."""
BITS = 52
"""Labels of one answer that a double holds as bits."""
UNREAD = -1
"""Stands for the id of the unknown token before the tokenizer's file was read."""
CLASS, CLASSES, NUMBER, TEXT = range(4)
"""Kinds of predictions, as they are noted: one label's place, a bit for each label, the number itself, nothing."""


def key_of(request_id: str, place: int = 0) -> float:
    """The answer to one input of a request as a number, 52 bits of a hash: what a ring can keep of its name."""
    name = request_id if not place else f"{request_id}/{place}"
    return float(int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) >> 12)


def edges_of(reference: Mapping[str, Any]) -> tuple[float, ...]:
    """Upper bounds of the histogram of a model's numbers: the deciles of its answers on held-out rows."""
    values = reference.get("samples", {}).get("value", ())
    if len(values) < EDGES + 1:
        return ()
    quantiles = np.quantile(values, np.arange(1, EDGES + 1) / (EDGES + 1))
    return tuple(dict.fromkeys(float(f"{x:.4g}") for x in quantiles))


@dataclass(frozen=True)
class Kept:
    """What is still known of an answer."""

    model: str
    version: str
    kind: int
    prediction: Any
    """A label, a list of labels, a number, or None for a text."""


class Log(Protocol):
    """What keeps predictions for longer; see `prediction_log.py`."""

    def note(
        self, request_id: str, place: int, model: Model, kind: int, row: Row, answer: Answer, seconds: float
    ) -> None: ...

    def close(self) -> None: ...


class Watched:
    """The state of one version in one worker."""

    def __init__(self, model: Model, metrics: Metrics) -> None:
        starts = metrics.layout.slots[model.index]
        self.model = weakref.ref(model)
        self.labels = tuple(map(str, model.task.to_json().get("labels", ())))
        self.places = {label: i for i, label in enumerate(self.labels)}
        self.number = metrics.row[starts["number"]]
        self.reference: Mapping[str, Any] = model.bundle.manifest.reference if model.bundle is not None else {}
        self.edges = edges_of(self.reference)
        self.confidences, self.values = starts["confidences"], starts["values"]
        self.answers = Ring(ANSWERS, metrics.row, starts["answers"])
        self.insights = Ring(INSIGHTS, metrics.row, starts["insights"])
        self.observe = metrics.observe
        self.kind = kind_of(model)
        self.lengths = model.task.lengths
        self.credit, self.before = float(ANSWERS.room), time.monotonic()
        self.unknown: int | None = UNREAD
        known = set(self.reference.get("samples", {})) & set(INSIGHTS.columns)
        self.looks = bool(known or self.reference.get("directions"))

    def note(self, now: float, row: Row, answer: Answer) -> float:
        """Count one answer; its prediction as a number."""
        found = gist(answer)
        prediction = self.number_of(found.labels, found.value)
        if found.confidence == found.confidence:
            self.observe(self.confidences, CONFIDENCES, found.confidence)
        if found.value == found.value and self.edges:
            self.observe(self.values, self.edges, found.value)
        self.credit = min(ANSWERS.room, self.credit + (now - self.before) * PER_SECOND) - 1
        self.before = now
        if self.credit >= 0:
            self.answers.append(now, self.lengths((row,))[0], prediction, *found[1:])
        else:
            self.credit += 1
        return prediction

    def number_of(self, labels: Sequence[str], value: float) -> float:
        """How a ring keeps a prediction; NaN for one that it cannot keep."""
        if self.kind == CLASS:
            return float(self.places.get(labels[0], math.nan)) if labels else math.nan
        if self.kind == CLASSES:
            places = [self.places.get(label, BITS) for label in labels if label != NONE]
            return float(sum(1 << place for place in set(places))) if max(places, default=0) < BITS else math.nan
        return value


def kind_of(model: Model) -> int:
    fields = model.task.to_json()
    if model.task.writes:
        return TEXT
    if model.task.finds_objects or fields.get("multi_label"):
        return CLASSES
    return CLASS if fields.get("labels") else NUMBER


class Monitor:
    """One worker's notes, and what all workers' notes say. `note` is called in its event loop only."""

    def __init__(self, metrics: Metrics, board: Board) -> None:
        self.metrics, self.board = metrics, board
        self.watched: dict[int, Watched] = {}
        self.edges: dict[tuple[str, str], tuple[float, ...]] = {}
        """Upper bounds of the histogram of each version's numbers."""
        self.keys = Ring(KEYS, metrics.row, metrics.layout.shared["keys"])
        self.judged: dict[tuple[str, str], Judged] = {}
        self.formed: dict[tuple[str, str], float] = {}
        """When each verdict was begun to be formed."""
        self.log: Log | None = None
        self.pending: tuple[Watched, Row] | None = None
        self.next_look = 0.0
        self.closed = threading.Event()
        self.waiting = threading.Event()
        self.thread: threading.Thread | None = None

    def of(self, model: Model) -> Watched:
        found = self.watched.get(model.index)
        if found is None or found.model() is not model:  # it was closed and opened again, or its slot is another's now
            found = self.watched[model.index] = Watched(model, self.metrics)
            self.edges[model.name, model.version] = found.edges
        return found

    def note(
        self,
        request_id: bytes,
        model: Model,
        rows: Sequence[Row],
        results: Sequence[Answered | Failed],
        seconds: float,
    ) -> None:
        """Count the answers to one request, which took so long."""
        watched, now = self.of(model), time.monotonic()
        name = request_id.decode()
        for place, result in enumerate(results):
            if isinstance(result, Answered):
                prediction = watched.note(now, rows[place], result.answer)
                self.keys.append(key_of(name, place), watched.number, watched.kind, prediction)
                if self.log is not None:
                    self.log.note(name, place, model, watched.kind, rows[place], result.answer, seconds)
        if watched.looks and now >= self.next_look and self.pending is None:
            self.look_at(watched, rows[0])

    def wrote(self, request_id: bytes, model: Model, prompts: Sequence[object], n: int, seconds: float) -> None:
        """Note the texts of one request, `n` for each prompt: that they were written, not what they say."""
        watched, name = self.of(model), request_id.decode()
        for place in range(len(prompts) * n):
            self.keys.append(key_of(name, place), watched.number, TEXT, math.nan)
            if self.log is not None:
                prompt = prompts[place // n]
                row = {"text" if isinstance(prompt, str) else "messages": prompt}
                self.log.note(name, place, model, TEXT, row, {}, seconds)

    def look_at(self, watched: Watched, row: Row) -> None:
        """Give one input to the thread."""
        self.next_look = math.inf
        self.pending = watched, row
        if self.thread is None:
            self.thread = threading.Thread(target=self.work, name="monitor", daemon=True)
            self.thread.start()
        self.waiting.set()

    def close(self) -> None:
        self.closed.set()
        self.waiting.set()
        if self.thread is not None:
            self.thread.join(timeout=5)
        if self.log is not None:
            self.log.close()

    # In the thread

    def work(self) -> None:
        while True:
            self.waiting.wait()
            self.waiting.clear()
            if self.closed.is_set():
                return
            began = time.monotonic()
            self.look()
            self.pending = None
            self.next_look = time.monotonic() + max(LOOK_SECONDS, (time.monotonic() - began) / LOOK_SHARE)

    def look(self) -> None:
        watched, row = self.pending or (None, {})
        model = watched.model() if watched is not None else None
        if watched is None or model is None:
            return
        try:
            looked(watched, model, row)
        except BaseException as error:  # noqa: BLE001  # the model may be closing, and the input may be one it fails on
            logger.debug("an input could not be looked at: %s", type(error).__name__)

    # What all workers noted

    async def refresh(self, models: Sequence[Model]) -> None:
        """Form the verdicts that are too old anew, in another thread: vectors may take half a second."""
        now = time.monotonic()
        old = [
            model for model in models if now - self.formed.get((model.name, model.version), -math.inf) > STALE_SECONDS
        ]
        for model in old:
            self.formed[model.name, model.version] = now
            watched = self.of(model)
            window = self.window(self.board.find(model.name, model.version), watched)
            self.judged[model.name, model.version] = await asyncio.to_thread(judge, watched.reference, window)

    def judge(self, model: Model) -> Judged:
        """A verdict of now. Called in any thread."""
        watched = self.of(model)
        return judge(watched.reference, self.window(self.board.find(model.name, model.version), watched))

    def drift(self, model: Model) -> Judged:
        """The verdict on a version's recent traffic, as of the last `refresh`."""
        return self.judged.get((model.name, model.version), Judged("waiting", "nobody has asked before", 0))

    def window(self, seen: Seen | None, watched: Watched) -> Window:
        """The recent answers of all workers."""
        places = seen.places if seen is not None else ()
        now, starts = time.monotonic(), self.metrics.layout.slots
        answers = read([Ring(ANSWERS, self.board.row(row), starts[slot]["answers"]) for row, slot in places], now)
        insights = read([Ring(INSIGHTS, self.board.row(row), starts[slot]["insights"]) for row, slot in places], now)
        columns = {name: answers[:, i] for i, name in enumerate(ANSWERS.columns)}
        columns |= {name: insights[:, i] for i, name in enumerate(INSIGHTS.columns) if name in NUMBERS}
        numbers = {name: values[~np.isnan(values)] for name, values in columns.items() if name in NUMBERS}
        directions = insights[:, -DIRECTIONS:]
        directions = directions[~np.isnan(directions).any(axis=1)]
        labels = counted(columns["prediction"], watched.kind, watched.labels)
        return Window(len(answers), labels, {name: v for name, v in numbers.items() if len(v)}, directions)

    def find(self, key: float) -> Kept | None:
        """The latest answer with this key of any worker, as long as it is kept."""
        start = self.metrics.layout.shared["keys"]
        for row in range(self.metrics.layout.rows):
            records = Ring(KEYS, self.board.row(row), start).read()
            at = np.flatnonzero(records[:, 0] == key)
            if len(at):
                _, number, kind, prediction = map(float, records[at[-1]])
                model = self.claimed(row, number)
                if model is not None and (kind == TEXT or prediction == prediction):
                    return Kept(model.name, model.version, int(kind), decoded(int(kind), prediction, model.labels))
        return None

    def claimed(self, row: int, number: float) -> Described | None:
        """The version whose claim in a row had this number."""
        for slot, starts in enumerate(self.metrics.layout.slots):
            if self.board.row(row)[starts["number"]] == number:
                return self.board.described(row, slot)
        return None


def looked(watched: Watched, model: Model, row: Row) -> None:
    """Look at one input, and keep what it shows."""
    if watched.unknown == UNREAD:
        watched.unknown = unknown_token(model.bundle.path) if model.bundle is not None else None
    insight = Insight(model.predictor, watched.unknown)
    plain = {name: value for name, value in row.items() if name != "explain"}
    found = insight.look([plain], vectors="directions" in watched.reference)
    numbers = [float(found[name][0]) if name in found else math.nan for name in INSIGHTS.columns[1:-DIRECTIONS]]
    directions = found["directions"][0] if "directions" in found else np.full(DIRECTIONS, math.nan)
    watched.insights.append(time.monotonic(), *numbers, *directions)


def read(rings: Sequence[Ring], now: float) -> NDArray[np.float64]:
    """The records of all rings that are not too old, the newest last."""
    records = np.concatenate([ring.read() for ring in rings]) if rings else np.empty((0, 0))
    if not records.size:
        columns = len(rings[0].records.columns) if rings else max(len(ANSWERS.columns), len(INSIGHTS.columns))
        return np.empty((0, columns))
    records = records[np.argsort(records[:, 0], kind="stable")]
    return records[now - records[:, 0] <= OLDEST_SECONDS]


def counted(predictions: NDArray[np.float64], kind: int, labels: Sequence[str]) -> dict[str, int]:
    """How many of the predictions have each label; nothing where not all labels fit into a number."""
    if kind == CLASSES and len(labels) > BITS:  # answers with a later label are not there, so shares would be wrong
        return {}
    there = predictions[~np.isnan(predictions)].astype(np.int64)
    if kind == CLASS:
        counts = np.bincount(there, minlength=len(labels))
        return {label: int(counts[i]) for i, label in enumerate(labels) if counts[i]}
    if kind != CLASSES:
        return {}
    found = {label: int((there >> i & 1).sum()) for i, label in enumerate(labels)} | {NONE: int((there == 0).sum())}
    return {label: count for label, count in found.items() if count}


def decoded(kind: int, prediction: float, labels: Sequence[str]) -> Any:
    """What `Watched.number_of` made a number of."""
    if kind == CLASS:
        return labels[int(prediction)] if prediction < len(labels) else None
    if kind == CLASSES:
        return [label for i, label in enumerate(labels) if int(prediction) >> i & 1]
    return prediction if kind == NUMBER else None
