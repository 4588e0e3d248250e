"""What a server says of itself: health, figures, the list of models, its pages and its OpenAPI document."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from budwood.core.page import POLICY
from budwood.serving.errors import HttpError
from budwood.serving.http import Request, Response
from budwood.serving.model import Model
from budwood.serving.service import Service
from budwood.serving.stats import exposition, monitored, refresh

__all__ = ["PAGE_HEADERS", "figures", "grafana", "live", "metrics", "models", "openapi", "ready", "report", "stats"]

PAGE_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
REPORT_HEADERS = (
    (b"content-security-policy", f"{POLICY}; frame-ancestors 'none'; sandbox".encode()),
    *PAGE_HEADERS[1:],
)
"""A report comes from a bundle, so it is shown as a page of nobody: without scripts, forms or an origin."""


async def live(service: Service, request: Request) -> Response:
    return Response(b'{"status": "live"}')


async def ready(service: Service, request: Request) -> Response:
    if service.draining or not service.ready:
        raise HttpError(503, "the server is stopping", retry_after=1)
    return Response(b'{"status": "ready"}')


async def metrics(service: Service, request: Request) -> Response:
    service.metrics.gauge("queue_depth", service.batcher.depth)
    await refresh(service)
    text = service.board.text() + exposition(service)
    return Response(text.encode(), content_type=b"text/plain; version=0.0.4; charset=utf-8")


async def stats(service: Service, request: Request) -> Response:
    """The page's live figures, over all workers."""
    await refresh(service)
    return Response(json.dumps(figures(service)).encode())


def figures(service: Service) -> dict[str, Any]:
    """What GET /stats answers."""
    service.metrics.gauge("queue_depth", service.batcher.depth)
    body: dict[str, Any] = service.board.live()
    body["models"] = [
        {
            "name": model.name,
            "version": model.version,
            "task": model.task.name,
            "input": model.task.inputs[0],
            "writes": model.task.writes,
            "files": list(model.task.files),
            "draws": model.task.draws,
            "explains": model.task.explains,
            "objects": model.task.finds_objects,
            "span": model.task.to_json().get("span"),
            "report": bool(model.report),
            "open": model.opened,
            "problem": service.shelf.problem(model),
            "predictions": predictions(service, model),
            **monitored(service, model),
        }
        for model in service.models
    ]
    return body


def predictions(service: Service, model: Model) -> dict[str, int]:
    """Answers of a model by label, over all workers."""
    seen = service.board.find(model.name, model.version)
    return {label: int(count) for label, count in service.board.predictions(seen).items()}


async def models(service: Service, request: Request) -> Response:
    """The models in OpenAI's list shape."""
    data = [card(model) for model in service.models]
    return Response(json.dumps({"object": "list", "data": data}).encode())


async def model(service: Service, request: Request) -> Response:
    """One model in OpenAI's shape, by its name or `name:version`."""
    request.model = service.find(request.parameters["name"])
    return Response(json.dumps(card(request.model)).encode())


def card(model: Model) -> dict[str, Any]:
    about = {"id": model.name, "object": "model", "created": model.created, "owned_by": "budwood"}
    return about | {"version": model.version}


async def grafana(service: Service, request: Request) -> Response:
    """A dashboard that shows the figures of /metrics, to import into Grafana."""
    return Response(dashboard())


@cache
def dashboard() -> bytes:
    return files("budwood").joinpath("serving", "grafana.json").read_bytes()


async def openapi(service: Service, request: Request) -> Response:
    return Response(service.openapi)


async def report(service: Service, request: Request) -> Response:
    """The report of a model. Raises HttpError 404 where its bundle has none."""
    request.model = service.find(request.parameters["name"])
    if not request.model.report:
        raise HttpError(404, "this model has no report: its bundle was made without one")
    return Response(request.model.report, content_type=b"text/html; charset=utf-8", headers=REPORT_HEADERS)
