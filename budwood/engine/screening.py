"""Screening: the best molecules of a library of any size, in flat memory, on all cores, and resumed after a kill.

found = screen(bundle, open_library(Path("library.smi")), top=1000, work=folder)
"""

import hashlib
import heapq
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.commit import make_parents, write_atomic
from budwood.core.errors import DataError, UsageError
from budwood.core.step import Progress, silent
from budwood.engine.library import Library, Record
from budwood.engine.molecule_metrics import bedroc, enrichment
from budwood.engine.number_metrics import roc_auc
from budwood.engine.screening_pool import Pool
from budwood.engine.screening_worker import Opening

__all__ = ["MAX_TOP", "Screened", "screen"]

CHUNK = 1_000
SAVE_SECONDS = 5.0
MAX_TOP = 100_000
SCORES = np.dtype([("rank", "<f4"), ("active", "u1")])
"""What is kept of each labelled molecule on disk, for the enrichment: five bytes."""


@dataclass(frozen=True)
class Screened:
    """The result of a screen."""

    rows: list[dict[str, Any]]
    """The best first: rank, row (from 1), smiles, name, value, uncertainty, and the domain facts."""
    screened: int
    invalid: int
    """Records that hold no molecule that the model can read."""
    repeated: int
    """Molecules that were in the list already, in another spelling, and were not listed twice."""
    seconds: float
    """All runs together, where it was resumed."""
    resumed_at: int
    """Records that an earlier run had done."""
    enrichment: dict[str, float]
    """`ef1` (enrichment factor of the best 1 %), `bedroc`, `roc_auc`, `actives`, `labelled`; empty without labels."""


@dataclass
class State:
    """What a checkpoint holds."""

    key: str
    position: int = 0
    """Records done."""
    invalid: int = 0
    repeated: int = 0
    labelled: int = 0
    """Entries of the score file that count; what stands behind them was written after the checkpoint."""
    seconds: float = 0.0
    done: bool = False
    heap: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    """(rank, -record number, row), the worst first: `heapq` order."""


def screen(
    bundle: Bundle,
    library: Library,
    *,
    top: int = 1_000,
    by: str | None = None,
    ascending: bool = False,
    positive: str = "1",
    work: Path,
    workers: int | None = None,
    progress: Progress = silent,
) -> Screened:
    """Rank a library and keep the `top` best.

    The position and the list are committed every few seconds in `work`; the same call goes on from there. The folder
    stays when it is done, so that a caller who is killed while writing the result gets it again; remove it afterwards.

    Args:
        by: the property to rank by; the first one when left out.
        ascending: the smallest values first; by default the greatest, or the likeliest to be positive.
        positive: the label of an active molecule, where the library has labels; 1.0 is the same as 1.
        workers: processes; None takes one a core, and none for a library that is done before they have started.

    Raises:
        UsageError: `top` is out of range, or the model has no such property.
        DataError: the library cannot be read, or its labels are no classes.
    """
    if not 1 <= top <= MAX_TOP:
        raise UsageError(f"--top {top} is out of range", where="--top", fix=f"give 1 to {MAX_TOP:,}")
    opening = Opening(str(bundle.path), by, ascending, top)
    run = Run(library, top, positive, work, key_of(bundle, library, opening), progress)
    resumed_at = run.state.position
    if not run.state.done:
        with Pool(opening, processes(library) if workers is None else workers) as pool:
            run.go(pool)
    return run.result(resumed_at)


def processes(library: Library) -> int:
    """One process a core; 0, for none but this one, where starting them would take longer than the work."""
    cores = len(os.sched_getaffinity(0))
    small = library.path.stat().st_size < (200_000 if library.path.suffix == ".gz" else 1_000_000)
    return 0 if small or cores == 1 else cores


def key_of(bundle: Bundle, library: Library, opening: Opening) -> str:
    """What makes two screens the same: the model, the file as it is now, and what was asked."""
    facts = library.path.stat()
    asked = [bundle.id, facts.st_size, facts.st_mtime_ns, *opening[1:], CHUNK]
    columns = {name: str(value) for name, value in asdict(library).items()}
    return hashlib.sha256(json.dumps([asked, columns], sort_keys=True).encode()).hexdigest()


class Run:
    """One screen: its state, and how chunks enter it."""

    def __init__(self, library: Library, top: int, positive: str, work: Path, key: str, progress: Progress) -> None:
        self.library, self.top, self.positive, self.progress = library, top, positive, progress
        self.checkpoint, self.scores = work / "screen.json", work / "scores.bin"
        make_parents(work)
        self.state = self.restore(key)
        self.known = {row["canonical"] for _, _, row in self.state.heap}
        self.actives: list[tuple[float, bool]] = []
        """Labelled molecules that are not on disk yet."""

    def restore(self, key: str) -> State:
        """The committed state of the same screen, or a fresh one."""
        try:
            state = State(**json.loads(self.checkpoint.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return State(key)
        if state.key != key:
            return State(key)
        state.heap = [(rank, number, row) for rank, number, row in state.heap]
        return state

    def go(self, pool: Pool) -> None:
        """Send chunks to the pool in order, take its answers in order, and commit now and then."""
        began = saved = time.monotonic()
        before, cost = self.state.seconds, 0.0
        with self.scores.open("r+b" if self.scores.exists() else "w+b") as file:
            file.truncate(self.state.labelled * SCORES.itemsize)
            file.seek(0, os.SEEK_END)
            waiting: deque[tuple[list[Record], Callable[[], dict[str, Any]]]] = deque()
            for chunk in chunks(self.library.records(), self.state.position):
                waiting.append((chunk, pool.submit([record.smiles for record in chunk], self.floor())))
                self.state.seconds = before + time.monotonic() - began
                if len(waiting) > pool.ahead:
                    self.take(*waiting.popleft())
                now = time.monotonic()
                if now - saved > max(SAVE_SECONDS, 20 * cost):
                    self.save(file)
                    cost, saved = time.monotonic() - now, time.monotonic()
            while waiting:
                self.take(*waiting.popleft())
            self.state.seconds, self.state.done = before + time.monotonic() - began, True
            self.save(file)

    def floor(self) -> float:
        return self.state.heap[0][0] if len(self.state.heap) == self.top else -np.inf

    def take(self, chunk: Sequence[Record], answer: Callable[[], dict[str, Any]]) -> None:
        """Enter a chunk's scores; chunks come in the order of the file, so a resumed run finds the same list."""
        scored = answer()
        state = self.state
        for record, rank in zip(chunk, scored["ranks"], strict=True):
            state.invalid += rank is None
            if rank is not None and record.label:
                self.actives.append((rank, self.is_active(record.label)))
        for item in scored["best"]:
            number = item.pop("number")
            self.offer(scored["ranks"][number], state.position + number, chunk[number], item)
        state.position += len(chunk)
        rate = f"{state.position / max(state.seconds, 0.001):,.0f} molecules/s"
        self.progress("screening", state.position, 0, rate)

    def offer(self, rank: float, number: int, record: Record, facts: dict[str, Any]) -> None:
        heap = self.state.heap
        if facts["canonical"] in self.known:
            self.state.repeated += 1
            return
        entry = (rank, -number, {"row": number + 1, "smiles": record.smiles, "name": record.name, **facts})
        if record.label:
            entry[2]["label"] = record.label
        if len(heap) < self.top:
            heapq.heappush(heap, entry)
        elif entry[:2] > heap[0][:2]:
            self.known.discard(heapq.heapreplace(heap, entry)[2]["canonical"])
        else:
            return
        self.known.add(facts["canonical"])

    def is_active(self, label: str) -> bool:
        """Whether a label says so. Raises DataError for a number that is no class: a column of measured values."""
        try:
            number = float(label)
        except ValueError:
            return label == self.positive
        if not number.is_integer():
            cause = f"the label {label!r} is no class, so nobody can say whether it is active"
            raise DataError(cause, where=self.library.label, fix="name a column of 0 and 1 with --target")
        return str(int(number)) == self.positive

    def save(self, file: Any) -> None:
        """Commit: first the scores, then the state that says how many of them count."""
        file.write(np.array(self.actives, SCORES).tobytes())
        file.flush()
        os.fsync(file.fileno())
        self.state.labelled += len(self.actives)
        self.actives = []
        write_atomic(self.checkpoint, json.dumps(asdict(self.state)).encode())

    def result(self, resumed_at: int) -> Screened:
        state = self.state
        ordered = sorted(state.heap, key=lambda entry: (-entry[0], -entry[1]))
        return Screened(
            rows=[{"rank": place, **rounded(row)} for place, (_, _, row) in enumerate(ordered, 1)],
            screened=state.position,
            invalid=state.invalid,
            repeated=state.repeated,
            seconds=round(state.seconds, 2),
            resumed_at=resumed_at,
            enrichment=self.enrichment(),
        )

    def enrichment(self) -> dict[str, float]:
        if not self.state.labelled:
            return {}
        scores = np.fromfile(self.scores, SCORES, self.state.labelled)
        counts = Counter(scores["active"].tolist())
        facts = {"labelled": float(len(scores)), "actives": float(counts[1])}
        if len(counts) < 2:
            return facts
        ranks, active = scores["rank"].astype(np.float64), scores["active"]
        found = {"ef1": enrichment(ranks, active), "bedroc": bedroc(ranks, active), "roc_auc": roc_auc(ranks, active)}
        return {name: round(value, 4) for name, value in found.items()} | facts


def chunks(records: Iterator[Record], skip: int) -> Iterator[list[Record]]:
    """Chunks of the records after the first `skip`, which end where those of an uninterrupted run end."""
    rest = islice(records, skip, None)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    shown = {**row, "value": round(row["value"], 6), "uncertainty": round(row["uncertainty"], 6)}
    return {name: value for name, value in shown.items() if name != "canonical"}
