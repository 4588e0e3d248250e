"""The desk where texts are written: one thread for each model writes all of its texts side by side.

A request's texts are one job. Jobs of one model join and leave between two tokens; room, time and patience are limited.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

from budwood.core.errors import BudwoodError, DataError, UsageError
from budwood.core.task import Row
from budwood.engine.decoding import Piece, Sampling, Writer
from budwood.engine.generator import Completion, Generator, Prompt
from budwood.engine.scheduler import Room, Scheduler, Work
from budwood.serving.batch import failed
from budwood.serving.errors import HttpError
from budwood.serving.http import Disconnected, Request, gone
from budwood.serving.limits import Limits
from budwood.serving.memory import container_megabytes
from budwood.serving.metrics import Metrics

__all__ = ["Begun", "Desk", "Job", "Wanted", "attended", "complete"]

ROWS = 8
"""Rows of memory for each text that is written at the same time; the others are of texts that ended."""
ROW_TOKENS = 64
"""Where texts are shorter than this on average, memory for them is not used up."""
MEMORY_SHARE = 0.2
"""Of the memory of the container, what one model's texts may take at most, whatever the limit says."""
IDLE_SECONDS = 60.0
"""A model for which nobody has asked for so long gives back what it remembers."""


@dataclass(frozen=True)
class Wanted:
    """The texts of one request: `n` for each prompt."""

    prompts: Sequence[Prompt]
    options: Sequence[Sampling]
    n: int = 1

    @classmethod
    def of(cls, rows: Sequence[Row], n: int = 1) -> Self:
        """From rows that a task's `parse` gave."""
        prompts = [row["messages"] if "messages" in row else row["text"] for row in rows]
        return cls(prompts, [row["options"] for row in rows], n)

    @property
    def texts(self) -> int:
        return len(self.prompts) * self.n


@dataclass(frozen=True)
class Begun:
    """The first event of a stream of pieces."""

    prompt_tokens: int
    truncated: bool
    """A prompt was longer than the model reads; its beginning was left out."""


END = object()
Read = list[Writer] | HttpError
"""What became of a job's prompts; an empty list where nobody waits for it any more."""


class Job:
    """One request at the desk. Iterate over it for its events; HttpError is raised where the writing failed.

    The events are `Begun` and each `Piece` where `pieces` are wanted, else one list of `Completion`.
    """

    def __init__(self, desk: "Desk", wanted: Wanted, *, pieces: bool, owner: object) -> None:
        self.desk, self.wanted, self.pieces, self.owner = desk, wanted, pieces, owner
        self.texts = wanted.texts
        self.began = time.monotonic()
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.stopped = threading.Event()
        self.done = False
        # Of the thread that writes
        self.work: Work | None = None
        self.left = wanted.texts
        self.sizes: list[int] = []
        self.collected: list[Piece] = []

    @property
    def tokens(self) -> int:
        """New tokens so far."""
        return self.work.tokens if self.work is not None else 0

    def stop(self) -> None:
        """End it before its next token. Called in the event loop; twice is harmless."""
        if not self.stopped.is_set():
            self.stopped.set()
            self.desk.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        event = await self.events.get()
        if event is END:
            raise StopAsyncIteration
        if isinstance(event, HttpError):
            raise event
        return event


class Desk:
    """The writing threads of a worker, behind a bounded room. All methods are called in the event loop.

    Args:
        limits: `texts`, `text_seconds`, `writing` and `remembered_megabytes` are used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, metrics: Metrics) -> None:
        self.loop, self.limits, self.metrics = loop, limits, metrics
        self.texts = 0
        """Texts that are written or wait."""
        self.seconds = 0.0
        """What a request takes of late."""
        self.jobs: set[Job] = set()
        self.pens: dict[Generator, Pen] = {}

    def submit(self, generator: Generator, wanted: Wanted, *, pieces: bool, owner: object = None) -> Job:
        """Take in a request's texts. Raises HttpError 422 when they are more than the desk holds, 503 when it is full.

        Args:
            owner: who asks; places go to those who have the fewest.
        """
        room, texts = self.limits.texts, wanted.texts
        if texts > room:
            raise HttpError(422, f"{texts} texts are asked for, at most {room} are written for one request", field="n")
        if self.texts + texts > room:
            self.metrics.count("rejected")
            wait = math.ceil(self.seconds * texts / room)
            raise HttpError(503, "too many texts are being written", retry_after=max(1, min(30, wait)))
        job = Job(self, wanted, pieces=pieces, owner=owner)
        self.texts += texts
        self.jobs.add(job)
        pen = self.pens.get(generator)
        if pen is None or not pen.take_in(job):
            self.pens = {item: pen for item, pen in self.pens.items() if pen.is_alive()}
            pen = self.pens[generator] = Pen(self, generator)
            pen.take_in(job)
            pen.start()
        return job

    def deliver(self, events: Sequence[tuple[Job, Any]]) -> None:
        """What a pen has written in one turn."""
        for job, event in events:
            if event is END:
                if not job.stopped.is_set():  # a text that was broken off tells nothing of the pace
                    self.seconds += 0.3 * (time.monotonic() - job.began - self.seconds)
                self.leave(job)
            elif not job.done:
                if isinstance(event, HttpError) and event.status == 504:
                    self.metrics.count("expired")
                job.events.put_nowait(event)

    def leave(self, job: Job) -> None:
        """Give back a job's room, and tell its reader that nothing more comes."""
        if not job.done:
            job.done = True
            self.texts -= job.texts
            self.jobs.discard(job)
            self.metrics.count("written_tokens", job.tokens)
            job.events.put_nowait(END)

    def forget(self, generator: Generator) -> None:
        """End the thread of a model that is about to be closed, with what it remembers."""
        pen = self.pens.pop(generator, None)
        if pen is not None:
            pen.close()
        self.loop.run_in_executor(None, generator.vocabulary.rest)  # a closed model keeps its vocabulary

    def close(self) -> None:
        """Stop what is written, and the threads."""
        for job in list(self.jobs):
            job.stop()
        for pen in self.pens.values():
            pen.close()
        for pen in self.pens.values():
            pen.join(timeout=5)


class Pen(threading.Thread):
    """Writes all texts of one model, and ends by itself when there has been nothing to write for a while.

    What is asked becomes tokens in a thread beside it: a long prompt, or a slow chat template, stalls no text.
    """

    def __init__(self, desk: Desk, generator: Generator) -> None:
        super().__init__(name="writer", daemon=True)
        self.desk, self.generator = desk, generator
        self.reader = ThreadPoolExecutor(1, "reader")
        self.change = threading.Condition()
        self.reading = 0
        """Jobs that the reader has."""
        self.coming: deque[tuple[Job, Read]] = deque()
        self.closed = False
        self.jobs: list[Job] = []
        self.events: list[tuple[Job, Any]] = []

    def take_in(self, job: Job) -> bool:
        """Let a job be written; False where the thread has ended. Called in the event loop."""
        with self.change:
            if not self.closed:
                self.reading += 1
                self.reader.submit(self.read, job)
            return not self.closed

    def close(self) -> None:
        with self.change:
            self.closed = True
            self.change.notify()
        self.reader.shutdown(wait=False)

    # In the reader's thread

    def read(self, job: Job) -> None:
        """Bring a job with its tokens to those that are written, or with the reason why there are none."""
        found: Read = []
        if not (self.closed or job.stopped.is_set()):
            try:
                found = self.writers(job)
            except HttpError as error:
                found = error
            except BaseException as error:  # noqa: BLE001  # one request that cannot be read must not end the others
                found = refusal(error)
        with self.change:
            self.reading -= 1
            if not self.closed:
                self.coming.append((job, found))
                self.change.notify()
                return
        told = found if isinstance(found, HttpError) else HttpError(503, "the model is closed", retry_after=1)
        self.desk.loop.call_soon_threadsafe(self.desk.deliver, [(job, told), (job, END)])

    def writers(self, job: Job) -> list[Writer]:
        """Raises HttpError 504 where the job's time was over before its turn, and whatever `encode` does."""
        if time.monotonic() > job.began + self.desk.limits.text_seconds:
            raise late(self.desk.limits)
        wanted, generator = job.wanted, self.generator
        ids = [generator.encode(prompt) for prompt in wanted.prompts]
        return generator.writers(wanted.prompts, ids, wanted.options, wanted.n)

    # In the thread

    def run(self) -> None:
        problem: BaseException = BudwoodError("the thread that writes was ended")
        try:
            scheduler = self.generator.scheduler(room(self.desk.limits, self.generator))
            while self.wait(scheduler):
                self.turn(scheduler)
                self.deliver()
            scheduler.drop()
        except BaseException as error:  # noqa: BLE001  # no memory for rows: the next request tries another thread
            problem = error
        self.close()
        self.jobs += [job for job, _ in self.coming]
        self.fail(problem)
        self.deliver()

    def turn(self, scheduler: Scheduler) -> None:
        try:
            while self.coming:
                self.begin(*self.coming.popleft(), scheduler)
            scheduler.turn()
        except BaseException as error:  # noqa: BLE001  # a native library's panic must not end the thread
            self.fail(error)
            scheduler.drop()
        self.jobs = [job for job in self.jobs if job.left]

    def fail(self, error: BaseException) -> None:
        """Give up all jobs."""
        if left := [job for job in self.jobs if job.left and not job.stopped.is_set()]:
            told = refusal(error)
            for job in left:
                self.end(job, told)

    def deliver(self) -> None:
        events, self.events = self.events, []
        if events:
            self.desk.loop.call_soon_threadsafe(self.desk.deliver, events)

    def wait(self, scheduler: Scheduler) -> bool:
        """Wait for something to write. False at the end."""
        with self.change:
            if not (scheduler.busy or self.coming or self.closed):
                self.change.wait(IDLE_SECONDS)
                self.closed |= not (self.coming or self.reading)
            return not self.closed

    def begin(self, job: Job, read: Read, scheduler: Scheduler) -> None:
        """Put a job's texts among the others; what could not be read is refused."""
        if isinstance(read, HttpError):
            self.end(job, read)
            return
        if not read:
            return  # nobody waits for it
        self.jobs.append(job)
        job.sizes = [writer.prompt_tokens for writer in read]
        if job.pieces:
            truncated = max(job.sizes) >= self.generator.decoder.shape.window
            self.events.append((job, Begun(sum(job.sizes[:: job.wanted.n]), truncated)))
        until = job.began + self.desk.limits.text_seconds
        job.work = Work(read, partial(self.emit, job), until, job.stopped.is_set, partial(self.lose, job), job.owner)
        scheduler.add(job.work)

    def lose(self, job: Job, error: Exception) -> None:
        self.end(job, refusal(error))

    def emit(self, job: Job, piece: Piece) -> None:
        assert job.work is not None
        if not job.left:
            return
        if piece.finish == "deadline" and not job.work.begun:
            self.end(job, late(self.desk.limits))
            return
        if job.pieces:
            self.events.append((job, piece))
        else:
            job.collected.append(piece)
        job.left -= piece.finish is not None
        if not job.left:
            whole = not job.pieces and not job.stopped.is_set()
            self.events += [(job, self.generator.finished(job.collected, job.sizes))] if whole else []
            self.events.append((job, END))

    def end(self, job: Job, error: HttpError) -> None:
        """Give up a job, once, with all of its texts."""
        if job.left:
            job.left = 0
            job.stopped.set()
            self.events += [(job, error), (job, END)]


def refusal(error: BaseException) -> HttpError:
    """What a request is told that cannot be written."""
    if isinstance(error, UsageError | DataError):
        return HttpError(422, error.cause, field=error.where)
    found = failed(error)
    # Many texts may have been in the batch, so none of them is to blame.
    return found.error("") if found.status >= 500 else HttpError(500, "the model failed while it wrote")


def late(limits: Limits) -> HttpError:
    return HttpError(504, f"not begun within {limits.text_seconds:g} seconds")


def room(limits: Limits, generator: Generator) -> Room:
    there = container_megabytes() * MEMORY_SHARE or math.inf
    tokens = int(min(limits.remembered_megabytes, there) * 1e6 / generator.decoder.shape.token_bytes)
    rows = min(tokens // ROW_TOKENS, limits.writing * ROWS)
    return Room(limits.writing, max(limits.writing, rows), tokens)


@asynccontextmanager
async def attended(desk: Desk, request: Request, wanted: Wanted, *, pieces: bool) -> AsyncIterator[Job]:
    """A job that is stopped when its client goes away, or when the block is left."""
    generator = request.model.generator
    assert generator is not None
    owner = (request.scope.get("client") or ("",))[0] if request.key is None else request.key.name
    job = desk.submit(generator, wanted, pieces=pieces, owner=owner)

    def stop(_: object) -> None:
        if not job.done:
            desk.metrics.count("cancelled")
            job.stop()

    watch = asyncio.ensure_future(gone(request))
    watch.add_done_callback(lambda task: None if task.cancelled() else stop(task))
    try:
        yield job
    finally:
        watch.cancel()
        job.stop()


async def complete(desk: Desk, request: Request, wanted: Wanted) -> list[Completion]:
    """Finished texts for a request.

    Raises:
        HttpError: 422 for what the model cannot read, 503 when the desk is full, 504 when it was not begun in time.
        Disconnected: the client is gone.
    """
    async with attended(desk, request, wanted, pieces=False) as job:
        async for found in job:
            if not job.stopped.is_set():
                return cast(list[Completion], found)
    raise Disconnected
