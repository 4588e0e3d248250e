"""How many worker processes answer the most: each way to share the cores out is tried for a second, and remembered.

`python -m budwood.serving.worker_choice FOLDER RUNTIME RUNNERS CLIENTS` is one worker without sockets: it says `ready`,
and for each line on its standard input how many requests it answered in a second. The parent calls `decide`.
"""

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from budwood.core.bundle import Bundle, digest
from budwood.core.commit import write_atomic
from budwood.core.errors import StorageError
from budwood.core.step import Progress, silent
from budwood.engine import conformance
from budwood.engine.child import child_command, child_environment
from budwood.engine.predictor import task_of
from budwood.engine.runtime_choice import place, remembered
from budwood.engine.table import note
from budwood.engine.user_cache import user_cache
from budwood.serving.app import App
from budwood.serving.batch import Batcher
from budwood.serving.desk import Desk
from budwood.serving.limits import Limits
from budwood.serving.memory import AUTO_SHARE, container_megabytes, process_megabytes
from budwood.serving.metrics import Board, Metrics, allocate, make_layout
from budwood.serving.model import Served, describe
from budwood.serving.server import usable_cores, usual_workers
from budwood.serving.service import Service
from budwood.serving.shelf import Shelf, open_places

__all__ = ["Shares", "decide", "measure", "ways"]

SECONDS = 1.0
ROUNDS = 2
CLIENTS = 8
"""For each core: enough that batches form, as they do under load."""
LEAST_GAIN = 0.05
"""How much more a way with more processes must answer: each of them holds the models once more."""
PATIENCE_SECONDS = 60.0

Shares = dict[int, float]
"""Requests a second by the number of workers, which share the cores."""


def ways(cores: int) -> list[int]:
    """Numbers of workers that are tried: one, one for two cores, one for each core."""
    return sorted({1, -(-cores // 2), cores})


def decide(bundle: Bundle, runtime: str = "auto", progress: Progress = silent) -> int:
    """The number of workers for a model on this machine, measured now where it was not measured before.

    Where there is one core there is no choice. A model that writes texts is not measured: one thread writes all of them
    side by side, with several cores for each step. `progress` gets a line with the choice and its reason.
    """
    cores = usable_cores()
    if cores == 1 or task_of(bundle).writes:
        return usual_workers(cores)
    chosen = remembered(bundle) if runtime == "auto" else runtime
    path = (
        user_cache("workers") / f"{digest({'model': place(bundle).name, 'runtime': chosen, 'cores': cores})[:32]}.json"
    )
    found = recall(path, cores)
    if found is None:
        progress("workers", 0, 0, note("workers", "auto", "measuring ways to share the cores out, once"))
        try:
            found = measure(bundle, chosen, cores)
            remember(path, found)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            count = usual_workers(cores)
            progress("workers", 0, 0, note("workers", str(count), f"measuring failed: {type(error).__name__}"))
            return count
    count = best(found)
    told = ", ".join(
        f"{rate:,.0f}/s with {number} x {max(1, cores // number)} threads" for number, rate in found.items()
    )
    progress("workers", 0, 0, note("workers", str(count), f"{told}; remembered"))
    return count


def best(found: Shares) -> int:
    """The least number of workers that answers about as much as the best."""
    most = max(found.values())
    return min(number for number, rate in found.items() if rate * (1 + LEAST_GAIN) >= most)


def recall(path: Path, cores: int) -> Shares | None:
    try:
        found = {int(number): float(rate) for number, rate in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # what cannot be read is measured again
        return None
    known = 1 in found and set(found) <= set(ways(cores))
    return found if known and all(math.isfinite(rate) and rate >= 0 for rate in found.values()) else None


def remember(path: Path, found: Shares) -> None:
    """Keep a measurement. Without a disk it is measured again."""
    try:
        write_atomic(path, json.dumps(found).encode() + b"\n")
    except (OSError, StorageError):
        return


def measure(bundle: Bundle, runtime: str, cores: int, seconds: float = SECONDS) -> Shares:
    """What each way answers. Ways whose models would not fit into memory are left out.

    Raises:
        OSError, ValueError, subprocess.SubprocessError: a worker did not start, or ended.
    """
    found: Shares = {}
    room = container_megabytes() * AUTO_SHARE or math.inf
    megabytes = 0.0
    for workers in ways(cores):
        if workers * megabytes > room:
            break
        with ExitStack() as stack:
            arguments = (str(bundle.path), runtime, str(max(1, cores // workers)), str(CLIENTS * cores // workers))
            crew = [stack.enter_context(child(*arguments, str(seconds))) for _ in range(workers)]
            for process in crew:
                hear(process)
            megabytes = process_megabytes(crew[0].pid)
            found[workers] = max(turn(crew) for _ in range(ROUNDS))
    return found


class child:
    """A worker that is ended at the end of the block."""

    def __init__(self, *arguments: str) -> None:
        self.command = child_command("budwood.serving.worker_choice", *arguments)

    def __enter__(self) -> subprocess.Popen[str]:
        surroundings = child_environment() | {"TOKENIZERS_PARALLELISM": "false"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, env=surroundings, text=True, **pipes)
        return self.process

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def hear(process: subprocess.Popen[str]) -> str:
    """The next line of a worker. Raises ValueError when it has ended, or is silent for too long."""
    assert process.stdout is not None
    from selectors import EVENT_READ, DefaultSelector

    with DefaultSelector() as selector:
        selector.register(process.stdout, EVENT_READ)
        line = process.stdout.readline() if selector.select(PATIENCE_SECONDS) else ""
    if not line:
        raise ValueError("a worker ended, or is silent")
    return line


def turn(crew: Sequence[subprocess.Popen[str]]) -> float:
    """Requests a second of all workers together."""
    for process in crew:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(hear(process)) for process in crew)


# In the child


def bodies(bundle: Bundle) -> list[bytes]:
    """Requests that suit the model: its golden rows, else the example of its task."""
    task = task_of(bundle)
    if conformance.FILE in bundle.names:
        items = conformance.read(bundle)["inputs"]
    else:
        items = [task.item(row) for row in task.example()[1]]
    return [json.dumps(item).encode() for item in items]


def worker(bundle: Bundle, runtime: str, runners: int, loop: asyncio.AbstractEventLoop) -> App:
    """A worker without sockets."""
    limits = Limits(queue=1 << 20)
    entry = Served("model", "1", bundle)
    layout = make_layout([describe(entry)], 1)
    memory = allocate(layout)
    metrics = Metrics(layout, memory, 0)
    batcher, desk = Batcher(loop, limits, limits.queue, runners, metrics), Desk(loop, limits, metrics)
    shelf = Shelf(open_places([entry], runtime, limits.batch), runtime, math.inf, limits, metrics, batcher, desk)
    return App(Service(shelf, batcher, desk, metrics, Board(layout, memory), limits))


async def ask(app: App, body: bytes, number: int) -> None:
    """One request, as the sockets would hand it over."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(body)).encode()))
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
    scope |= {"headers": headers, "client": ("127.0.0.1", number)}
    statuses: list[int] = []
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # the client stays
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    await app(scope, receive, send)
    if statuses[0] != 200:
        raise ValueError(f"the model answered with status {statuses[0]}")


async def answered(app: App, requests: Sequence[bytes], clients: int, seconds: float) -> float:
    """Requests a second of so many clients that ask without a pause."""
    count, start = 0, time.perf_counter()

    async def client(number: int) -> None:
        nonlocal count
        turn = number
        while time.perf_counter() - start < seconds:
            await ask(app, requests[turn % len(requests)], number)
            count, turn = count + 1, turn + 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    return count / (time.perf_counter() - start)


def main(arguments: Sequence[str]) -> None:
    from budwood.serving.worker import event_loop

    folder, runtime, runners, clients, seconds = arguments
    bundle, loop = Bundle.open(folder, verify=False), event_loop()
    app, requests = worker(bundle, runtime, int(runners), loop), bodies(bundle)
    loop.run_until_complete(answered(app, requests, int(clients), 0.2))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while sys.stdin.readline():
        rate = loop.run_until_complete(answered(app, requests, int(clients), float(seconds)))
        sys.stdout.write(f"{rate}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
