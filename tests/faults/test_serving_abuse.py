"""Bad items, clients that leave, slow and endless senders: only they are hurt. The null runtime is as slow as asked."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import served

from budwood.serving.limits import Limits
from budwood.serving.server import Handle

GOOD = "where is my order"
BODY = b'{"text": "hello"}'


def figure(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"budwood_{name} ")))


def at_once(url: str, texts: list[str]) -> list[served.Reply]:
    """The replies to all texts, each asked on a connection of its own before any answer is read."""
    connections = [served.connect(url) for _ in texts]
    for connection, text in zip(connections, texts, strict=True):
        connection.sendall(served.post("/predict", json.dumps({"text": text}).encode()))
    replies = [reply for connection in connections for reply in served.read_replies(connection)]
    for connection in connections:
        connection.close()
    return replies


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    """A model that takes a second for a batch, whatever is in it."""
    path = tmp_path_factory.mktemp("slow") / "bundle"
    with served.start_null(path, delay_seconds=1.0, max_queue=1000) as handle:
        yield handle


@pytest.mark.parametrize(("count", "bad"), [(8, {3}), (32, {31}), (32, {0, 9, 10, 22}), (8, set(range(8)))])
def test_of_a_batch_only_the_bad_fail(tmp_path: Path, count: int, bad: set[int]) -> None:
    """They wait together behind a slow one, so they are one batch; the good answers are those that each gets alone."""
    texts = [f"{served.POISON} {i}" if i in bad else f"{GOOD} {i}" for i in range(count)]
    with served.start_null(tmp_path / "b", delay_seconds=0.02, limits=Limits(notice_seconds=0, batch=32)) as handle:
        with httpx.Client(base_url=handle.url, timeout=30) as client:
            alone = [client.post("/predict", json={"text": f"{GOOD} {i}"}).json() for i in range(count)]
        replies = at_once(handle.url, texts)
        together = httpx.post(f"{handle.url}/predict", json={"inputs": texts}, timeout=30)
    assert [reply.status for reply in replies] == [422 if i in bad else 200 for i in range(count)]
    assert [reply.json() for i, reply in enumerate(replies) if i not in bad] == [
        answer for i, answer in enumerate(alone) if i not in bad
    ]
    if len(bad) == count:
        assert together.status_code == 422
        return
    for i, output in enumerate(together.json()["outputs"]):
        assert output == (
            alone[i] if i not in bad else {"error": {"status": 422, "detail": "the model failed on this input"}}
        )


def test_a_hundred_clients_that_leave_are_all_cancelled(slow: Handle) -> None:
    before = figure(slow.url, "cancelled_total")
    connections = [served.connect(slow.url) for _ in range(100)]
    for connection in connections:
        connection.sendall(served.post("/predict", BODY))
    time.sleep(0.3)
    for connection in connections:
        connection.close()
    until(lambda: figure(slow.url, "cancelled_total") - before == 100, "not all were cancelled")
    until(lambda: figure(slow.url, "queue_depth") == 0, "some still wait")
    assert httpx.post(f"{slow.url}/predict", json={"text": "hello"}, timeout=30).status_code == 200
    assert figure(slow.url, "cancelled_total") - before == 100


def test_a_late_answer_is_given_up_and_leaves_the_queue(tmp_path: Path) -> None:
    limits = Limits(notice_seconds=0, answer_seconds=0.2)
    with served.start_null(tmp_path / "b", delay_seconds=0.8, limits=limits) as handle:
        reply = httpx.post(f"{handle.url}/predict", json={"text": "hello"}, timeout=30)
        assert reply.status_code == 504
        assert int(reply.headers["retry-after"]) >= 1
        assert figure(handle.url, "queue_depth") == 0


def test_a_full_queue_refuses_and_those_inside_are_answered(tmp_path: Path) -> None:
    """Ten times what it can hold at the same time: each gets an answer, or is told to come again."""
    limits = Limits(notice_seconds=0, batch=1)
    with served.start_null(tmp_path / "b", delay_seconds=0.1, limits=limits, max_queue=6) as handle:
        replies = at_once(handle.url, ["a"] * 60)
        statuses = [reply.status for reply in replies]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 6
        assert all(1 <= int(reply.headers["retry-after"]) <= 30 for reply in replies if reply.status == 503)
        assert figure(handle.url, "rejected_total") == statuses.count(503)
        assert httpx.post(f"{handle.url}/predict", json={"text": "a"}).status_code == 200


def test_five_hundred_slow_senders_keep_nobody_out_and_are_closed(tmp_path: Path) -> None:
    limits = Limits(notice_seconds=0, read_seconds=1.0)
    with served.start_null(tmp_path / "b", limits=limits) as handle:
        connections = [served.connect(handle.url) for _ in range(500)]
        for at, connection in enumerate(connections):
            connection.sendall(
                (b"POST /predict HTTP/1.1\r\nx: ", served.post("/predict", BODY)[:-5], b"G", b"")[at % 4]
            )
        with httpx.Client(base_url=handle.url, timeout=30) as client:
            for _ in range(20):
                assert client.post("/predict", json={"text": "hello"}).status_code == 200
        ends = [closing(connection) for connection in connections]
    assert set(ends) <= {b"HTTP/1.1 408", b""}
    assert ends.count(b"HTTP/1.1 408") >= 250  # those that had begun a request


def closing(connection: socket.socket) -> bytes:
    """What comes before the server closes."""
    found = b""
    while chunk := served.receive(connection):
        found += chunk
    connection.close()
    return found[:12]


def test_an_endless_body_takes_no_memory(tmp_path: Path) -> None:
    """A gigabyte is announced in chunks; the server stops reading after a little more than it accepts."""
    with served.start_null(tmp_path / "b") as handle, served.connect(handle.url) as connection:
        head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        sent = 0
        try:
            while sent < 1 << 30:
                connection.sendall(chunk)
                sent += 65536
        except OSError:
            pass
        assert sent < 64 << 20
        assert httpx.post(f"{handle.url}/predict", json={"text": "hello"}).status_code == 200


async def half_read(url: str) -> bytes:
    """The status line of a reply that is not read any further."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(served.post("/predict", json.dumps({"inputs": ["hello"] * 256}).encode()))
    line = await reader.readline()
    writer.close()
    return line


def test_who_leaves_while_the_answer_comes_harms_nobody(tmp_path: Path) -> None:
    async def crowd(url: str) -> list[bytes]:
        return await asyncio.gather(*(half_read(url) for _ in range(20)))

    with served.start_null(tmp_path / "b", max_queue=10_000) as handle:
        assert set(asyncio.run(crowd(handle.url))) == {b"HTTP/1.1 200 OK\r\n"}
        assert httpx.post(f"{handle.url}/predict", json={"text": "hello"}).status_code == 200
