"""The parent of the worker processes: it starts them, starts a crashed one again, and stops all when told to."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from ctypes import Array, c_double
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from budwood.core.errors import BudwoodError
from budwood.serving.metrics import Metrics
from budwood.serving.worker import Plan, process

__all__ = ["Supervisor", "start_method"]

logger = logging.getLogger("budwood.serving")

SLOWEST_RESTART = 10.0
HEALTHY_AFTER = 10.0
"""A worker that ran this long is restarted at once; one that fails sooner waits longer each time, in seconds."""
STARTS = 8
"""When a worker did not get ready so many times in a row, the server gives up: its share of the connections waits."""


def start_method() -> str:
    """Fork shares what is imported already. It is safe only while this process has one thread and no torch."""
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    return "fork" if sys.platform == "linux" and alone else "spawn"


@dataclass
class Slot:
    """The place of one worker: its process now, and when to start it again."""

    number: int
    listener: socket.socket
    process: BaseProcess | None = None
    pipe: Connection | None = None
    ready: bool = False
    started: float = 0.0
    failures: int = 0
    unready: int = 0
    """How many times in a row it ended before it was ready."""
    refused: BudwoodError | None = None
    """Why it did not start."""
    restart_at: float = 0.0


@dataclass
class Supervisor:
    """Runs the workers of a plan until it is told to stop.

    Args:
        listeners: one socket a worker. They stay open here, so that connections wait while a worker is started again.
        on_ready: called once, when all workers answer.
    """

    plan: Plan
    listeners: Sequence[socket.socket]
    memory: "Array[c_double]"
    on_ready: Callable[[], None]
    slots: list[Slot] = field(default_factory=list)
    received: int = 0
    """The signal that ended it, 0 before."""

    def run(self) -> int:
        """Blocks. Returns the signal that ended it.

        Raises:
            BudwoodError: a worker could not start for the first time, or several times in a row later; the others
                are stopped.
        """
        self.metrics = Metrics(self.plan.layout, self.memory, self.plan.layout.rows - 1)
        self.slots = [Slot(i, listener) for i, listener in enumerate(self.listeners)]
        wake, woken = os.pipe()
        before = self.install_signals(woken)
        try:
            for slot in self.slots:
                self.start(slot)
            self.watch(wake)
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(woken)
        return self.received

    def install_signals(self, woken: int) -> dict[int, Any]:
        def note(number: int, frame: object) -> None:
            if self.received:
                # The second one does not wait for requests in flight.
                for slot in self.slots:
                    if slot.process is not None and slot.process.is_alive():
                        slot.process.kill()
            self.received = self.received or number
            os.write(woken, b"x")

        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}

    def start(self, slot: Slot) -> None:
        context = multiprocessing.get_context(start_method())
        slot.pipe, theirs = context.Pipe(duplex=False)
        arguments = (self.plan, slot.number, slot.listener, self.memory, theirs)
        slot.process = context.Process(target=process, args=arguments, name=f"budwood-worker-{slot.number}")  # type: ignore[attr-defined]
        slot.process.start()
        theirs.close()
        slot.ready, slot.started = False, time.monotonic()

    def watch(self, wake: int) -> None:
        announced = False
        while not self.received:
            waited: list[Any] = [wake]
            for slot in self.slots:
                waited += [item for item in (slot.process and slot.process.sentinel, slot.pipe) if item is not None]
            wait(waited, timeout=self.patience())
            if self.received:
                return
            for slot in self.slots:
                self.look(slot, announced)
            if not announced and all(slot.ready for slot in self.slots):
                announced = True
                self.on_ready()

    def patience(self) -> float | None:
        """Seconds until the next restart; None when none is due."""
        due = [slot.restart_at for slot in self.slots if slot.process is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def look(self, slot: Slot, announced: bool) -> None:
        if slot.pipe is not None and slot.pipe.poll():
            self.hear(slot, announced)
        if slot.process is not None and not slot.process.is_alive():
            self.bury(slot, announced)
        if slot.process is None and time.monotonic() >= slot.restart_at:
            self.metrics.count("worker_restarts")
            self.start(slot)

    def hear(self, slot: Slot, announced: bool) -> None:
        pipe = slot.pipe
        if pipe is None:
            return
        try:
            message = pipe.recv()
        except EOFError:
            message = None
        pipe.close()
        slot.pipe = None
        if isinstance(message, tuple):
            kind, cause, where, fix = message
            slot.refused = kind(cause, where=where, fix=fix)
            if not announced:
                raise slot.refused
            logger.error("worker %d refuses to start: %s", slot.number, cause)
        slot.ready = message == "ready"
        if slot.ready:
            slot.unready, slot.refused = 0, None

    def bury(self, slot: Slot, announced: bool) -> None:
        """Note that a worker ended unexpectedly, and when it is started again."""
        ended = slot.process
        if ended is None:
            return
        ended.join()
        code, lived = ended.exitcode, time.monotonic() - slot.started
        slot.unready += not slot.ready
        if slot.unready and (not announced or slot.unready >= STARTS):
            raise slot.refused or BudwoodError(
                f"a worker ended while it started (exit code {code})", where=f"worker {slot.number}"
            )
        slot.failures = 0 if lived > HEALTHY_AFTER else slot.failures + 1
        delay = min(SLOWEST_RESTART, 0.1 * 2 ** (slot.failures - 1)) if slot.failures > 1 else 0.0
        slot.restart_at = time.monotonic() + delay
        slot.process, slot.pipe = None, None
        logger.warning("worker %d ended (exit code %s); it is started again in %.1f s", slot.number, code, delay)

    def stop(self) -> None:
        """Tell all workers to drain, and wait. Our copies of the sockets close first, so that theirs decide."""
        for listener in self.listeners:
            listener.close()
        living = [slot.process for slot in self.slots if slot.process is not None]
        for worker in living:
            if worker.is_alive():
                worker.terminate()
        deadline = time.monotonic() + self.plan.limits.drain_seconds + 5
        for worker in living:
            worker.join(max(0.1, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()
