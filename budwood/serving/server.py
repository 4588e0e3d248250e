"""Serve models over HTTP.

`serve` blocks and runs worker processes; `start` runs one worker in a thread, for tests, notebooks and demos.
"""

import asyncio
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from budwood.core import registry
from budwood.core.errors import UsageError
from budwood.serving.auth import Keys, check_binding, checked_hosts
from budwood.serving.ending import Stop
from budwood.serving.journal import prepare
from budwood.serving.limits import Limits
from budwood.serving.memory import share
from budwood.serving.metrics import allocate
from budwood.serving.model import Served
from budwood.serving.prediction_log import LogOptions
from budwood.serving.rates import allocate_rates
from budwood.serving.supervisor import Supervisor
from budwood.serving.worker import Plan, event_loop, run

__all__ = ["Handle", "Served", "check", "serve", "start", "usable_cores", "usual_workers"]

Count = int | Literal["auto"]
CORES_PER_WORKER = 2


def serve(
    entries: Sequence[Served],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: Count = "auto",
    runtime: str = "auto",
    keys: Path | None = None,
    max_queue: int = 100,
    limits: Limits | None = None,
    hosts: Collection[str] = (),
    access_log: bool = False,
    memory: "float | str | None" = None,
    log: LogOptions | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until SIGTERM; then accepted requests finish, new ones get 503, and it returns.

    Args:
        entries: the models; the first one answers /predict.
        port: 0 takes a free one; `on_ready` is told the address.
        workers: processes that share the port; `auto` is one for two usable cores; `worker_choice.decide` measures.
        runtime: a runtime's name, or `auto`.
        keys: the file of API keys. Needed when `host` is not loopback.
        max_queue: while so many inputs wait, over all workers, a request is refused.
        limits: all other limits.
        hosts: names that are accepted as Host, beside those of this machine. On loopback no others are; on another
            address all are unless some are named.
        access_log: write a JSON line for each request to standard error.
        memory: megabytes that open models may take, over all workers, or `auto` for a share of this container's;
            beyond it the least recently used are closed, and opened again when they are asked for.
        log: what is kept of the predictions; nothing by default.

    Raises:
        UsageError: a parameter is off, or the port is taken.
        BundleError: a model must not be served.
        KeyboardInterrupt: Ctrl-C, after the accepted requests are answered.
    """
    plan = make_plan(entries, host, workers, runtime, keys, max_queue, limits)
    plan = replace(plan, hosts=checked_hosts(hosts), access_log=access_log, memory=share(memory))
    plan = logged(plan, log)
    listeners = bind(host, port, plan.workers)
    url = address(host, listeners[0])
    try:
        received = Supervisor(plan, listeners, allocate(plan.layout), lambda: on_ready(url)).run()
    finally:
        shutil.rmtree(plan.scratch, ignore_errors=True)
    if received == signal.SIGINT:
        raise KeyboardInterrupt


def start(
    entries: Sequence[Served],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    runtime: str = "auto",
    keys: Path | None = None,
    max_queue: int = 100,
    limits: Limits | None = None,
    hosts: Collection[str] = (),
    access_log: bool = False,
    memory: "float | str | None" = None,
    log: LogOptions | None = None,
) -> "Handle":
    """The same server with one worker in a thread of this process; returns when ready, raises as `serve` does."""
    plan = make_plan(entries, host, 1, runtime, keys, max_queue, limits)
    plan = replace(plan, hosts=checked_hosts(hosts), access_log=access_log, memory=share(memory))
    plan = logged(plan, log)
    places = plan.open()
    (listener,) = bind(host, port, 1)
    loop, stop, ready = event_loop(), Stop(), threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(run(plan, 0, places, listener, allocate(plan.layout), stop, ready.set))
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            failures.append(error)
        finally:
            loop.close()
            shutil.rmtree(plan.scratch, ignore_errors=True)
            ready.set()

    thread = threading.Thread(target=work, name="budwood-server", daemon=True)
    url = address(host, listener)
    thread.start()
    ready.wait()
    if failures:
        raise failures[0]
    return Handle(url, thread, loop, stop)


@dataclass(frozen=True)
class Handle:
    """A server in the background. Use it as a context manager, or call `stop`."""

    url: str
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event

    def stop(self) -> None:
        """Drain, and return when all is answered. Calling it twice is harmless."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stopping.set)
            self.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def logged(plan: Plan, log: LogOptions | None) -> Plan:
    """The plan with a prediction log, whose file is made. Raises UsageError when it cannot be."""
    if log is not None:
        prepare(log.file)
    return replace(plan, log=log)


def make_plan(
    entries: Sequence[Served],
    host: str,
    workers: Count,
    runtime: str,
    keys: Path | None,
    max_queue: int,
    limits: Limits | None,
) -> Plan:
    """Check the parameters, and share the cores out. Raises UsageError."""
    check_served(entries)
    check_binding(host, keys)
    if keys is not None:
        Keys(keys)
    cores = usable_cores()
    count = usual_workers(cores) if workers == "auto" else workers
    if count < 1:
        raise UsageError(f"{count} workers cannot answer", where="--workers", fix="--workers 1, or auto")
    every = replace(limits or Limits(), queue=max_queue)
    rates = allocate_rates() if keys is not None else None
    return Plan(tuple(entries), host, count, max(1, cores // count), runtime, keys, every, rates=rates)


def check_served(entries: Sequence[Served]) -> None:
    """Raises UsageError where there are no models, or one is named twice."""
    if not entries:
        raise UsageError("there is nothing to serve", where="MODEL", fix="budwood serve NAME")
    served = [(entry.name, entry.version) for entry in entries]
    if len(set(served)) != len(served):
        twice = next(f"{name}:{version}" for name, version in served if served.count((name, version)) > 1)
        fix = "name each version once; folders outside the store need names that differ"
        raise UsageError(f"a model is named twice: {twice}", where="MODEL", fix=fix)


def check(
    entries: Sequence[Served],
    host: str,
    port: int,
    runtime: str,
    keys: Path | None,
    hosts: Collection[str],
    memory: "float | str | None",
    log: LogOptions | None,
) -> None:
    """Find in a moment what `serve` would refuse, before something slow is done for it.

    Raises:
        UsageError: a parameter is off, or the port is taken.
        NotFoundError: there is no such file of keys, or no such runtime.
    """
    check_served(entries)
    check_binding(host, keys)
    if keys is not None:
        Keys(keys)
    checked_hosts(hosts)
    share(memory)
    if log is not None:
        prepare(log.file)
    if runtime != "auto":
        registry.get("runtimes", runtime)
    for listener in bind(host, port, 1):
        listener.close()


def usual_workers(cores: int) -> int:
    """The number of workers where nothing was measured."""
    return max(1, -(-cores // CORES_PER_WORKER))


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # there is no such file, or the quota is "max"
        return cores


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """One socket a worker on one port; the kernel shares connections out among them.

    Raises:
        UsageError: the port is taken, or the host is not one of this machine.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as undo:
            first = undo.enter_context(socket.socket(family, kind, protocol))
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Without SO_REUSEPORT first: it would let us share the port with a server that runs already.
            first.bind(where)
            if count == 1 or not hasattr(socket, "SO_REUSEPORT"):
                undo.pop_all()
                return [first] * count
            taken = first.getsockname()
            first.close()
            return [shared(family, kind, taken) for _ in range(count)]
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            where="--port",
            fix=f"--port {port + 1 if 0 < port < 65535 else 0}, or end the process that has it",
        ) from error


def shared(family: int, kind: int, where: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(where)
    return listener


def address(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
