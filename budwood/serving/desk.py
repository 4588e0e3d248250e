"""The desk where texts are written: threads of its own, so that a long text never keeps a prediction waiting.

A request's texts are one job. Jobs wait in the order in which they came; room, time and patience are limited.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from budwood.core.task import Row
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Completion, Generator, Prompt
from budwood.serving.batch import failed
from budwood.serving.errors import HttpError
from budwood.serving.http import Disconnected, Request, gone
from budwood.serving.limits import Limits
from budwood.serving.metrics import Metrics

__all__ = ["Begun", "Desk", "Job", "Wanted", "attended", "complete"]


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


class Job:
    """One request at the desk. Iterate over it for what its work emits; HttpError is raised where the work failed."""

    def __init__(self, desk: "Desk", texts: int, work: "Callable[[Job], None]") -> None:
        self.desk, self.texts, self.work = desk, texts, work
        self.until = time.monotonic() + desk.limits.text_seconds
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.stopped = threading.Event()
        self.started = self.done = False
        self.timer: asyncio.TimerHandle | None = None
        self.tokens = 0
        """New tokens so far."""

    @property
    def seconds(self) -> float:
        """What is left of its time."""
        return self.until - time.monotonic()

    def emit(self, event: object) -> None:
        """Called in the thread that writes."""
        self.desk.loop.call_soon_threadsafe(self.events.put_nowait, event)

    def stop(self) -> None:
        """End it: where it waits at once, else before its next token. Called in the event loop; twice is harmless."""
        if not self.stopped.is_set():
            self.stopped.set()
            if not self.started:
                self.desk.withdraw(self)
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
    """Threads that write, behind a bounded queue. All methods but `work` are called in the event loop.

    Args:
        limits: `texts` and `text_seconds` are used.
        threads: jobs that are written at the same time; the threads start with the first job.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, threads: int, metrics: Metrics) -> None:
        self.loop, self.limits, self.metrics = loop, limits, metrics
        self.texts = 0
        """Texts that are written or wait."""
        self.seconds_per_text = 0.0
        self.jobs: set[Job] = set()
        self.waiting: deque[Job] = deque()
        self.change = threading.Condition()
        self.closed = False
        self.threads = [threading.Thread(target=self.work, name=f"writer-{i}", daemon=True) for i in range(threads)]

    def submit(self, texts: int, work: Callable[[Job], None]) -> Job:
        """Queue a request's texts. Raises HttpError 422 when they are more than the desk holds, 503 when it is full."""
        room = self.limits.texts
        if texts > room:
            raise HttpError(422, f"{texts} texts are asked for, at most {room} are written for one request", field="n")
        if self.texts + texts > room:
            self.metrics.count("rejected")
            wait = math.ceil(self.texts * self.seconds_per_text / len(self.threads))
            raise HttpError(503, "too many texts are being written", retry_after=max(1, min(30, wait)))
        if not self.jobs and not self.threads[0].is_alive():
            for thread in self.threads:
                thread.start()
        job = Job(self, texts, work)
        self.texts += texts
        self.jobs.add(job)
        job.timer = self.loop.call_later(self.limits.text_seconds, self.expire, job)
        with self.change:
            self.waiting.append(job)
            self.change.notify()
        return job

    def expire(self, job: Job) -> None:
        """A job that was not begun in time; one that is being written watches the clock itself."""
        if not job.started and not job.done:
            self.metrics.count("expired")
            job.events.put_nowait(HttpError(504, f"not begun within {self.limits.text_seconds:g} seconds"))
            job.stop()

    def withdraw(self, job: Job) -> None:
        """Take a job out of the queue, so that what nobody waits for holds no memory."""
        with self.change, suppress(ValueError):
            self.waiting.remove(job)

    def leave(self, job: Job) -> None:
        """Give back a job's room, and tell its reader that nothing more comes."""
        if not job.done:
            job.done = True
            if job.timer is not None:
                job.timer.cancel()
            self.texts -= job.texts
            self.jobs.discard(job)
            self.metrics.count("written_tokens", job.tokens)
            job.events.put_nowait(END)

    def finish(self, job: Job, seconds: float) -> None:
        if not job.stopped.is_set():  # a text that was broken off tells nothing of the pace
            self.seconds_per_text += 0.3 * (seconds / job.texts - self.seconds_per_text)
        self.leave(job)

    def close(self) -> None:
        """Stop what is written, and the threads."""
        for job in list(self.jobs):
            job.stop()
        with self.change:
            self.closed = True
            self.change.notify_all()
        for thread in self.threads:
            if thread.is_alive():
                thread.join(timeout=5)

    # In the threads

    def work(self) -> None:
        while (job := self.take()) is not None:
            began = time.perf_counter()
            if not job.stopped.is_set():
                try:
                    job.work(job)
                except BaseException as error:  # noqa: BLE001  # a native library's panic must not end the thread
                    job.emit(failed(error).error(""))
            self.loop.call_soon_threadsafe(self.finish, job, time.perf_counter() - began)

    def take(self) -> Job | None:
        with self.change:
            while not self.waiting and not self.closed:
                self.change.wait()
            if self.closed:
                return None
            job = self.waiting.popleft()
            job.started = True
            return job


def written(generator: Generator, wanted: Wanted) -> Callable[[Job], None]:
    """Work that emits the finished texts, as one list."""

    def work(job: Job) -> None:
        found = generator.complete(
            wanted.prompts, wanted.options, n=wanted.n, seconds=job.seconds, cancelled=job.stopped.is_set
        )
        job.tokens = sum(item.tokens for item in found)
        job.emit(found)

    return work


def streamed(generator: Generator, wanted: Wanted) -> Callable[[Job], None]:
    """Work that emits `Begun`, then each piece."""

    def work(job: Job) -> None:
        sizes = [len(generator.encode(prompt)) for prompt in wanted.prompts]
        job.emit(Begun(sum(sizes), max(sizes) >= generator.decoder.shape.window))
        tokens = [0] * wanted.texts
        pieces = generator.stream(
            wanted.prompts, wanted.options, n=wanted.n, seconds=job.seconds, cancelled=job.stopped.is_set
        )
        for piece in pieces:
            tokens[piece.index] = piece.tokens
            job.tokens = sum(tokens)
            job.emit(piece)

    return work


@asynccontextmanager
async def attended(desk: Desk, request: Request, wanted: Wanted, *, pieces: bool) -> AsyncIterator[Job]:
    """A job that is stopped when its client goes away, or when the block is left."""
    generator = request.model.generator
    assert generator is not None
    job = desk.submit(wanted.texts, (streamed if pieces else written)(generator, wanted))

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
                texts: list[Completion] = found
                return texts
    raise Disconnected
