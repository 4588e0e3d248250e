"""POST /feedback/{request_id}: the true label of an answer, when it is known."""

import asyncio
import json

from budwood.serving import strict_json
from budwood.serving.errors import HttpError
from budwood.serving.http import REQUEST_ID, Request, Response
from budwood.serving.service import Service

__all__ = ["feedback"]

FIELDS = {"label", "input", "replace"}


async def feedback(service: Service, request: Request) -> Response:
    """Keep the true label of an answer; the same again changes nothing.

    Raises:
        HttpError: as `live_accuracy.Feedback.give`, and 422 for a body that is off.
    """
    request_id = request.parameters["request_id"]
    value = strict_json.parse(await request.json_body(service.limits), service.limits)
    if not isinstance(value, dict):
        raise HttpError(422, "the body must be an object", field="body")
    if unknown := sorted(set(value) - FIELDS):
        raise HttpError(422, f"unknown field {unknown[0][:50]!r}", field=unknown[0][:50])
    if "label" not in value:
        raise HttpError(422, "label is missing", field="label")
    place, replace = value.get("input", 0), value.get("replace", False)
    if isinstance(place, float) and place.is_integer():  # JSON knows one kind of number
        place = int(place)
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < service.limits.items:
        raise HttpError(422, "input must be the place of an input in its list, from 0 on", field="input")
    if not isinstance(replace, bool):
        raise HttpError(422, "replace must be true or false", field="replace")
    if not REQUEST_ID.fullmatch(request_id.encode()):
        raise HttpError(404, "no answer with this id is known here any more")
    owned = request.owned(request_id)
    given = await asyncio.to_thread(service.feedback.give, service.monitor, owned, place, value["label"], replace)
    request.model = next(
        (model for model in service.models if (model.name, model.version) == (given.model, given.version)),
        request.model,
    )
    body = {
        "request_id": request_id,
        "input": given.place,
        "model": given.model,
        "version": given.version,
        "prediction": None if given.prediction is None else json.loads(given.prediction),
        "label": json.loads(given.label),
        "score": given.score,
    }
    return Response(json.dumps(body).encode())
