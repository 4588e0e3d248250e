"""Requests and responses over raw ASGI: reading a bounded body, and writing an answer in one go."""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from budwood.serving.errors import HttpError
from budwood.serving.keys import Key
from budwood.serving.limits import Limits
from budwood.serving.model import Model

__all__ = ["Receive", "Request", "Response", "Scope", "Send", "gone", "request_ids", "send_response"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}", re.ASCII)


def request_ids() -> Iterator[bytes]:
    """128 random bits each, drawn for many at a time: a system call for every request is 5 % of its overhead."""
    while True:
        block = secrets.token_hex(16 * 256).encode()
        yield from (block[start : start + 32] for start in range(0, len(block), 32))


@dataclass(frozen=True, slots=True)
class Response:
    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[Header, ...] = ()
    stream: AsyncIterator[bytes] | None = None
    """What is sent, as it comes, in the place of the body."""


class Request:
    """One HTTP request. `model` is set by the handler that finds it; errors and figures then carry its name."""

    __slots__ = ("chosen", "headers", "id", "key", "parameters", "path", "receive", "reserved", "scope", "silent")

    def __init__(self, scope: Scope, receive: Receive, model: Model, ids: Iterator[bytes]) -> None:
        self.scope = scope
        self.receive = receive
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.parameters: dict[str, str] = {}
        self.chosen = model
        model.uses.count += 1
        self.key: Key | None = None
        """The caller's key, where keys are needed."""
        self.silent = False
        """Whether the answer must not name the model: keys are needed, and none was shown."""
        self.reserved = 0
        given = self.headers.get(b"x-request-id")
        # The caller's id is kept when it is harmless in logs and headers.
        self.id = given if given is not None and REQUEST_ID.fullmatch(given) else next(ids)

    @property
    def names(self) -> tuple[Header, ...]:
        """The headers that name the model."""
        return () if self.silent else self.chosen.headers

    @property
    def model(self) -> Model:
        """The model that answers; it stays open until `leave`."""
        return self.chosen

    @model.setter
    def model(self, model: Model) -> None:
        model.uses.count += 1
        self.leave()
        self.chosen = model

    def leave(self) -> None:
        """The request has ended, its stream too."""
        self.chosen.uses.count -= 1

    def owned(self, request_id: str) -> str:
        """An id as it is kept: behind the name of the caller's key, so that nobody reaches what others asked."""
        return f"{self.key.name}:{request_id}" if self.key is not None else request_id

    def refuse_twins(self) -> None:
        """Raises HttpError 400 when a header that decides something is there twice: two readers could differ."""
        if len(self.headers) != len(self.scope["headers"]):
            seen = [name for name, _ in self.scope["headers"] if name in SINGLE]
            if len(seen) != len(set(seen)):
                raise HttpError(400, "a header that may occur once is there twice")

    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))

    async def json_body(self, limits: Limits) -> bytes:
        """The bytes of a JSON body.

        Raises:
            HttpError: 415 for another type or any content encoding, 413 for too many bytes.
        """
        kind = self.headers.get(b"content-type", b"")
        if kind != b"application/json" and not JSON_TYPE.fullmatch(kind):
            raise HttpError(415, "send content-type: application/json", headers=((b"accept", b"application/json"),))
        return await self.body(limits)

    def reserve(self, size: int, limits: Limits) -> None:
        """Count a long body until `release`. Raises HttpError 503 when too many are held."""
        if size > limits.body_bytes:
            if LONG_BODIES[0] + size > limits.bodies_bytes:
                raise HttpError(503, "too many large requests at the same time", retry_after=1, close=True)
            self.reserved = size
            LONG_BODIES[0] += size

    def release(self) -> None:
        """The request is answered."""
        LONG_BODIES[0] -= self.reserved
        self.reserved = 0

    async def body(self, limits: Limits) -> bytes:
        """The whole body.

        Raises:
            HttpError: 415 for any content encoding, 413 as soon as the body is longer than the limit, or the task's.
            Disconnected: the client went away.
        """
        headers = self.headers
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise HttpError(415, "send the body without content-encoding", headers=((b"accept-encoding", b"identity"),))
        longest = max(limits.body_bytes, self.model.task.request_bytes)
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared[:20]) > longest:
            raise too_large(longest)
        if longest > limits.body_bytes:
            self.reserve(int(declared[:20]) or longest, limits)
        message = await self.receive()
        parts: list[bytes] = [message.get("body", b"")]
        size = len(parts[0])
        while message["type"] == "http.request" and message.get("more_body", False) and size <= longest:
            message = await self.receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        if message["type"] == "http.disconnect":
            raise Disconnected
        if size > longest:
            raise too_large(longest)
        return parts[0] if len(parts) == 1 else b"".join(parts)


LONG_BODIES = [0]
"""Bytes of the long bodies that this process holds; all handlers run in one thread."""


class Disconnected(Exception):
    """The client went away; there is nobody to answer."""


SINGLE = frozenset({b"host", b"authorization", b"x-api-key", b"content-type", b"content-encoding", b"origin"})
JSON_TYPE = re.compile(rb'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)


def too_large(longest: int) -> HttpError:
    return HttpError(413, f"the body is longer than {longest} bytes", close=True)


async def gone(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def send_response(send: Send, request: Request, response: Response, more: Iterable[Header] = ()) -> None:
    if response.stream is not None:
        return await send_stream(send, request, response, response.stream)
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode()),
        (b"x-request-id", request.id),
        (b"x-content-type-options", b"nosniff"),
        *request.names,
        *response.headers,
        *more,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def send_stream(send: Send, request: Request, response: Response, stream: AsyncIterator[bytes]) -> None:
    """The parts of a stream as they come."""
    headers = [
        (b"content-type", response.content_type),
        (b"cache-control", b"no-cache"),
        (b"x-request-id", request.id),
        (b"x-content-type-options", b"nosniff"),
        *request.names,
        *response.headers,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async for part in stream:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
