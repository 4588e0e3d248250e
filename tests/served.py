"""Helpers for tests of a running server: bundles for the null runtime, and bare sockets for what no client sends."""

import json
import re
import socket
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pictures
import tiny

from budwood.core.bundle import Bundle
from budwood.core.page import PAGE_END, PAGE_START
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start

POISON, NAN, EXIT = "money", "quality", "colour"
"""Words of the tiny vocabulary on which the null runtime fails, gives not-a-number, or ends the process."""
QUICK = Limits(notice_seconds=0)
"""The usual limits, without the wait before the sockets close."""


def null_bundle(
    path: Path, delay_seconds: float = 0.0, labels: Sequence[str] = tiny.LABELS, exits: str = EXIT
) -> Bundle:
    """A bundle whose null runtime takes a while and stumbles over the words above; with `[CLS]` it is never ready."""

    def write(folder: Path) -> None:
        tiny.write_files(folder, labels)
        words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        settings = {"fail_id": words[POISON], "nan_id": words[NAN], "exit_id": words[exits]}
        (folder / "report.html").write_text(report_page(labels))
        (folder / "null.json").write_text(json.dumps({"delay_seconds": delay_seconds, **settings}))

    task = {"name": "text_classification", "labels": list(labels), "multi_label": False, "max_tokens": tiny.MAX_TOKENS}
    return Bundle.create(path, tiny.draft(task=task), write)


def null_images(path: Path) -> Bundle:
    """A classifier of images for the null runtime: preprocessing and labels, and no model."""

    def write(folder: Path) -> None:
        (folder / "preprocessor_config.json").write_text(json.dumps(pictures.PROCESSOR))
        (folder / "README.md").write_text("nothing\n")

    task = {"name": "image_classification", "labels": ["a", "b"]}
    return Bundle.create(path, tiny.draft(task=task), write)


def report_page(labels: Sequence[str]) -> str:
    """The least that is a report."""
    return f"{PAGE_START}<title>tiny</title></head><body><h1>{escape(', '.join(labels))}</h1>{PAGE_END}"


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


def send_bytes(url: str, data: bytes, expected: int = 1) -> list[Reply]:
    """Send bytes as they are, and read as many answers as are expected, fewer when the server closes."""
    with connect(url) as connection:
        connection.sendall(data)
        return read_replies(connection, expected)


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def read_replies(connection: socket.socket, expected: int = 1) -> list[Reply]:
    data, replies = b"", []
    while len(replies) < expected:
        head, end, body = data.partition(b"\r\n\r\n")
        reply, length = parse_head(head) if end else (None, 0)
        if reply is not None and len(body) >= length:
            replies.append(Reply(reply.status, reply.headers, body[:length]))
            data = body[length:]
        elif chunk := receive(connection):
            data += chunk
        else:
            break
    return replies


def receive(connection: socket.socket) -> bytes:
    """The next bytes, none when the server has closed."""
    try:
        return connection.recv(65536)
    except ConnectionResetError:  # closed while we still sent
        return b""


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
