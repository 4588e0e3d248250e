"""uvicorn's HTTP/1.1 protocol with the limits that it lacks: header bytes, time to read a request, open connections.

Each worker calls `sweep` about once a second to close what is overdue.
"""

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

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
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
        """Close when the request that is being read takes too long, or when none came."""
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
