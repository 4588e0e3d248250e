"""What the benchmarks of operations share: a server with a store, a client that notes losses, and what it holds."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

PARENT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PARENT))  # for the model that all serving benchmarks share


@contextmanager
def budwood_serve(*arguments: str, log: Path) -> Iterator[tuple[str, int]]:
    """A server that answers: its address and its process id. What it logs is added to a file."""
    command = [sys.executable, "-m", "budwood", "serve", "--port", "0", "--json", *arguments]
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(log.read_text())
    try:
        yield json.loads(line)["url"], process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.communicate()


def workers_of(pid: int) -> list[int]:
    """The worker processes of a server."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass(frozen=True)
class Held:
    """What processes hold together."""

    megabytes: float
    descriptors: int
    threads: int
    processes: int

    @classmethod
    def by(cls, pids: list[int]) -> Self:
        size, threads, descriptors = 0.0, 0, 0
        for pid in pids:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            size += int(fields["VmRSS"].split()[0]) * 1024 / 1e6
            threads += int(fields["Threads"])
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(round(size, 2), descriptors, threads, len(pids))


class Client:
    """One connection that asks one thing at a time, and connects anew when it was closed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, body: bytes | None, kind: str = "application/json") -> tuple[int, dict[str, str]]:
        """The status and the headers of an answer. Raises ConnectionError when the connection ends before it."""
        await self.send(path, body, kind)
        assert self.reader is not None
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            await self.reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, OSError) as error:
            self.drop()
            raise ConnectionError(str(error)) from error
        if headers.get("connection") == "close":
            self.drop()
        return int(lines[0].split()[1]), headers

    async def send(self, path: str, body: bytes | None, kind: str = "application/json") -> None:
        if self.writer is None or self.reader is None or self.reader.at_eof():
            self.drop()
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: {self.host}\r\n"
        if body is not None:
            head += f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + (body or b""))

    def drop(self) -> None:
        """Close the connection, whatever is under way."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None
