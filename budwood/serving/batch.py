"""The dynamic batcher: requests wait in one bounded queue, and each runner thread takes what is there when it is free.

Nobody waits for a batch to fill: a lone request starts at once. Under load the queue fills while the runners compute,
so batches grow by themselves. A row that makes its batch fail is found by halving; its mates are answered.
Heat maps, which cost as much as fifty answers, wait apart: all other rows go first.
"""

import asyncio
import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from budwood.core.errors import BudwoodError, DataError
from budwood.core.task import Answer, Row
from budwood.serving.errors import HttpError
from budwood.serving.limits import Limits
from budwood.serving.metrics import Metrics
from budwood.serving.model import Model

__all__ = ["EMBED", "Answered", "Batcher", "Failed", "Ticket", "failed"]

logger = logging.getLogger("budwood.serving")


class Answered(NamedTuple):
    answer: Answer
    body: bytes
    """The answer as JSON; it is written in the runner, away from the event loop."""


@dataclass(frozen=True)
class Failed:
    """A row that could not be answered, although its request was valid."""

    status: int
    detail: str

    def error(self, place: str) -> HttpError:
        """The answer to a request that fails because of this row; `place` names the row."""
        return HttpError(self.status, self.detail, field=place, retry_after=int(self.status == 503))

    @property
    def body(self) -> bytes:
        """What a list of answers has in the place of this row's answer, as JSON."""
        return json.dumps({"error": {"status": self.status, "detail": self.detail}}).encode()


Result = Answered | Failed


class Ticket:
    """One request's rows on their way through the batcher."""

    __slots__ = ("future", "lengths", "missing", "model", "results", "rows", "timer", "top")

    def __init__(self, model: Model, rows: Sequence[Row], top: int, future: "asyncio.Future[list[Result]]") -> None:
        self.model = model
        self.rows = rows
        self.lengths = model.task.lengths(rows)
        self.top = top
        self.future = future
        self.results: list[Result] = [UNANSWERED] * len(rows)
        self.missing = len(rows)
        self.timer: asyncio.TimerHandle | None = None


QUICK_SECONDS = 0.003
QUICK_SIZE = 200
"""A model whose rows take no longer is quick; a row that is no longer, as its task counts it (characters), is short."""
EMBED = 0
"""In the place of `top`: the vectors of `Predictor.embed` are wanted, no answers."""
UNANSWERED = Failed(500, "not answered")
Waiting = tuple[Ticket, int]
"""A ticket and the number of one of its rows."""


def is_map(row: Row) -> bool:
    """Whether a row asks for a heat map."""
    return bool(row.get("explain"))


class Batcher:
    """Runner threads behind a bounded queue.

    Args:
        loop: the event loop of those who submit; all methods but `close` are called on it.
        limits: `batch`, `batch_size`, `explaining` and `answer_seconds` are used.
        queue: while so many rows wait, further requests are refused.
        runners: how many batches are computed at the same time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, queue: int, runners: int, metrics: Metrics
    ) -> None:
        self.loop = loop
        self.limits = limits
        self.room = queue
        self.metrics = metrics
        self.waiting: deque[Waiting] = deque()
        self.maps: deque[Waiting] = deque()
        """Rows that ask for heat maps; one is taken when no other row waits."""
        self.lock = threading.Lock()
        self.idle: list[threading.Lock] = []
        """A held lock for each runner that waits; releasing it wakes the runner."""
        self.waking = False
        self.closed = False
        self.computing = 0
        """Rows that the runners compute now."""
        self.mapping = 0
        """Those of them that ask for heat maps."""
        self.at_work: dict[int, Model] = {}
        """The models of the batches that the runners compute now, by the identity of the batch."""
        self.most_maps = max(1, runners - 1)
        """Maps that are computed at the same time; of several runners one is left to the other rows."""
        self.seconds_per_row = self.seconds_per_map = 0.0
        self.paces: dict[int, float] = {}
        """Seconds that a row of each model took of late."""
        self.client: object = None
        """The connection that asked last."""
        self.runners = [threading.Thread(target=self.work, name=f"runner-{i}", daemon=True) for i in range(runners)]
        for runner in self.runners:
            runner.start()

    def submit(self, model: Model, rows: Sequence[Row], top: int) -> Ticket:
        """Queue the rows of one request; its future gives one result a row, in order.

        Raises:
            HttpError: 503 when the queue is full, or so slow that the answer would come too late.
        """
        kinds = {is_map(row) for row in rows}
        for maps in kinds:
            self.refuse_full(maps)
        ticket = Ticket(model, rows, top, self.loop.create_future())
        ticket.timer = self.loop.call_later(self.limits.answer_seconds, self.expire, ticket)
        with self.lock:
            for i, row in enumerate(rows):
                (self.maps if is_map(row) else self.waiting).append((ticket, i))
        if not self.waking:
            # After the other requests that have been read already, so that they share the batch.
            self.waking = True
            self.loop.call_soon(self.wake)
        return ticket

    def refuse_full(self, maps: bool) -> None:
        # A list gets in as easily as a lone row, so the last one may reach beyond the end of the queue.
        depth, room = (len(self.maps), self.limits.explaining) if maps else (len(self.waiting), self.room)
        if depth >= room or (depth and self.seconds_to_wait(maps) > self.limits.answer_seconds):
            self.metrics.count("rejected")
            raise HttpError(503, "the server is busy; try again later", retry_after=self.retry_after(maps))

    def wake(self) -> None:
        self.waking = False
        with self.lock:
            for _ in range(min(len(self.idle), self.depth)):
                # The runner that stopped last: its core still has the model at hand.
                self.idle.pop().release()

    def at_once(self, model: Model, rows: Sequence[Row], top: int, client: object) -> list[Result]:
        """The result of a lone row, computed in the caller's thread, which is the event loop's; empty otherwise.

        It saves two changes of threads, a tenth of the time of a small model's answer. The loop hears nobody
        meanwhile. So nothing else may be there, the same connection must have asked last (clients that take turns are
        served in parallel by the runners), the row must be short, and the model quick by experience.
        """
        same, self.client = client == self.client, client
        if not same or client is None or len(rows) > 1 or self.waiting or self.computing:
            return []
        if not model.task.length_is_work or model.task.lengths(rows)[0] > QUICK_SIZE:
            return []
        if not 0.0 < self.paces.get(model.index, 0.0) <= QUICK_SECONDS:
            return []
        started = time.perf_counter()
        results = compute(model, list(rows), top)
        self.note(model, results, time.perf_counter() - started)
        return results

    def cancel(self, ticket: Ticket) -> None:
        """Take a request out of the queue, because its client went away. Rows that are being computed finish unused."""
        if not ticket.future.done():
            ticket.future.cancel()
            self.metrics.count("cancelled")
        self.leave(ticket)

    def expire(self, ticket: Ticket) -> None:
        if not ticket.future.done():
            self.metrics.count("expired")
            detail = f"not answered within {self.limits.answer_seconds:g} seconds"
            wait = self.retry_after(any(map(is_map, ticket.rows)))
            ticket.future.set_exception(HttpError(504, detail, retry_after=wait))
        self.leave(ticket)

    def leave(self, ticket: Ticket) -> None:
        if ticket.timer is not None:
            ticket.timer.cancel()
        with self.lock:
            self.waiting = deque(item for item in self.waiting if item[0] is not ticket)
            self.maps = deque(item for item in self.maps if item[0] is not ticket)

    def seconds_to_wait(self, maps: bool) -> float:
        """Until what waits now is worked off, at the pace of late; for a heat map, the maps before it too."""
        plain = len(self.waiting) * self.seconds_per_row / len(self.runners)
        return plain + len(self.maps) * self.seconds_per_map / self.most_maps if maps else plain

    def retry_after(self, maps: bool) -> int:
        """The seconds to wait as a whole number between 1 and 30."""
        return max(1, min(30, math.ceil(self.seconds_to_wait(maps))))

    def computes(self, model: Model) -> bool:
        """Whether a runner is at work with a model; its requests may have been given up."""
        with self.lock:
            return any(item is model for item in self.at_work.values())

    def forget(self, model: Model) -> None:
        """What was learnt of a model's pace is not true of the one that has its place in the figures next."""
        self.paces.pop(model.index, None)

    @property
    def depth(self) -> int:
        return len(self.waiting) + len(self.maps)

    def close(self) -> None:
        """Stop the runners after what they compute now."""
        with self.lock:
            self.closed = True
            while self.idle:
                self.idle.pop().release()
        for runner in self.runners:
            runner.join(timeout=5)

    # In the runner threads

    def work(self) -> None:
        awake = threading.Lock()
        awake.acquire()
        batch: list[Waiting] = []
        while batch := self.take(awake, done=batch):
            started = time.perf_counter()
            ticket = batch[0][0]
            results = compute(ticket.model, [waiting.rows[i] for waiting, i in batch], ticket.top)
            self.loop.call_soon_threadsafe(self.deliver, batch, results, time.perf_counter() - started)

    def take(self, awake: threading.Lock, done: list[Waiting]) -> list[Waiting]:
        """Wait for work and take a fair share of it; an empty list when the batcher is closed."""
        with self.lock:
            self.computing -= len(done)
            self.mapping -= maps_in(done)
            self.at_work.pop(id(done), None)
        while True:
            with self.lock:
                if self.closed:
                    return []
                if self.waiting or (self.maps and self.mapping < self.most_maps):
                    batch = self.pick() if self.waiting else [self.maps.popleft()]
                    self.computing += len(batch)
                    self.mapping += maps_in(batch)
                    self.at_work[id(batch)] = batch[0][0].model
                    return batch
                self.idle.append(awake)
            awake.acquire()

    def pick(self) -> list[Waiting]:
        # Not more than a fair share of all that is in the server: one long batch beside an idle runner wastes a core.
        share = min(self.limits.batch, -(-(len(self.waiting) + self.computing) // len(self.runners)))
        first = self.waiting.popleft()
        batch = [first]
        if share == 1:
            return batch
        head, place = first
        size = head.lengths[place]
        longest, others = size, deque[Waiting]()
        while self.waiting and len(batch) < share:
            item = self.waiting.popleft()
            ticket, i = item
            length = ticket.lengths[i]
            alike = size <= 2 * length + 32 and length <= 2 * size + 32
            fits = (len(batch) + 1) * max(longest, length) <= self.limits.batch_size
            if alike and fits and ticket.model is head.model and ticket.top == head.top:
                longest = max(longest, length)
                batch.append(item)
            else:
                others.append(item)
        self.waiting.extendleft(reversed(others))
        return batch

    # Back in the event loop

    def deliver(self, batch: list[Waiting], results: list[Result], seconds: float) -> None:
        first, place = batch[0]
        if maps_in(batch):
            self.seconds_per_map += 0.3 * (seconds - self.seconds_per_map)
        self.note(first.model, results, seconds, usual=first.lengths[place] <= self.limits.batch_size)
        for (ticket, i), result in zip(batch, results, strict=True):
            ticket.results[i] = result
            ticket.missing -= 1
            if not ticket.missing and not ticket.future.done():
                if ticket.timer is not None:
                    ticket.timer.cancel()
                ticket.future.set_result(ticket.results)

    def note(self, model: Model, results: list[Result], seconds: float, *, usual: bool = True) -> None:
        """Count a batch, and learn how long a row takes; an unusual one, such as a heat map, says nothing of others."""
        pace = seconds / len(results)
        if usual:
            self.seconds_per_row += 0.1 * (pace - self.seconds_per_row)
            before = self.paces.get(model.index, pace)
            self.paces[model.index] = before + 0.1 * (pace - before)
        self.metrics.batch(len(results))
        for result in results:
            if isinstance(result, Failed):
                self.metrics.count("failed_inputs")


def maps_in(batch: list[Waiting]) -> int:
    return sum(is_map(ticket.rows[i]) for ticket, i in batch)


def compute(model: Model, rows: list[Row], top: int) -> list[Result]:
    """One result a row. When the batch fails it is halved until each culprit is alone."""
    try:
        if top == EMBED:
            return [Answered(answer, b"") for answer in model.predictor.embed(rows)]
        answers = model.predictor.predict(rows, top)
    except BaseException as error:  # noqa: BLE001  # a native library's panic must not end the runner
        if len(rows) == 1:
            return [failed(error)]
        half = len(rows) // 2
        return compute(model, rows[:half], top) + compute(model, rows[half:], top)
    return [written(answer) for answer in answers]


def written(answer: Answer) -> Result:
    try:
        return Answered(answer, json.dumps(answer, allow_nan=False).encode())
    except ValueError:
        return Failed(422, "the model's answer to this input is not a finite number")


def failed(error: BaseException) -> Failed:
    if isinstance(error, DataError):
        return Failed(422, error.cause)
    # The message may quote the input, so only the kind of the error and the place are logged.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
    logger.error("the model failed on one input: %s at %s", type(error).__name__, place)
    if isinstance(error, MemoryError):
        return Failed(503, "there was not enough memory for this input")
    if isinstance(error, BudwoodError):
        return Failed(503, "the model is not available")
    return Failed(422, "the model failed on this input")
