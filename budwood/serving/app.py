"""The ASGI application of one worker: find the route, check who asks, answer, count.

It is raw ASGI, so that /predict pays for nothing that it does not use. Mount `App` in any ASGI server.
"""

import json
import logging
import time
from dataclasses import dataclass

from budwood.serving.auth import check_host, check_origin
from budwood.serving.errors import HttpError, dialect_of, render
from budwood.serving.http import Disconnected, Receive, Request, Response, Scope, Send, request_ids, send_response
from budwood.serving.openapi import document
from budwood.serving.pages import static_file
from budwood.serving.routes import ROUTES, Route
from budwood.serving.service import Service
from budwood.serving.telemetry import Telemetry

__all__ = ["App"]

logger = logging.getLogger("budwood.serving")

EXACT: dict[tuple[str, str], Route] = {(route.method, route.path): route for route in ROUTES if "{" not in route.path}
PATTERNS = [(route, route.path.split("/")) for route in ROUTES if "{" in route.path]
STATIC = Route("GET", "/static", static_file, "A file of the pages", "html", open=True)
"""The pages' own files; they are found in the service's pages."""


@dataclass
class App:
    """An ASGI application over a service."""

    service: Service
    telemetry: Telemetry | None = None
    """Where requests are sent as spans, if that is asked for."""

    def __post_init__(self) -> None:
        service = self.service
        self.ids = request_ids()
        self.describe()
        service.shelf.watchers.append(self.describe)

    def describe(self) -> None:
        """Write the OpenAPI document of what is served now."""
        service = self.service
        schema = document(service.models, service.limits, guarded=service.keys is not None)
        service.openapi = json.dumps(schema).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await refuse_other(scope, receive, send)
        request = Request(scope, receive, self.service.models[0], self.ids)
        request.silent = self.service.keys is not None
        try:
            await self.respond(request, scope["method"], send)
        finally:
            request.leave()

    async def respond(self, request: Request, method: str, send: Send) -> None:
        started = time.perf_counter()
        service = self.service
        route = None
        try:
            route = self.route(method, request)
            self.admit(route, request)
            response = await route.handler(service, request)
        except HttpError as error:
            kind, body = render(error, dialect_of(request.path), request.id.decode())
            response = Response(body, error.status, kind, error.headers)
        except Disconnected:
            self.note(route, request, 499, started)
            return
        except Exception as error:
            # Only the kind is logged: a message may quote the input.
            logger.exception("request %s failed: %s", request.id.decode(), type(error).__name__, exc_info=False)
            kind, body = render(HttpError(500, "internal error"), dialect_of(request.path), request.id.decode())
            response = Response(body, 500, kind)
        finally:
            request.release()
        more = CLOSING if service.draining or service.closing else ()
        await send_response(send, request, response, more)
        self.note(route, request, response.status, started)

    def note(self, route: Route | None, request: Request, status: int, started: float) -> None:
        """Count a request, and write it down where that is asked for."""
        service, seconds = self.service, time.perf_counter() - started
        if route is not None and route.infers:
            service.metrics.request(request.model.index, status, seconds)
            if self.telemetry is not None:
                self.telemetry.note(request, route.method, route.path, status, seconds)
        if service.access is not None:
            service.access.note(request, f"{route.method} {route.path}" if route is not None else "", status, seconds)

    def route(self, method: str, request: Request) -> Route:
        """The route of a request. Raises HttpError 404, or 405 with Allow."""
        path = request.path
        method = "GET" if method == "HEAD" else method
        route = EXACT.get((method, path))
        if route is not None:
            return route
        if path in self.service.pages and method == "GET":
            return STATIC
        parts = path.split("/")
        allowed = {route.method for (_, own), route in EXACT.items() if own == path}
        for route, pattern in PATTERNS:
            if len(parts) == len(pattern):
                pairs = list(zip(pattern, parts, strict=True))
                if all(a == b or (a[:1] == "{" and b) for a, b in pairs):
                    if route.method == method:
                        request.parameters = {a[1:-1]: b for a, b in pairs if a[:1] == "{"}
                        return route
                    allowed.add(route.method)
        if allowed or path in self.service.pages:
            names = sorted(allowed | ({"HEAD"} if "GET" in allowed else set()))
            headers = ((b"allow", ", ".join(names or ["GET", "HEAD"]).encode()),)
            raise HttpError(405, "this method is not allowed here", headers=headers)
        raise HttpError(404, "there is nothing here; see /docs")

    def admit(self, route: Route, request: Request) -> None:
        """Raises HttpError when the caller may not ask this."""
        request.refuse_twins()
        service = self.service
        if service.loopback or service.hosts:
            check_host(request.headers, service.hosts)
        if route.method == "POST":
            check_origin(request.headers)
        if service.keys is not None and not route.open:
            client = request.scope.get("client")
            request.key = service.keys.check(request.headers, route.scope, client[0] if client else "")
            request.silent = False


CLOSING = ((b"connection", b"close"),)


async def refuse_other(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the start and stop messages of a foreign ASGI server; refuse web sockets."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
