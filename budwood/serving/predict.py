"""POST /predict and its equals: one row in, one answer out, or `{"inputs": […]}` in and `{"outputs": […]}` out."""

from typing import Any

from budwood.core.task import Row
from budwood.serving import strict_json
from budwood.serving.batch import Answered, Failed
from budwood.serving.errors import HttpError
from budwood.serving.http import Request, Response
from budwood.serving.model import Model
from budwood.serving.multipart import is_file, read_file
from budwood.serving.service import Service

__all__ = ["predict", "predict_named"]


async def predict(service: Service, request: Request) -> Response:
    """Answers of the request's model to one row, or to a list of them; where the task reads files, to one as it is.

    An item of a list on which the model fails has an error in the place of its answer; the others are answered.
    """
    task = request.model.task
    kind = request.headers.get(b"content-type", b"")
    if task.files and is_file(kind):
        content = await request.body(service.limits)
        service.refuse_unready()
        value: Any = {task.inputs[0]: read_file(kind, content, task.inputs[0])} | explain(request)
    else:
        body = await request.json_body(service.limits)
        service.refuse_unready()
        value = strict_json.parse(body, service.limits)
        if isinstance(value, dict) and "inputs" not in value:
            value = explain(request) | value
    top = service.top(request)
    if isinstance(value, dict) and "inputs" in value and "inputs" not in task.inputs:
        results = await service.results(request, many(service, request.model, value, explain(request)), top)
        refuse_if_all_failed(results)
        return Response(b'{"outputs": [' + b", ".join([result.body for result in results]) + b"]}")
    (answer,) = await service.answer(request, (service.parse(request.model, value),), top, task.inputs[0])
    return Response(answer.body)


def explain(request: Request) -> dict[str, bool]:
    """`?explain=true`, as `"explain": true` of each input that does not say it itself. Raises HttpError 422."""
    if not request.scope["query_string"] or not request.model.task.explains:
        return {}
    value = request.query().get("explain")
    if value not in (None, "true", "false"):
        raise HttpError(422, "explain must be true or false", field="explain")
    return {} if value is None else {"explain": value == "true"}


async def predict_named(service: Service, request: Request) -> Response:
    """The same, for the model that the path names."""
    request.model = service.find(request.parameters["name"])
    return await predict(service, request)


def refuse_if_all_failed(results: list[Answered | Failed]) -> None:
    """A list fails as a whole only when nothing in it was answered, so that a broken model shows in the status."""
    failures = [result for result in results if isinstance(result, Failed)]
    if len(failures) == len(results):
        raise failures[0].error("inputs[0]")


def many(service: Service, model: Model, value: dict[str, Any], shared: dict[str, bool]) -> list[Row]:
    """The rows of `{"inputs": […]}`, each with the `shared` fields; a bare string stands for a row's main field.

    Raises HttpError 422.
    """
    unknown = sorted(set(value) - {"inputs"})
    if unknown:
        raise HttpError(422, f"unknown field {unknown[0][:50]!r} beside inputs", field=unknown[0][:50])
    items = value["inputs"]
    if not isinstance(items, list) or not items:
        raise HttpError(422, "inputs must be a list of at least one input", field="inputs")
    if len(items) > service.limits.items:
        detail = f"inputs has {len(items)} items, at most {service.limits.items} are accepted"
        raise HttpError(422, detail, field="inputs")
    main = model.task.inputs[0]
    rows = [{main: item} if isinstance(item, str) else item for item in items]
    rows = [shared | row if isinstance(row, dict) else row for row in rows]
    found = [service.parse(model, row, f"inputs[{i}]") for i, row in enumerate(rows)]
    if (maps := sum(bool(row.get("explain")) for row in found)) > service.limits.explained:
        detail = f"{maps} inputs ask for a heat map, at most {service.limits.explained} are drawn for one request"
        raise HttpError(422, detail, field="explain")
    return found
