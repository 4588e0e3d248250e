"""uvicorn's HTTP/1.1 protocol with the limits that it lacks: header bytes, time to read a request, open connections.

Each worker calls `sweep` about once a second to close what is overdue.
"""

import asyncio
import json
import secrets
from http import HTTPStatus
from typing import Any, final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from budwood.serving.limits import Limits

__all__ = ["LimitedProtocol", "sweep"]


class TooLong(Exception):
    """The headers are longer than allowed; raised inside the parser to stop it."""


@final
class OneWrite:
    """A transport that holds the head of an answer until its body comes: one packet and one system call for both.

    uvicorn writes them one after the other; together they cost a tenth less of all that is not the model.
    """

    __slots__ = ("abort", "get_extra_info", "held", "is_closing", "pause_reading", "resume_reading", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.held = b""
        self.abort = transport.abort
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if not self.held and data.startswith(b"HTTP/1.1 200 "):
            self.held = data
        else:
            data, self.held = self.held + data, b""
            self.transport.write(data)

    def flush(self) -> None:
        """Send a head that has no body, as for HEAD."""
        if self.held:
            self.transport.write(self.held)
            self.held = b""

    def close(self) -> None:
        self.flush()
        self.transport.close()


@final
class LimitedProtocol(HttpToolsProtocol):
    """One connection. uvicorn takes its protocol as a class, so here alone methods of another are overridden."""

    def __init__(self, config: Config, server_state: ServerState, limits: Limits) -> None:
        super().__init__(config, server_state, {})
        self.limits = limits
        self.since = self.loop.time()
        """When the connection, or the request that is being read, began."""
        self.receiving = False
        self.in_headers = False
        self.header_bytes = 0
        self.status = 400
        self.blocked = 0.0
        """Since when the client takes no more of its answers, 0 while it does."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(OneWrite(transport))  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self.refuse(503, "too many connections")

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        super().data_received(data)
        if self.in_headers:
            self.count(len(data))
            if self.status == 431:
                self.refuse(431, "the headers are too long")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.since = self.loop.time()
        self.receiving = self.in_headers = True
        self.header_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self.count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self.count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        if self.status == 431:
            raise TooLong
        self.in_headers = False
        self.header_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.receiving = False
        super().on_message_complete()

    def pause_writing(self) -> None:
        self.blocked = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.blocked = 0.0
        super().resume_writing()

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def count(self, size: int) -> None:
        self.header_bytes += size
        if self.header_bytes > self.limits.header_bytes:
            self.status = 431

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.status, "the headers are too long" if self.status == 431 else "this is not an HTTP request")

    def refuse(self, status: int, detail: str) -> None:
        """Answer without asking the application, and close."""
        if self.transport.is_closing():
            return
        request_id = secrets.token_hex(16)
        title = HTTPStatus(status).phrase
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}
        body = json.dumps(problem).encode()
        head = (
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n{'retry-after: 1' if status == 503 else 'connection: close'}\r\n"
        )
        close = "connection: close\r\n" if status == 503 else ""
        self.transport.write(f"{head}{close}\r\n".encode() + body)
        self.transport.close()

    def overdue(self, now: float) -> None:
        """Close when a request takes too long to arrive, when none came, or when answers are not taken."""
        if self.blocked and now - self.blocked > self.limits.read_seconds:
            self.transport.abort()
            return
        waited = now - self.since > self.limits.read_seconds
        if not waited or self.pipeline or self.transport is None or self.transport.is_closing():
            return
        if self.cycle is None and not self.receiving:
            self.transport.close()
        elif self.receiving and (self.in_headers or self.cycle is None or not self.cycle.response_started):
            self.refuse(408, f"the request did not arrive within {self.limits.read_seconds:g} seconds")
        elif self.receiving:
            self.transport.close()


def sweep(state: ServerState, now: float) -> None:
    """Look at every connection; call it about once a second with the event loop's time."""
    for connection in list(state.connections):
        if isinstance(connection, LimitedProtocol):
            connection.overdue(now)
