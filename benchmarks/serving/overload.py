"""Claim: at ten times its capacity the server stays itself.

Accepted requests wait no longer than the queue is long, the others get 503 with Retry-After at once, memory is flat,
nothing fails with 500, and a second after the storm all is as before. Requests come by the clock, answered or not.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from servers import PORT, ask, serving
from serving_model import bundle_at, write_result

from budwood.engine.machine import describe
from budwood.serving.server import usable_cores

TEXT = " ".join(["I still have not received my new card and it has been two weeks since I ordered it."] * 13)
"""About 250 tokens: the capacity is low enough for a load generator on the same cores to send ten times as much."""
QUEUE = 100
BATCH = 4
"""So many texts of this length are computed at once by one runner, at most."""
BODY = json.dumps({"text": TEXT}).encode()
REQUEST = (
    b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(BODY)
    + BODY
)


@dataclass
class Seen:
    """What came back: latencies by status, in milliseconds."""

    latencies: dict[int, list[float]] = field(default_factory=dict)
    broken: int = 0
    without_retry_after: int = 0
    last: float = 0.0
    """When the last accepted request was answered."""

    def note(self, head: bytes, started: float) -> None:
        status = int(head[9:12])
        self.latencies.setdefault(status, []).append((time.perf_counter() - started) * 1e3)
        if status == 200:
            self.last = time.perf_counter()
        self.without_retry_after += status == 503 and b"retry-after:" not in head


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, seen: Seen, free: list["Client"]) -> None:
        self.seen, self.free = seen, free
        self.buffer, self.started, self.busy = b"", 0.0, False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self) -> None:
        self.busy, self.started = True, time.perf_counter()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self.seen.note(head, self.started)
            self.buffer, self.busy = b"", False
            self.free.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.seen.broken += self.busy
        if self in self.free:
            self.free.remove(self)


async def storm(rate: float, seconds: float) -> Seen:
    """Send `rate` requests a second by the clock, on as many connections as it takes."""
    loop = asyncio.get_running_loop()
    seen, free = Seen(), list[Client]()
    start, sent, opening = time.perf_counter(), 0, set[asyncio.Task[None]]()

    async def open_and_ask() -> None:
        try:
            _, client = await loop.create_connection(lambda: Client(seen, free), "127.0.0.1", PORT)
            client.ask()
        except OSError:
            seen.broken += 1

    while (passed := time.perf_counter() - start) < seconds:
        while sent < passed * rate:
            sent += 1
            if free:
                free.pop().ask()
            else:
                task = loop.create_task(open_and_ask())
                opening.add(task)
                task.add_done_callback(opening.discard)
        await asyncio.sleep(0.002)
    await asyncio.sleep(5)
    answered = sum(map(len, seen.latencies.values()))
    seen.broken += max(0, sent - answered - seen.broken)
    for client in free:
        client.transport.close()
    return seen


def children(pid: int) -> list[int]:
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    pages = sum(int(Path(f"/proc/{item}/statm").read_text().split()[1]) for item in (pid, *children(pid)))
    return pages * 4096 / 1e6


async def watch_memory(pid: int, stop: asyncio.Event) -> list[float]:
    found = []
    while not stop.is_set():
        found.append(resident_mb(pid))
        await asyncio.sleep(1)
    return found


async def alone(count: int) -> list[float]:
    """Latencies, in milliseconds, of one client that waits for each answer."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        await asyncio.to_thread(ask, f"http://127.0.0.1:{PORT}/predict", TEXT)
        found.append((time.perf_counter() - start) * 1e3)
    return found


async def capacity(seconds: float, clients: int = 32) -> float:
    """Answers a second when there is always work, and never more than the queue holds."""
    seen, loop = Seen(), asyncio.get_running_loop()

    class Eager(list[Client]):
        def append(self, client: Client) -> None:
            client.ask()

    eager = Eager()
    connections = [
        (await loop.create_connection(lambda: Client(seen, eager), "127.0.0.1", PORT))[1] for _ in range(clients)
    ]
    for client in connections:
        client.ask()
    await asyncio.sleep(1)
    before = len(seen.latencies.get(200, []))
    await asyncio.sleep(seconds)
    done = len(seen.latencies.get(200, [])) - before
    for client in connections:
        client.transport.close()
    return done / seconds


async def recovery(normal_ms: float) -> float:
    """Seconds from the end of the storm until a lone request is as quick as before."""
    start = time.perf_counter()
    while True:
        try:
            (latency,) = await alone(1)
            if latency < 2 * normal_ms:
                return time.perf_counter() - start
        except OSError:
            await asyncio.sleep(0.05)


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    picks = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 2) for name, q in picks.items()}


async def measure(pid: int, seconds: float, factor: float) -> dict[str, Any]:
    await alone(20)
    before = await alone(100)
    answers_per_s = await capacity(8)
    await asyncio.sleep(1)
    stop = asyncio.Event()
    memory = asyncio.create_task(watch_memory(pid, stop))
    start = time.perf_counter()
    seen = await storm(factor * answers_per_s, seconds)
    accepted_per_s = len(seen.latencies[200]) / (seen.last - start)
    # The storm waits five seconds for late answers; the server was idle then, so this asks how it is afterwards.
    recovered = await recovery(percentiles(before)["p99_ms"])
    stop.set()
    resident = await memory
    return {
        "capacity_per_s": round(answers_per_s, 1),
        "offered_per_s": round(factor * answers_per_s, 1),
        "alone_before": percentiles(before),
        "alone_after": percentiles(await alone(100)),
        "statuses": Counter({str(status): len(values) for status, values in seen.latencies.items()}),
        "no_answer": seen.broken,
        "rejects_without_retry_after": seen.without_retry_after,
        "accepted_per_s": round(accepted_per_s, 1),
        "accepted": percentiles(seen.latencies[200]),
        "bound_ms": round((QUEUE + usable_cores() * BATCH) / accepted_per_s * 1e3, 1),
        "rejected": percentiles(seen.latencies[503]),
        "memory_mb": {
            "start": round(resident[0], 1),
            "second_quarter": round(statistics.median(resident[len(resident) // 4 : len(resident) // 2]), 1),
            "last_quarter": round(statistics.median(resident[-len(resident) // 4 :]), 1),
        },
        "recovery_s": round(recovered, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is made in a temporary folder")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--no-result", action="store_true", help="print only, and leave the results file alone")
    options = parser.parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory() as work:
        bundle = bundle_at(options.bundle or Path(work) / "bundle")
        with serving("budwood", bundle.path, {}) as (_, pid):
            result = uvloop.run(measure(pid, options.seconds, options.factor))
    print(json.dumps(result, indent=1))
    if not options.no_result:
        settings = {"seconds": options.seconds, "factor": options.factor, "max_queue": QUEUE, "tokens": "about 250"}
        print(write_result("overload", {"settings": settings, "machine": machine, **result}))


if __name__ == "__main__":
    main()
