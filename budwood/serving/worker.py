"""One worker, in a process or in a thread: it opens the models, listens, answers, and drains when told to stop."""

import asyncio
import gc
import json
import logging
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from ctypes import Array, c_double
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn
from uvicorn.server import ServerState

from budwood.core.errors import BudwoodError
from budwood.serving.access import Access
from budwood.serving.app import App
from budwood.serving.auth import Keys, is_loopback
from budwood.serving.batch import Batcher
from budwood.serving.desk import Desk
from budwood.serving.ending import Stop, drain, hand_over
from budwood.serving.limits import Limits
from budwood.serving.live_accuracy import Feedback
from budwood.serving.metrics import Board, Layout, Metrics, make_layout
from budwood.serving.model import Served, describe, first_line
from budwood.serving.pages import static_files
from budwood.serving.prediction_log import LogOptions, PredictionLog
from budwood.serving.protocol import LimitedProtocol, sweep
from budwood.serving.rates import Rates
from budwood.serving.service import Service
from budwood.serving.shelf import Place, Shelf, Trial, open_places
from budwood.serving.telemetry import Telemetry

__all__ = ["HAND_OVER", "Plan", "event_loop", "process", "run"]

logger = logging.getLogger("budwood.serving")

TICK_SECONDS = 1.0
HAND_OVER = getattr(signal, "SIGUSR1", signal.SIGTERM)
"""Tells a worker that another one has taken its place; Windows has no signal for it."""


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to know; it is pickled where workers are spawned."""

    entries: tuple[Served, ...]
    host: str
    workers: int
    runners: int
    """Threads of one worker that compute batches at the same time."""
    runtime: str
    keys: Path | None
    limits: Limits
    hosts: frozenset[str] = frozenset()
    """Names that are accepted as Host, beside those of this machine."""
    access_log: bool = False
    memory: float = math.inf
    """Megabytes that the open models of all workers may take together."""
    log: LogOptions | None = None
    """The prediction log, where one is kept."""
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / f"budwood-{secrets.token_hex(16)}")
    """A folder that is made when it is needed, and removed when the server ends."""
    rates: "Array[c_double] | None" = None
    """The shared memory of the keys' rate limits, where there are keys."""

    @property
    def layout(self) -> Layout:
        return make_layout([describe(entry) for entry in self.entries], self.workers)

    @property
    def journal(self) -> Path:
        """Where labels that come later are kept."""
        return self.log.file if self.log is not None else self.scratch / "feedback.sqlite"

    @property
    def megabytes(self) -> float:
        """What the open models of one worker may take together."""
        return self.memory / self.workers

    def open(self, trial: Trial | None = None) -> list[Place]:
        """Open all models. Raises BundleError when one must not be served."""
        entries = [replace(entry, cores=self.runners) for entry in self.entries]
        return open_places(entries, self.runtime, self.limits.batch, self.megabytes, trial)


def event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it exists, otherwise the standard one."""
    try:
        import uvloop
    except ModuleNotFoundError:  # there is none for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def process(
    plan: Plan,
    number: int,
    listener: socket.socket,
    memory: "Array[c_double]",
    pipe: Connection,
    deadly: frozenset[tuple[str, int]],
) -> None:
    """The main function of a worker process. It says `ready`, or sends the error that keeps it from starting.

    Before, it says which version it opens, if that came later than the server; `deadly` ones are not opened.
    """
    ready = False

    def announce() -> None:
        nonlocal ready
        ready = True
        pipe.send("ready")

    try:
        work(plan, number, listener, memory, announce, Trial(deadly, pipe.send))
    except BaseException as error:
        # Once it has answered requests, its end is a crash, and the parent starts it again.
        if ready or isinstance(error, SystemExit):
            raise
        told = refusal(error)
        # Its arguments are by keyword, so the error itself cannot travel.
        pipe.send((type(told), told.cause, told.where, told.fix))
        sys.exit(1)


def work(
    plan: Plan,
    number: int,
    listener: socket.socket,
    memory: "Array[c_double]",
    on_ready: Callable[[], None],
    trial: Trial,
) -> None:
    """Open the models and answer until SIGTERM, or until the parent is gone."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C reaches the whole group; the parent answers it, and tells the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Each runner is one thread; a tokenizer that starts its own would take the core of another runner.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    log_to_stderr(number)
    places = plan.open(trial)
    gc.collect()
    gc.freeze()
    loop = event_loop()
    asyncio.set_event_loop(loop)
    stop = Stop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(HAND_OVER, stop.set_gently)
    parent = os.getppid()

    def stop_if_orphaned() -> None:
        if os.getppid() != parent:
            stop.set()

    loop.run_until_complete(run(plan, number, places, listener, memory, stop, on_ready, stop_if_orphaned))
    loop.close()


def refusal(error: BaseException) -> BudwoodError:
    """Whatever keeps a worker from starting, as cause, place and fix."""
    if isinstance(error, BudwoodError):
        return error
    if isinstance(error, MemoryError):
        return BudwoodError("there is not enough memory for the model", fix="--workers 1, or serve a smaller model")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return BudwoodError(
        f"a worker could not start: {first_line(error)}",
        where=f"{frame.filename}:{frame.lineno} in {frame.name}",
        fix="run it again, and report it if it stays",
    )


async def run(
    plan: Plan,
    number: int,
    places: list[Place],
    listener: socket.socket,
    memory: "Array[c_double]",
    stop: Stop,
    on_ready: Callable[[], None],
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Answer until `stop` is set, then finish what was accepted, and close the sockets."""
    loop = asyncio.get_running_loop()
    limits = plan.limits
    metrics = Metrics(plan.layout, memory, number)
    batcher = Batcher(loop, limits, -(-limits.queue // plan.workers), plan.runners, metrics)
    keys = Keys(plan.keys, Rates(plan.rates)) if plan.keys else None
    board = Board(plan.layout, memory)
    desk = Desk(loop, limits, metrics)
    shelf = Shelf(places, plan.runtime, plan.megabytes, limits, metrics, batcher, desk)
    service = Service(shelf, batcher, desk, metrics, board, limits, keys, is_loopback(plan.host), pages=static_files())
    service.hosts, service.access = plan.hosts, Access(number) if plan.access_log else None
    service.feedback = Feedback(plan.journal, plan.log is not None)
    service.monitor.log = PredictionLog(plan.log, metrics.count) if plan.log else None
    telemetry = Telemetry.open(service, number, os.environ)
    config = uvicorn.Config(
        App(service, telemetry),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        # The caller's address is not used, so X-Forwarded-For has nothing to say.
        proxy_headers=False,
        timeout_keep_alive=max(1, int(limits.keep_alive_seconds)),
    )
    config.load()
    state = ServerState()
    server = await loop.create_server(lambda: LimitedProtocol(config, state, limits), sock=listener, backlog=2048)
    metrics.gauge("workers_ready", 1)
    on_ready()
    ticker = loop.create_task(tick(service, state, on_tick))
    await stop.wait()
    await (hand_over if stop.gently else drain)(service, state, server)
    ticker.cancel()
    desk.close()
    batcher.close()
    service.monitor.close()
    if telemetry is not None:
        telemetry.close()
    await shelf.close()


async def tick(service: Service, state: ServerState, on_tick: Callable[[], None]) -> None:
    """Once a second: close overdue connections, publish gauges, look at aliases and at the keys file."""
    while True:
        await asyncio.sleep(TICK_SECONDS)
        try:
            beat(service, state)
        except Exception as error:
            logger.exception("what is done once a second failed: %s", type(error).__name__)
        on_tick()


def beat(service: Service, state: ServerState) -> None:
    sweep(state, asyncio.get_running_loop().time())
    service.shelf.tick()
    service.metrics.gauge("queue_depth", service.batcher.depth)
    service.metrics.gauge("texts", service.desk.texts)
    service.metrics.gauge("connections", len(state.connections))
    if service.keys is not None:
        try:
            service.keys.refresh()
        except BudwoodError as error:
            logger.error("the keys file is left as it was: %s", error.cause)


def log_to_stderr(number: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(number))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)  # a library that warns of an odd image must not write lines of its own
    logger.setLevel(logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: nothing that a caller sends can start a new line or move the cursor."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self.worker = worker

    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        text = record.getMessage()
        if len(text) > LONGEST_MESSAGE:
            text = f"{text[:LONGEST_MESSAGE]} … ({len(text)} characters)"
        entry = {"time": now, "level": record.levelname.lower(), "worker": self.worker, "message": text}
        return json.dumps(entry)


LONGEST_MESSAGE = 4_000
"""Characters of a message that are kept: whoever can put something long into one must not fill the disk."""
