"""Helpers for tests that need a running server: bundles for the null runtime, and bare sockets for what no client sends."""

import json
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import tiny

from budwood.core.bundle import Bundle
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start

POISON, NAN, EXIT = "money", "quality", "colour"
"""Words of the tiny vocabulary on which the null runtime fails, gives not-a-number, or ends the process."""
QUICK = Limits(notice_seconds=0)
"""The usual limits, without the wait before the sockets close."""


def null_bundle(path: Path, delay_seconds: float = 0.0, labels: Sequence[str] = tiny.LABELS) -> Bundle:
    """A bundle whose null runtime takes a while and stumbles over the words above."""

    def write(folder: Path) -> None:
        tiny.write_files(folder, labels)
        words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        settings = {"fail_id": words[POISON], "nan_id": words[NAN], "exit_id": words[EXIT]}
        (folder / "null.json").write_text(json.dumps({"delay_seconds": delay_seconds, **settings}))

    task = {"name": "text_classification", "labels": list(labels), "multi_label": False, "max_tokens": tiny.MAX_TOKENS}
    return Bundle.create(path, tiny.draft(task=task), write)


def start_null(path: Path, *, delay_seconds: float = 0.0, limits: Limits = QUICK, **options: Any) -> Handle:
    """A server in a thread, with the model `tiny`, version `1`."""
    served = Served("tiny", "1", null_bundle(path, delay_seconds))
    return start([served], runtime="null", limits=limits, **options)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def send_bytes(url: str, data: bytes, *, seconds: float = 20.0) -> list[Reply]:
    """Send bytes as they are, and read answers until the server closes or one has no successor."""
    with connect(url, seconds) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return read_replies(connection)


def connect(url: str, seconds: float = 20.0) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=seconds)


def read_replies(connection: socket.socket) -> list[Reply]:
    """All answers until the server closes the connection."""
    data = b""
    while chunk := receive(connection):
        data += chunk
    replies = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        reply, length = parse_head(head)
        replies.append(Reply(reply.status, reply.headers, data[:length]))
        data = data[length:]
    return replies


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:  # closed while we still sent
        return b""


def read_reply(connection: socket.socket) -> Reply:
    """One answer of a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = receive(connection)
        if not chunk:
            raise ConnectionError(f"closed after {data!r}")
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    reply, length = parse_head(head)
    while len(body) < length:
        body += receive(connection)
    return Reply(reply.status, reply.headers, body)


def parse_head(head: bytes) -> tuple[Reply, int]:
    lines = head.decode("latin-1").split("\r\n")
    matched = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", lines[0])
    if matched is None:
        raise ConnectionError(f"not an answer: {lines[0]!r}")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return Reply(int(matched[1]), headers, b""), int(headers.get("content-length", "0"))


def post(path: str, body: bytes, *headers: str, host: str = "127.0.0.1") -> bytes:
    """The bytes of a POST request; `headers` are added to Host, Content-Type and Content-Length."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("content-type: application/json")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body
