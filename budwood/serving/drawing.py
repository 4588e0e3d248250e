"""POST /models/{name}/drawing: an input as the model's task draws it, for the page. Only tasks that draw have it."""

import asyncio
import threading

from budwood.core.errors import DataError
from budwood.core.task import Row, Task
from budwood.serving import strict_json
from budwood.serving.errors import HttpError
from budwood.serving.http import Request, Response
from budwood.serving.service import Service

__all__ = ["drawing"]

MOST_AT_ONCE = 4
HEADERS = (
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cache-control", b"no-store"),
)
"""Whoever opens the answer as a page of its own gets a picture, and nothing that acts."""
PLACES = threading.BoundedSemaphore(MOST_AT_ONCE)
"""One for each drawing that this process may make at once. The thread that draws gives it back: it goes on when the
client, and with it the handler, is gone."""


async def drawing(service: Service, request: Request) -> Response:
    """An SVG of one row. Raises HttpError 404 where the task draws nothing, 422 for what cannot be drawn."""
    request.model = service.find(request.parameters["name"])
    task = request.model.task
    if not task.draws:
        raise HttpError(404, "inputs of this model are not drawn")
    body = await request.json_body(service.limits)
    service.refuse_unready()
    row = service.parse(request.model, strict_json.parse(body, service.limits))
    if not PLACES.acquire(blocking=False):
        raise HttpError(503, "too many drawings at the same time", retry_after=1)
    thread = asyncio.get_running_loop().run_in_executor(None, drawn, task, row)
    try:
        # Shielded: a thread that never began would keep its place.
        svg = await asyncio.shield(thread)
    except DataError as error:
        raise HttpError(422, error.cause, field=error.where) from error
    return Response(svg.encode(), content_type=b"image/svg+xml", headers=HEADERS)


def drawn(task: Task, row: Row) -> str:
    try:
        return task.drawing(row)
    finally:
        PLACES.release()
