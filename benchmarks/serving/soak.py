"""Claim: hours of traffic leave nothing behind: memory is flat, and descriptors, threads and files are those of before.

Good requests, bad ones and ones that are given up come all the time, while the alias `live` moves between two versions
200 times and some moves point at a version that is broken. No good request may fail. The slope of resident memory is
fitted over the samples after the warm-up, which is the first fifth.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from operations import Client, Held, budwood_serve, workers_of
from serving_model import TEXT, bundle_at, write_result

from budwood.core.aliases import Aliases
from budwood.core.store import ALIASES, Store
from budwood.engine.machine import describe

GOOD = [
    json.dumps({"text": TEXT}).encode(),
    json.dumps({"inputs": [TEXT, "Where is it?", " ".join([TEXT] * 6)]}).encode(),
    json.dumps({"text": "é" * 400}).encode(),
]
BAD: list[tuple[str, bytes, str, int]] = [
    ("/predict", b"{", "application/json", 400),
    ("/predict", b"[" * 5000, "application/json", 400),
    ("/predict", b'{"text": 1}', "application/json", 422),
    ("/predict", b'{"words": "x"}', "application/json", 422),
    ("/predict", b"text", "text/plain", 415),
    ("/predict", b'{"text": "' + b"x" * (2 << 20) + b'"}', "application/json", 413),
    ("/models/nobody/predict", GOOD[0], "application/json", 404),
    ("/v1/completions", b'{"prompt": "x"}', "application/json", 404),
]
GOOD_CLIENTS, BAD_CLIENTS, LEAVING_CLIENTS = 6, 2, 2
AFTER_SECONDS = 3.0
BROKEN_EVERY = 10
"""Every so manieth move of the alias points at the broken version."""


class Traffic:
    def __init__(self, url: str) -> None:
        self.url = url
        self.counts: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.clients: list[Client] = []
        self.waits: list[tuple[float, float]] = []
        """When each good request began, and the seconds to its answer."""

    def client(self) -> Client:
        self.clients.append(Client(self.url))
        return self.clients[-1]

    async def good(self) -> None:
        client = self.client()
        for body in cycle(GOOD):
            began = time.monotonic()
            try:
                status, headers = await client.ask("/predict", body)
            except OSError as error:
                self.unexpected[f"good: {type(error).__name__}"] += 1
                continue
            self.counts["good"] += 1
            self.waits.append((began, time.monotonic() - began))
            if status != 200:
                self.unexpected[f"good: {status}"] += 1
            else:
                self.versions[headers["x-model-version"]] += 1

    async def bad(self) -> None:
        client = self.client()
        for path, body, kind, expected in cycle(BAD):
            try:
                status, _ = await client.ask(path, body, kind)
            except OSError:
                status = 413  # a body that is too long may be cut off while it is sent
            self.counts["bad"] += 1
            if status != expected:
                self.unexpected[f"bad: {status}, not {expected}"] += 1
            await asyncio.sleep(0.05)

    async def leaving(self) -> None:
        """Connect, ask, and go away before the answer."""
        for body, pause in zip(cycle(GOOD), cycle((0.0, 0.002, 0.01)), strict=False):
            client = Client(self.url)
            await client.send("/predict", body)
            await asyncio.sleep(pause)
            client.drop()
            self.counts["given up"] += 1
            await asyncio.sleep(0.02)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


async def reload(home: Path, seconds: float, moves: int, done: list[float]) -> None:
    """Move the alias between versions 1 and 2, now and then to the broken 3, as `budwood models promote` writes it."""
    path, targets = home / ALIASES, targets_of()
    for _ in range(moves):
        await asyncio.sleep(seconds / moves)
        Aliases.read(path).moved("live", next(targets)).write(path)
        done.append(time.monotonic())


def waits(traffic: Traffic, moves: list[float]) -> dict[str, float]:
    """Milliseconds to an answer, of all good requests and of those that began within three seconds after a move."""
    began, seconds = np.asarray(traffic.waits).T
    after = (began - np.asarray([-np.inf, *moves])[np.searchsorted(moves, began)]) < AFTER_SECONDS
    found = {"p50": np.median(seconds), "p99": np.quantile(seconds, 0.99), "max": seconds.max()}
    if after.any():
        found |= {"p99_after_moves": np.quantile(seconds[after], 0.99), "max_after_moves": seconds[after].max()}
    return {name: round(float(value) * 1e3, 1) for name, value in found.items()}


def targets_of() -> Iterator[int]:
    number = 1
    for i in cycle(range(BROKEN_EVERY)):
        number = 3 - number
        yield 3 if i == BROKEN_EVERY - 1 else number


async def measured(url: str, pid: int, home: Path, temporary: Path, minutes: float, moves: int) -> dict[str, Any]:
    traffic, samples, done = Traffic(url), [], list[float]()
    jobs = [traffic.good] * GOOD_CLIENTS + [traffic.bad] * BAD_CLIENTS + [traffic.leaving] * LEAVING_CLIENTS
    # What is opened with the first exchange and the first requests is there to stay.
    await reload(home, 6, 2, [])
    await asyncio.sleep(3)
    before, files = Held.by(workers_of(pid)), sorted(item.name for item in temporary.iterdir())
    tasks = [asyncio.create_task(job()) for job in jobs]
    start, seconds = time.monotonic(), minutes * 60
    mover = asyncio.create_task(reload(home, seconds, moves, done))
    while time.monotonic() - start < seconds:
        await asyncio.sleep(min(5.0, seconds / 40))
        samples.append((traffic.total, Held.by(workers_of(pid)).megabytes))
    await mover
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in traffic.clients:
        client.drop()
    await asyncio.sleep(5)
    after = Held.by(workers_of(pid))
    late = np.asarray(samples[len(samples) // 5 :], np.float64)
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * 1e4
    return {
        "minutes": minutes,
        "requests": dict(traffic.counts),
        "unexpected": dict(traffic.unexpected),
        "versions": dict(traffic.versions),
        "reloads": len(done),
        "milliseconds": waits(traffic, done),
        "rss_mb_per_10000_requests": round(float(slope), 3),
        "rss_mb": {"first": samples[0][1], "warm": late[0, 1], "last": samples[-1][1]},
        "before": asdict(before),
        "after": asdict(after),
        "new_temporary_files": sorted({item.name for item in temporary.iterdir()} - set(files)),
        "samples": [(int(count), size) for count, size in samples][:: max(1, len(samples) // 60)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is made in a temporary folder")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--no-result", action="store_true", help="print only, and leave the results file alone")
    options = parser.parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory() as work:
        store, temporary = Store(Path(work) / "store"), Path(work) / "tmp"
        temporary.mkdir()
        bundle = bundle_at(options.bundle or Path(work) / "bundle")
        for _ in range(3):
            store.publish("tickets", bundle)
        broken = next((store.root / "tickets" / "3").glob("onnx/*.onnx"))
        broken.write_bytes(b"\0" * broken.stat().st_size)
        log = Path(work) / "log"
        arguments = ("tickets@live", "--store", str(store.root), "--workers", str(options.workers))
        with environment(temporary), budwood_serve(*arguments, log=log) as (url, pid):
            job = measured(url, pid, store.root / "tickets", temporary, options.minutes, options.reloads)
            result = asyncio.run(job)
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        result["log_lines"] = dict(Counter(line["level"] for line in lines))
        shutil.rmtree(temporary)
    print(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))
    if not options.no_result:
        print(write_result("serving_soak", {"machine": machine, **result}))


class environment:
    """The folder for temporary files of what is started inside."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary

    def __enter__(self) -> None:
        import os

        self.before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(self.temporary)

    def __exit__(self, *error: object) -> None:
        import os

        os.environ.pop("TMPDIR")
        if self.before is not None:
            os.environ["TMPDIR"] = self.before


if __name__ == "__main__":
    main()
