"""The parent of the worker processes: it starts them, starts a crashed one again, and stops all when told to.

A worker that takes too much memory is replaced: when its successor answers, it finishes its requests and ends.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ctypes import Array, c_double
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from budwood.core.errors import BudwoodError
from budwood.serving.memory import container_megabytes, process_megabytes
from budwood.serving.metrics import Metrics
from budwood.serving.worker import HAND_OVER, Plan, process

__all__ = ["Supervisor", "start_method"]

logger = logging.getLogger("budwood.serving")

SLOWEST_RESTART = 10.0
SLOWEST_READY_RESTART = 1.0
"""For one that has answered: whatever kills it comes with the requests, and the others should not be alone for long."""
HEALTHY_AFTER = 10.0
"""A worker that ran this long is restarted at once; one that fails sooner waits longer each time, in seconds."""
WEIGH_SECONDS = 2.0
"""How often the memory of the workers is looked at."""
SHARE = 0.8
"""Of the memory of the container, what all workers may take together with a successor."""
GROWN = 1.5
"""A worker that is hardly larger than when it was ready is not replaced: the next one would be as large."""
REPLACE_AGAIN_SECONDS = 60.0
"""When a successor did not start, the next attempt comes so much later."""
ATTEMPTS = 2
"""A version whose opening has ended so many processes is opened no more, as one that memory does not suffice for."""
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
    """Its row in the figures."""
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
    opening: tuple[str, int] | None = None
    """The version that it opens now, if an alias was moved to it after the server began."""
    megabytes: float = 0.0
    """Resident memory when it was ready."""


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
    successor: Slot | None = None
    """A worker that starts in order to take over from `replaced`."""
    replaced: Slot | None = None
    """A worker that has become too large; it ends when its successor answers."""
    replace_after: float = 0.0
    deaths: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many processes ended while they opened a version."""
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
                for slot in self.living:
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
        deadly = frozenset(version for version, count in self.deaths.items() if count >= ATTEMPTS)
        arguments = (self.plan, slot.number, slot.listener, self.memory, theirs, deadly)
        slot.process = context.Process(target=process, args=arguments, name=f"budwood-worker-{slot.number}")  # type: ignore[attr-defined]
        slot.process.start()
        theirs.close()
        slot.ready, slot.started, slot.megabytes, slot.opening = False, time.monotonic(), 0.0, None

    def watch(self, wake: int) -> None:
        announced = False
        while not self.received:
            waited: list[Any] = [wake]
            for slot in self.living:
                waited += [item for item in (slot.process and slot.process.sentinel, slot.pipe) if item is not None]
            wait(waited, timeout=self.patience())
            if self.received:
                return
            for slot in self.slots:
                self.look(slot, announced)
            self.look_at_successor()
            if announced:
                self.weigh()
            if not announced and all(slot.ready for slot in self.slots):
                announced = True
                self.on_ready()

    @property
    def living(self) -> list[Slot]:
        """All workers, those that begin and end too."""
        return [*self.slots, *(slot for slot in (self.successor, self.replaced) if slot and slot not in self.slots)]

    def patience(self) -> float:
        """Seconds until the next restart is due, or the next look at the memory."""
        due = [slot.restart_at - time.monotonic() for slot in self.slots if slot.process is None]
        return max(0.0, min([*due, WEIGH_SECONDS]))

    # Memory

    def weigh(self) -> None:
        """Begin to replace the oldest worker that has become too large, if none is being replaced."""
        now = time.monotonic()
        if self.successor is not None or self.replaced is not None or now < self.replace_after:
            return
        self.replace_after = now + WEIGH_SECONDS
        large = [slot for slot in self.slots if self.too_large(slot)]
        if large:
            old = min(large, key=lambda slot: slot.started)
            free = {*range(self.plan.workers + 1)} - {slot.number for slot in self.slots}
            self.successor, self.replaced = Slot(min(free), old.listener), old
            self.start(self.successor)

    def too_large(self, slot: Slot) -> bool:
        pid = slot.process.pid if slot.process is not None and slot.ready else None
        megabytes = process_megabytes(pid) if pid else 0.0
        slot.megabytes = slot.megabytes or megabytes
        too_large = megabytes > self.limit and megabytes > GROWN * slot.megabytes
        if too_large:
            logger.warning("worker %d takes %.0f MB; another takes its place", slot.number, megabytes)
        return too_large

    @property
    def limit(self) -> float:
        """Megabytes that a worker may take."""
        given = self.plan.limits.worker_bytes
        return given / 1e6 if given is not None else container_megabytes() * SHARE / (self.plan.workers + 1)

    def look_at_successor(self) -> None:
        """Let a successor that answers take over; give one up that has ended, and forget a worker that has."""
        new, old = self.successor, self.replaced
        if new is not None and old is not None:
            while new.pipe is not None and new.pipe.poll():
                self.hear(new, announced=True)
            if new.ready:
                self.slots[self.slots.index(old)] = new
                self.successor = None
                self.metrics.count("worker_replacements")
                if old.process is not None and old.process.pid is not None and old.process.is_alive():
                    os.kill(old.process.pid, HAND_OVER)
            elif new.process is not None and not new.process.is_alive():
                logger.error("worker %d goes on: its successor did not start", old.number)
                self.blame(new)
                self.successor = self.replaced = None
                self.replace_after = time.monotonic() + REPLACE_AGAIN_SECONDS
        elif old is not None and (old.process is None or not old.process.is_alive()):
            self.replaced = None
            self.clear(old)

    def clear(self, slot: Slot) -> None:
        """Set the gauges of a worker that has ended to 0."""
        Metrics(self.plan.layout, self.memory, slot.number)

    def look(self, slot: Slot, announced: bool) -> None:
        while slot.pipe is not None and slot.pipe.poll():
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
            message = ""
        if message is None or (isinstance(message, tuple) and len(message) == 2):
            slot.opening = message
            return
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
        self.clear(slot)
        code, lived = ended.exitcode, time.monotonic() - slot.started
        slot.unready += not slot.ready
        self.blame(slot)
        if slot.unready and (not announced or slot.unready >= STARTS):
            raise slot.refused or BudwoodError(
                f"a worker ended while it started (exit code {code})", where=f"worker {slot.number}"
            )
        slot.failures = 0 if lived > HEALTHY_AFTER else slot.failures + 1
        slowest = SLOWEST_READY_RESTART if slot.ready else SLOWEST_RESTART
        delay = min(slowest, 0.1 * 2 ** (slot.failures - 1)) if slot.failures > 1 else 0.0
        slot.restart_at = time.monotonic() + delay
        slot.process, slot.pipe = None, None
        logger.warning("worker %d ended (exit code %s); it is started again in %.1f s", slot.number, code, delay)

    def blame(self, slot: Slot) -> None:
        """Count what an ended worker was opening."""
        if slot.opening is not None:
            self.deaths[slot.opening] += 1
            logger.error("worker %d ended while it opened version %d of %s", slot.number, *reversed(slot.opening))

    def stop(self) -> None:
        """Tell all workers to drain, and wait. Our copies of the sockets close first, so that theirs decide."""
        for listener in self.listeners:
            listener.close()
        living = [slot.process for slot in self.living if slot.process is not None]
        for worker in living:
            if worker.is_alive():
                worker.terminate()
        deadline = time.monotonic() + self.plan.limits.drain_seconds + 5
        for worker in living:
            worker.join(max(0.1, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()
