"""Random damage to requests, byte by byte and value by value: every answer is one that the document names, never a 500.

The seeds are fixed. `BUDWOOD_FUZZ_SEEDS=100` tries so many others, from a random one on; a failure names its seed.
"""

import copy
import json
import os
import random
import secrets
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
import served
import tiny
import tiny_language

from budwood.serving.errors import dialect_of
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import start

pytest.importorskip("torch")
pytest.importorskip("onnx")

MORE = int(os.environ.get("BUDWOOD_FUZZ_SEEDS", "0"))
FIRST = secrets.randbelow(1 << 30) if MORE else 1
SEEDS = range(FIRST, FIRST + (MORE or 2))
CASES = 100
"""Damaged requests of one seed and one test."""
OF_THE_WIRE = {400, 408, 413, 431, 503}
"""What may be answered before a route is found."""

BODIES: dict[str, Any] = {
    "/predict": {"text": "hello"},
    "/models/labels/predict": {"inputs": ["hello", {"text": "where is it"}]},
    "/invocations": {"text": "hello"},
    "/v2/models/labels/infer": {
        "id": "a",
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}],
        "outputs": [{"name": "answer"}],
    },
    "/models/writer/predict": {"text": "Once", "max_tokens": 2, "temperature": 0.5, "stop": ["a"]},
    "/v1/completions": {"prompt": ["Once", "a"], "max_tokens": 2, "n": 1, "seed": 3, "stream": False, "top_p": 0.9},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Once"}]}],
        "max_completion_tokens": 2,
        "stream_options": {"include_usage": True},
        "logit_bias": {"3": 1},
    },
    "/v1/embeddings": {"model": "labels", "input": ["hello"], "encoding_format": "float"},
    "/models/photos/predict": {"image": "iVBORw0KGgo=", "explain": False},
    "/feedback/0123456789abcdef": {"label": "delivery"},
}
"""A valid body of each route that takes JSON."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**64, -(2**63), 0.5, -0.0, 1e308, 1e-320, "", " ", "a", "a" * 5000,
    "\u202e\u0000\u2028", "\U0001f642" * 50, "../../etc/passwd", "{{7*7}}", "%s%n", "<img src=x onerror=alert(1)>", [],
    {}, [[]], [None], {"a": {"b": {"c": {}}}}, ["a"] * 300, {"": ""}, {"__proto__": {"x": 1}}, "NaN",
    "1", [1, "a", None],
)  # fmt: skip
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\xff\xfe", b" ", b"\t", b":", b",", b"{", b"}", b'"', b"\\u0000", b"\\ud800",
    b"NaN", b"1e999", b"9" * 400, b"[" * 40, b"A" * 5000, b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: identity\r\n", b"host: evil.example\r\n", b"content-encoding: gzip\r\n",
    b"expect: 100-continue\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n", b"connection: close\r\n", b"GET / HTTP/1.1\r\n\r\n", b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"HTTP/1.0", b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\n", b"%00", b"%2e%2e/", b"?top=1e9",
    b"--x\r\n",
)  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A classifier and a writer, with real graphs."""
    root = tmp_path_factory.mktemp("fuzz")
    entries = [Served("labels", "1", tiny.bundle(root / "a")), Served("writer", "1", tiny_language.bundle(root / "b"))]
    with start(entries, limits=Limits(notice_seconds=0, text_seconds=0.2)) as handle:
        yield handle.url


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A classifier of images."""
    bundle = served.null_images(tmp_path_factory.mktemp("photos") / "bundle")
    with start([Served("photos", "1", bundle)], runtime="null", limits=served.QUICK) as handle:
        yield handle.url


class Named:
    """The statuses that a server's document names for each route."""

    def __init__(self, url: str) -> None:
        self.paths = httpx.get(f"{url}/openapi.json").json()["paths"]

    def of(self, method: str, path: str) -> set[int]:
        for pattern, methods in self.paths.items():
            parts, given = pattern.split("/"), path.split("/")
            same = [a == b or a.startswith("{") for a, b in zip(parts, given, strict=False)]
            if len(parts) == len(given) and all(same) and method.lower() in methods:
                return {int(status) for status in methods[method.lower()]["responses"]}
        return set()


def check(reply: served.Reply, known: set[int], path: str, case: str) -> None:
    """The status is known, and the body has the shape of its status."""
    assert reply.status in known, f"{case}: {reply.status} {reply.body[:300]!r}"
    assert reply.headers["x-content-type-options"] == "nosniff" or reply.status in OF_THE_WIRE, case
    kind = reply.headers.get("content-type", "")
    if reply.status == 200:
        return
    body = json.loads(reply.body)
    dialect = dialect_of(path) if kind == "application/json" else "problem"
    if dialect == "v2":
        assert isinstance(body["error"], str), case
    elif dialect == "openai":
        assert isinstance(body["error"]["message"], str), case
    else:
        assert (kind, body["status"]) == ("application/problem+json", reply.status), case


# Values


def damaged(chance: random.Random, body: Any) -> Any:
    """The body with one to three of its values replaced, left out, added or wrapped."""
    body = copy.deepcopy(body)
    for _ in range(chance.randint(1, 3)):
        places = list(containers(body))
        holder = chance.choice(places) if places else None
        value = copy.deepcopy(chance.choice(VALUES))
        if holder is None or chance.random() < 0.05:
            body = value
        elif isinstance(holder, dict):
            name = chance.choice([*holder, "n", "inputs", "temperature", chance.choice(("", "a", "\u2028", "text"))])
            if chance.random() < 0.2:
                holder.pop(name, None)
            else:
                holder[name] = value
        else:
            at = chance.randrange(len(holder) + 1)
            holder[at : at + chance.randint(0, 1)] = [value]
    return body


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_values(texts: str, photos: str, seed: int) -> None:
    chance = random.Random(seed)
    named = {url: Named(url) for url in (texts, photos)}
    with ExitStack() as stack:
        clients = {url: stack.enter_context(httpx.Client(base_url=url, timeout=30)) for url in named}
        for case in range(CASES):
            path = chance.choice(list(BODIES))
            url = photos if "photos" in path else texts
            content = json.dumps(damaged(chance, BODIES[path])).encode()
            answer = clients[url].post(path, content=content, headers={"content-type": "application/json"})
            reply = served.Reply(answer.status_code, dict(answer.headers), answer.content)
            check(reply, named[url].of("POST", path), path, f"seed {seed}, case {case}: POST {path} {content[:500]!r}")
        for client in clients.values():
            assert client.get("/stats").json()["queue_depth"] == 0


# Bytes


def broken(chance: random.Random, data: bytes) -> bytes:
    """The bytes with one to four of them changed, or parts cut, doubled, moved or put in."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 2, 8, 40)))
        how = chance.randrange(6)
        if how == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif how == 1:
            data = data[:at] + data[end:]
        elif how == 2:
            data = data[:end] + data[at:]
        elif how == 3:
            data = data[:at]
        else:
            data = data[:at] + chance.choice(TOKENS) + data[at:]
    return data


def request_bytes(chance: random.Random, photos: bool) -> bytes:
    """A valid request, of any route and body."""
    if photos:
        part = b'--x\r\ncontent-disposition: form-data; name="image"\r\n\r\nGIF89a\r\n--x--\r\n'
        forms = (
            ("multipart/form-data; boundary=x", part),
            ("image/png", b"\x89PNG\r\n\x1a\n"),
            ("image/gif", b"GIF89a"),
        )
        kind, body = chance.choice(forms)
        return served.post("/predict", body, f"content-type: {kind}")
    path = chance.choice([path for path in BODIES if "photos" not in path])
    if chance.random() < 0.2:
        return b"GET /%s HTTP/1.1\r\nhost: localhost\r\n\r\n" % chance.choice(
            (b"", b"stats", b"metrics", b"v2", b"docs")
        )
    return served.post(path, json.dumps(BODIES[path]).encode(), "x-request-id: a")


def send_all(url: str, requests: list[bytes], seconds: float = 0.5) -> list[bytes]:
    """What comes back of each within a while; nothing of those that are not whole, whose answer is a 408 later."""
    connections = [served.connect(url) for _ in requests]
    found = dict.fromkeys(connections, b"")
    for connection, data in zip(connections, requests, strict=True):
        connection.settimeout(5)
        with suppress(OSError):  # refused while we still send
            connection.sendall(data)
    waiting, end = set(connections), time.monotonic() + seconds
    while waiting and (left := end - time.monotonic()) > 0:
        readable, _, _ = select.select(list(waiting), [], [], left)
        for connection in readable:
            chunk = received(connection)
            found[connection] += chunk
            if not chunk:
                waiting.discard(connection)
    for connection in connections:
        connection.close()
    return list(found.values())


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except OSError:
        return b""


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_bytes(texts: str, photos: str, seed: int) -> None:
    chance = random.Random(seed)
    answered = 0
    for url in (texts, photos):
        known = {
            status for methods in Named(url).paths.values() for item in methods.values() for status in item["responses"]
        }
        allowed = {int(status) for status in known} | OF_THE_WIRE | {404, 405}
        requests = [broken(chance, request_bytes(chance, url == photos)) for _ in range(CASES)]
        for start_at in range(0, CASES, 50):
            part = requests[start_at : start_at + 50]
            for case, (data, back) in enumerate(zip(part, send_all(url, part), strict=True), start_at):
                name = f"seed {seed}, case {case} of {'photos' if url == photos else 'texts'}: {data[:500]!r}"
                answered += bool(back)
                if back:
                    assert back.startswith(b"HTTP/1.1 "), name
                    status = int(back[9:12])
                    assert status in allowed, f"{name}: {back[:500]!r}"
                    assert b"Traceback" not in back, name
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert httpx.get(f"{url}/stats").json()["queue_depth"] == 0
    assert answered > CASES
