"""Claim: bad items, clients that leave, slow senders and endless bodies hurt nobody but themselves.

Eight polite clients ask one text after the other, without a pause. Beside them, in turn: nothing; 500 sockets that
send a byte now and then; 100 clients that ask for a second's work together and leave after 0.3 s; senders of 1 GB in
chunks. The latencies of the polite ones are compared with those of the calm seconds of the same round. Images come in
crowds of 8 and 32 with one that is cut off; the answers to the good ones are compared with those that each gets alone.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from operations import Client, Held, budwood_serve, workers_of
from PIL import Image
from serving_model import TEXT, bundle_at, write_result

from budwood import flow
from budwood.core.store import Store
from budwood.engine.machine import describe

BODY = json.dumps({"text": TEXT}).encode()
POLITE = 8
Abuse = Callable[[str, float], Awaitable[dict[str, Any]]]
CROWD = {"texts": 1}
"""How many texts each of those asks for that leave: a second's work for all of them, by what the calm clients get."""


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


def head(*lines: str) -> bytes:
    start = ("POST /predict HTTP/1.1", "host: localhost", "content-type: application/json")
    return "\r\n".join((*start, *lines, "", "")).encode()


async def calm(url: str, seconds: float) -> dict[str, Any]:
    await asyncio.sleep(seconds)
    return {}


async def slow_senders(url: str, seconds: float) -> dict[str, Any]:
    """500 sockets that begin a request and never end it."""
    opened = [await connect(url) for _ in range(500)]
    ends: Counter[str] = Counter()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head()[:-2] + b"x: ")
        said = asyncio.ensure_future(reader.read(12))
        while not said.done():
            writer.write(b"a")
            await asyncio.wait([said], timeout=0.5)
        ends[said.result().decode()[9:12] or "closed"] += 1
        writer.close()

    tasks = [asyncio.create_task(drip(*pair)) for pair in opened]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"sockets": len(opened), "ends": dict(ends)}


async def leavers(url: str, seconds: float) -> dict[str, Any]:
    """100 clients that leave after 0.3 s, again and again."""
    before, left, end = await figure(url, "cancelled_total"), 0, time.perf_counter() + seconds
    body = json.dumps({"inputs": [TEXT] * CROWD["texts"]}).encode()
    while time.perf_counter() < end:
        pairs = [await connect(url) for _ in range(100)]
        for _, writer in pairs:
            writer.write(head(f"content-length: {len(body)}") + body)
        await asyncio.sleep(0.3)
        # Whoever has an answer by now is none that leaves.
        waiting = [writer for reader, writer in pairs if not reader._buffer]  # type: ignore[attr-defined]
        for _, writer in pairs:
            writer.close()
        left += len(waiting)
        await asyncio.sleep(0.7)
    return {"left": left, "cancelled": int(await figure(url, "cancelled_total") - before)}


async def endless(url: str, seconds: float) -> dict[str, Any]:
    """Senders of a gigabyte in chunks, one after the other."""
    statuses: Counter[str] = Counter()
    most, end = 0, time.perf_counter() + seconds
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    while time.perf_counter() < end:
        reader, writer = await connect(url)
        writer.write(head("transfer-encoding: chunked"))
        sent = 0
        said = asyncio.ensure_future(reader.read(12))
        try:
            while sent < 1 << 30 and not said.done():
                writer.write(chunk)
                await writer.drain()
                sent += 65536
            statuses[(await said).decode()[9:12] or "closed"] += 1
        except OSError:
            # What it said before it closed may be lost with the rest that was on its way.
            (heard,) = await asyncio.gather(said, return_exceptions=True)
            statuses[heard.decode()[9:12] if isinstance(heard, bytes) and heard else "closed"] += 1
        most = max(most, sent)
        writer.close()
        await asyncio.sleep(0.1)
    return {"bodies": sum(statuses.values()), "ends": dict(statuses), "most_megabytes_sent": round(most / 1e6, 2)}


async def figure(url: str, name: str) -> float:
    reader, writer = await connect(url)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"budwood_{name} ")))


async def beside(url: str, abuse: Abuse, seconds: float) -> dict[str, Any]:
    """The latencies of the polite clients while something else goes on."""
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    async def ask() -> None:
        client = Client(url)
        while True:
            started = time.perf_counter()
            try:
                status, _ = await client.ask("/predict", BODY)
            except ConnectionError:
                status = 0
            statuses[status] += 1
            latencies.append((time.perf_counter() - started) * 1e3)

    tasks = [asyncio.create_task(ask()) for _ in range(POLITE)]
    found = await abuse(url, seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    p50, p99 = (float(np.percentile(latencies, q)) for q in (50, 99))
    return {
        "asked": len(latencies),
        "failed": len(latencies) - statuses[200],
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        **found,
    }


KINDS: dict[str, tuple[Abuse, float]] = {
    "calm": (calm, 5),
    "500 slow senders": (slow_senders, 13),
    "100 clients that leave after 0.3 s": (leavers, 5),
    "bodies of 1 GB in chunks": (endless, 5),
}


async def rounds(url: str, pid: int, count: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    warm = await beside(url, calm, 3)
    CROWD["texts"] = max(1, round(warm["asked"] / 3 / 100))
    before = Held.by(workers_of(pid)).megabytes
    for _ in range(count):
        for kind, (abuse, seconds) in KINDS.items():
            found[kind].append(await beside(url, abuse, seconds))
            print(kind, found[kind][-1], flush=True)
            await asyncio.sleep(1)
    quiet = [item["p99_ms"] for item in found["calm"]]
    ratios = {
        kind: round(statistics.median(item["p99_ms"] / base for item, base in zip(items, quiet, strict=True)), 2)
        for kind, items in found.items()
    }
    grown = round(Held.by(workers_of(pid)).megabytes - before, 1)
    failed = sum(item["failed"] for items in found.values() for item in items)
    return {
        "rounds": found,
        "texts_of_leavers": CROWD["texts"],
        "p99_beside_calm": ratios,
        "polite_that_failed": failed,
        "megabytes_grown": grown,
    }


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (224, 224, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


async def answer(url: str, image: bytes) -> tuple[int, dict[str, Any]]:
    reader, writer = await connect(url)
    lines = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: {len(image)}\r\n"
    writer.write(f"{lines}connection: close\r\n\r\n".encode() + image)
    start, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(start[9:12]), json.loads(body)


async def poisoned(url: str, count: int, times: int) -> dict[str, Any]:
    """Crowds with one image among them whose header is right and whose pixels are cut off."""
    images = [photo(seed) for seed in range(count)]
    alone = [await answer(url, image) for image in images]
    bad = count // 2
    images[bad] = images[bad][: len(images[bad]) // 2]
    good_failed, bad_statuses, furthest = 0, Counter[int](), 0.0
    for _ in range(times):
        replies = await asyncio.gather(*(answer(url, image) for image in images))
        bad_statuses[replies[bad][0]] += 1
        for at, (status, body) in enumerate(replies):
            if at != bad:
                good_failed += status != 200 or body["label"] != alone[at][1]["label"]
                furthest = max(furthest, abs(body.get("score", 9.0) - alone[at][1]["score"]))
    return {
        "crowds": times,
        "good_ones_that_failed": good_failed,
        "statuses_of_the_bad_one": dict(bad_statuses),
        "largest_difference_of_a_score": furthest,
    }


def image_model(folder: Path) -> Store:
    """A head on EfficientNet-Lite0, trained on patches of two colours."""
    for label, level in (("dark", 60), ("light", 190)):
        (folder / "data" / label).mkdir(parents=True)
        for seed in range(12):
            pixels = np.random.default_rng(seed).normal(level, 30, (64, 64, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / label / f"{seed}.png")
    flow.adapt(folder / "data", name="photos", method="head", store=folder / "photos")
    return Store(folder / "photos")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is made in a temporary folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crowds", type=int, default=20)
    parser.add_argument("--no-result", action="store_true", help="print only, and leave the results file alone")
    options = parser.parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        store = Store(work / "store")
        store.publish("tickets", bundle_at(options.bundle or work / "bundle"))
        common = ("--runtime", "onnxruntime", "--max-queue", "10000", "--store")
        with budwood_serve("tickets", *common, str(store.root), log=work / "log") as (url, pid):
            result = asyncio.run(rounds(url, pid, options.rounds))
        images = image_model(work)
        with budwood_serve("photos", *common, str(images.root), log=work / "log") as (url, _):
            for count in (8, 32):
                result[f"1 bad image of {count}"] = asyncio.run(poisoned(url, count, options.crowds))
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))
    if not options.no_result:
        print(write_result("serving_abuse", {"machine": machine, **result}))


if __name__ == "__main__":
    main()
