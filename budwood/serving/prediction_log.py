"""The prediction log of one worker: a bounded queue and a thread that writes to the journal in batches.

It never keeps an answer waiting. What finds no room, or cannot be written because the disk is full, is counted.
"""

import hashlib
import json
import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budwood.core.errors import UsageError
from budwood.core.task import Answer, Row, Task
from budwood.serving.journal import Entry, Journal
from budwood.serving.model import Model
from budwood.serving.monitor import key_of

__all__ = ["LogOptions", "Noted", "PredictionLog"]

logger = logging.getLogger("budwood.serving")

FILE = "predictions.sqlite"
"""The file's name in a folder."""
ROOM = 20_000
"""Entries that wait in one worker; further ones are dropped and counted."""
ROOM_BYTES = 64 * 1024 * 1024
"""Of the inputs that wait with them: a slow disk must not fill the memory with images."""
PAUSE_SECONDS = 0.5
PRUNE_SECONDS = 60.0
BATCH = 5_000


@dataclass(frozen=True)
class LogOptions:
    """What is kept of predictions, and for how long. Raises UsageError for what makes no sense."""

    path: Path
    """A file, or a folder in which there will be one."""
    sample: float = 1.0
    """The share of the answers, chosen by their request's id."""
    inputs: str = "off"
    """`off`: nothing of the inputs is kept, `hash`: their SHA-256, `all`: that and all of them."""
    days: float = 30.0
    megabytes: float = 1000.0

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise UsageError(f"{self.sample} is no share", where="--log-sample", fix="--log-sample 0.1")
        if self.inputs not in ("off", "hash", "all"):
            raise UsageError(f"{self.inputs!r} is no choice", where="--log-inputs", fix="--log-inputs hash")
        if not (self.days > 0 and self.megabytes >= 1 and math.isfinite(self.days + self.megabytes)):
            raise UsageError("a log keeps more than 0 days and at least 1 MB", where="--log-days, --log-mb")

    @property
    def file(self) -> Path:
        return self.path / FILE if self.path.is_dir() else self.path


@dataclass(frozen=True, slots=True)
class Noted:
    """One answer as it waits to be written."""

    id: str
    place: int
    time: float
    model: str
    version: str
    kind: int
    task: Task
    row: Row | None
    """None unless something of the inputs is kept."""
    answer: Answer
    seconds: float


class PredictionLog:
    """One worker's way into the journal. `note` is called in its event loop.

    Args:
        count: adds to a counter of the figures; the thread and the loop count in different ones.
    """

    def __init__(self, options: LogOptions, count: Callable[[str, int], None]) -> None:
        self.options, self.count = options, count
        self.least = options.sample * (1 << 52)
        self.queue: deque[Noted] = deque()
        self.taken_in = self.taken_out = 0
        """Bytes of inputs that ever came into the queue, and left it; the loop counts one, the thread the other."""
        self.closed = threading.Event()
        self.told = -math.inf
        self.thread = threading.Thread(target=self.work, name="prediction-log", daemon=True)
        self.thread.start()

    def note(
        self, request_id: str, place: int, model: Model, kind: int, row: Row, answer: Answer, seconds: float
    ) -> None:
        if self.options.sample < 1 and key_of(request_id) >= self.least:
            return
        kept = None if self.options.inputs == "off" else row
        if len(self.queue) >= ROOM or (kept is not None and self.taken_in - self.taken_out >= ROOM_BYTES):
            self.count("log_entries_dropped", 1)
            return
        self.taken_in += size_of(kept)
        now, task = time.time(), model.task
        self.queue.append(Noted(request_id, place, now, model.name, model.version, kind, task, kept, answer, seconds))

    def close(self) -> None:
        """Write what waits, and stop."""
        self.closed.set()
        self.thread.join(timeout=10)

    # In the thread

    def work(self) -> None:
        journal: Journal | None = None
        prune_at = 0.0
        while True:
            last = self.closed.wait(PAUSE_SECONDS)
            try:
                journal = journal or Journal(self.options.file)
                while self.queue:
                    self.write(journal)
                if time.monotonic() >= prune_at or last:
                    prune_at = time.monotonic() + PRUNE_SECONDS
                    journal.prune(self.options.days, self.options.megabytes)
            except Exception as error:  # noqa: BLE001  # one entry that cannot be written must not end the log
                self.tell(error)
                if journal is not None:  # the file is opened anew next time
                    journal.close()
                    journal = None
            if last:
                if journal is not None:
                    journal.close()
                return

    def write(self, journal: Journal) -> None:
        taken = [self.queue.popleft() for _ in range(min(BATCH, len(self.queue)))]
        try:
            journal.write([entry(noted, self.options.inputs) for noted in taken])
        except Exception:
            self.count("log_entries_failed", len(taken))
            raise
        finally:
            self.taken_out += sum(size_of(noted.row) for noted in taken)
        self.count("log_entries_written", len(taken))

    def tell(self, error: Exception) -> None:
        """Once a minute; the counter has all."""
        if time.monotonic() - self.told > PRUNE_SECONDS:
            self.told = time.monotonic()
            # Only SQLite's own words, and those of the system, say nothing of an input.
            known = isinstance(error, sqlite3.Error | OSError)
            logger.error("the prediction log cannot be written: %s", error if known else type(error).__name__)


def size_of(row: Row | None) -> int:
    """Bytes of the texts and files of an input, about."""
    return sum(len(value) for value in row.values() if isinstance(value, str | bytes)) if row is not None else 0


def entry(noted: Noted, inputs: str) -> Entry:
    """The line of one answer."""
    content = None if noted.row is None or inputs == "off" else payload(noted.row, noted.task)
    raw = content.encode() if isinstance(content, str) else content
    answer = noted.answer
    confidence = answer.get("score", max(answer["scores"].values(), default=None) if answer.get("scores") else None)
    return Entry(
        noted.id,
        noted.place,
        noted.time,
        noted.model,
        noted.version,
        noted.kind,
        said(answer),
        confidence,
        round(noted.seconds * 1e3, 3),
        None if raw is None else hashlib.sha256(raw).hexdigest(),
        content if inputs == "all" else None,
    )


def said(answer: Answer) -> str | None:
    """The prediction as JSON, without what may quote the input: nothing of a text that was written."""
    if "properties" in answer:
        answer = next(iter(answer["properties"].values()))
    if "label" in answer or "labels" in answer:
        return json.dumps(answer.get("label", answer.get("labels")))
    if "objects" in answer:
        return json.dumps(sorted({item["label"] for item in answer["objects"]}))
    return json.dumps(answer["value"]) if "value" in answer else None


def payload(row: Row, task: Task) -> str | bytes:
    """An input as it came: the main field of one that is a file or a text, otherwise its fields as JSON."""
    main: Any = row.get(task.inputs[0])
    if isinstance(main, str | bytes):
        return main
    return json.dumps({name: row[name] for name in task.inputs if name in row} or row.get("messages"), default=str)
