"""Claim: a worker that is killed costs the requests that it was answering, and nothing else.

Workers of a server are killed with SIGKILL, the oldest first, while clients ask all the time. A request that is lost is
one whose connection ended before its answer: with one client at most one, with more of them what that worker held. A
client that asks once more loses nothing. Full strength is when all workers answer again.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from operations import Client, budwood_serve, workers_of
from serving_model import TEXT, bundle_at, write_result

from budwood.core.store import Store
from budwood.engine.machine import describe

BODY = json.dumps({"text": " ".join([TEXT] * 4)}).encode()
"""A text of about 65 tokens: an answer takes long enough to be killed in the middle."""


class Load:
    """Clients that ask without a pause; a request that is lost is asked once more."""

    def __init__(self, url: str, clients: int) -> None:
        self.url, self.clients = url, clients
        self.answered, self.lost, self.lost_twice, self.refused = 0, 0, 0, 0

    async def ask(self) -> None:
        client = Client(self.url)
        while True:
            for again in (False, True):
                try:
                    status, _ = await client.ask("/predict", BODY)
                except OSError:
                    self.lost += not again
                    self.lost_twice += again
                    continue
                self.answered += status == 200
                self.refused += status != 200
                break

    async def __aenter__(self) -> "Load":
        self.tasks = [asyncio.create_task(self.ask()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def strength(client: Client) -> float:
    """How many workers answer, by the server's own figures."""
    try:
        await client.send("/metrics", None)
        assert client.reader is not None
        text = (await asyncio.wait_for(read_all(client), 5)).decode()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        client.drop()
        return 0
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("budwood_workers_ready ")))


async def read_all(client: Client) -> bytes:
    assert client.reader is not None
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length: ")[2].split()[0])
    return await client.reader.readexactly(length)


def whole(pids: list[int], victim: int, workers: int) -> bool:
    return victim not in pids and len(pids) == workers


async def kills(url: str, pid: int, clients: int, count: int, workers: int) -> dict[str, Any]:
    losses, seconds = [], []
    async with Load(url, clients) as load:
        for i in range(count):
            # The next worker is killed when all answer again.
            await asyncio.sleep(1.0)
            before = load.lost
            victim, started = workers_of(pid)[0], time.perf_counter()  # the oldest
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(0.05)
            watch = Client(url)
            while not whole(workers_of(pid), victim, workers) or await strength(watch) < workers:
                await asyncio.sleep(0.02)
            watch.drop()
            seconds.append(time.perf_counter() - started)
            losses.append(load.lost - before)
            print(f"kill {i + 1}: {losses[-1]} lost, full strength after {seconds[-1]:.2f} s", flush=True)
    return {
        "clients": clients,
        "workers": workers,
        "kills": count,
        "answered": load.answered,
        "lost": sum(losses),
        "lost_in_a_kill": {"median": statistics.median(losses), "max": max(losses)},
        "lost_with_one_retry": load.lost_twice,
        "not_200": load.refused,
        "seconds_to_full_strength": {"median": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is made in a temporary folder")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 2, 16])
    parser.add_argument("--no-result", action="store_true", help="print only, and leave the results file alone")
    options = parser.parse_args()
    machine, result = describe(), {}
    with tempfile.TemporaryDirectory() as work:
        store = Store(Path(work) / "store")
        store.publish("tickets", bundle_at(options.bundle or Path(work) / "bundle"))
        for clients in options.clients:
            arguments = ("tickets", "--store", str(store.root), "--workers", str(options.workers))
            with budwood_serve(*arguments, log=Path(work) / "log") as (url, pid):
                found = asyncio.run(kills(url, pid, clients, options.kills, options.workers))
            result[f"{clients} clients"] = found
            print(found)
    if not options.no_result:
        print(write_result("serving_kill", {"machine": machine, **result}))


if __name__ == "__main__":
    main()
