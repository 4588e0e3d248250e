"""Labels that come later, and the live accuracy that they are together.

An answer is found in the rings of recent ones, or in the prediction log where there is one.
"""

import json
import math
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from budwood.core.errors import UsageError
from budwood.engine import statistics
from budwood.serving.errors import HttpError
from budwood.serving.journal import Given, Journal, Total, prepare
from budwood.serving.monitor import CLASS, CLASSES, NUMBER, Kept, Monitor, key_of
from budwood.serving.slots import OTHER

__all__ = ["Feedback", "accuracy", "wilson"]

METRICS = {CLASS: "accuracy", CLASSES: "f1", NUMBER: "mae"}
APPROVAL = "approval"
FRESH_SECONDS = 2.0
"""Totals are read anew when they are older."""
MOST_LABELS = 1_000
LONGEST_LABEL = 1_000


@dataclass
class Feedback:
    """One worker's view of the labels that came."""

    path: Path | None = None
    """The journal; made with the first label where there is no prediction log. Without one no label is kept."""
    logged: bool = False
    """Whether it is the prediction log, so that older answers are found too."""
    totals: dict[tuple[str, str], Total] = field(default_factory=dict)
    read_at: float = -math.inf
    prepared: bool = False
    """Whether this worker has seen the file with all of its tables."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Read what is stale anew; called in a thread, for it reads every label. What cannot be read stays."""
        with self.lock:
            stale = time.monotonic() - self.read_at > FRESH_SECONDS
            if stale and self.path is not None and self.path.exists():
                self.read_at = time.monotonic()
                try:
                    with Journal(self.path) as journal:
                        self.totals = {(item.model, item.version): item for item in journal.totals()}
                except sqlite3.Error:
                    pass

    def of(self, name: str, version: str) -> dict[str, Any]:
        """Live accuracy of a version, as /stats tells it, as of the last `refresh`."""
        return accuracy(self.totals.get((name, version)))

    def give(self, monitor: Monitor, request_id: str, place: int, label: Any, replace: bool) -> Given:
        """Keep a label. Called in a thread.

        Raises:
            HttpError: 404 for an answer that is not known any more, 409 for a second label that is another, 422 for one
                that does not suit the task, 503 when it cannot be written.
        """
        if self.path is None:
            raise HttpError(503, "no labels are kept here")
        try:
            with self.lock:
                # Where there is no log, another worker may have made the file just now, and no tables in it yet.
                if not (self.prepared or self.logged) or not self.path.exists():
                    self.path.parent.mkdir(mode=0o700, exist_ok=True)
                    prepare(self.path)
                    self.prepared = True
            with Journal(self.path) as journal:
                return self.kept(journal, monitor, request_id, place, label, replace)
        except (sqlite3.Error, OSError, UsageError) as error:
            raise HttpError(503, "the label cannot be kept now; try again later", retry_after=5) from error

    def kept(self, journal: Journal, monitor: Monitor, request_id: str, place: int, label: Any, replace: bool) -> Given:
        before = journal.given(request_id, place)
        if before is not None:
            known: Kept | None = Kept(
                before.model, before.version, before.kind, json.loads(before.prediction or "null")
            )
        else:
            known = monitor.find(key_of(request_id, place))
            known = known or (journal.find(request_id, place) if self.logged else None)
        if known is None:
            raise HttpError(404, "no answer with this id is known here any more")
        seen = monitor.board.find(known.model, known.version)
        score = scored(known, label, seen.model.labels if seen is not None else ())
        text = json.dumps(sorted(label) if isinstance(label, list) else label)
        prediction = None if known.prediction is None else json.dumps(known.prediction)
        given = Given(request_id, place, time.time(), known.model, known.version, known.kind, prediction, text, score)
        found = journal.give(given, replace=replace)
        if found.label != text:
            raise HttpError(409, 'this answer has another label; send "replace": true to correct it', field="label")
        self.read_at = -math.inf
        return found


def scored(known: Kept, label: Any, labels: Sequence[str]) -> float:
    """How right the prediction was. Raises HttpError 422 for a label that does not suit it, or is none of `labels`."""
    if known.kind == NUMBER:
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise HttpError(422, "label must be a number", field="label")
        return abs(float(label) - float(known.prediction))
    if known.kind == CLASS:
        if not isinstance(label, str) or not 0 < len(label) <= LONGEST_LABEL:
            raise HttpError(422, "label must be a text", field="label")
        refuse_unknown([label], labels)
        return float(label == known.prediction)
    if known.kind == CLASSES:
        fits = isinstance(label, list) and len(label) <= MOST_LABELS
        if not fits or not all(isinstance(item, str) and 0 < len(item) <= LONGEST_LABEL for item in label):
            raise HttpError(422, "label must be a list of labels", field="label")
        refuse_unknown(label, labels)
        said, true = set(known.prediction), set(label)
        return 2 * len(said & true) / (len(said) + len(true)) if said or true else 1.0
    if not isinstance(label, bool):
        raise HttpError(422, "label must be true for a good text, or false", field="label")
    return float(label)


def refuse_unknown(given: Sequence[str], labels: Sequence[str]) -> None:
    """A misspelt label would count as a wrong answer. Where not all labels are known here, any is taken."""
    if labels and OTHER not in labels and set(given) - set(labels):
        known = f"{', '.join(labels[:20])}{' …' if len(labels) > 20 else ''}"
        raise HttpError(422, f"the model's labels are: {known}", field="label")


def accuracy(total: Total | None) -> dict[str, Any]:
    """`n`, the metric, its value and its 95 % interval: Wilson's for shares, else Student's, None for few."""
    if total is None or not total.n:
        return {"n": 0, "metric": None, "value": None, "ci": None}
    mean = total.sum / total.n
    metric = METRICS.get(total.kind, APPROVAL)
    told = {"n": total.n, "metric": metric, "value": round(mean, 6)}
    if metric in ("accuracy", APPROVAL):
        low, high = wilson(total.sum, total.n)
    elif total.n < LEAST_NUMBERS:
        return {**told, "ci": None}
    else:
        variance = max(0.0, total.squares - total.n * mean**2) / (total.n - 1)
        half = student(total.n - 1) * math.sqrt(variance / total.n)
        low, high = max(0.0, mean - half), mean + half
        high = min(1.0, high) if metric == METRICS[CLASSES] else high
    return {**told, "ci": [round(low, 6), round(high, 6)]}


LEAST_NUMBERS = 5
"""Of fewer errors nobody can say how much they differ."""
Z = NormalDist().inv_cdf(0.975)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    return statistics.wilson(successes / n, n, Z)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, to 0.1 % from four degrees of freedom on.

    By its expansion at the normal quantile (Abramowitz and Stegun 1964, 26.7.5).
    """
    z = Z
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom ** (i + 1)) for i, term in enumerate(terms))
