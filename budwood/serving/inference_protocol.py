"""The Open Inference Protocol V2 (/v2): tensors in, tensors out, as Triton's and KServe's clients speak it.

A row's main field goes in as a BYTES tensor; label and score come out, and on demand the whole answer as JSON.
"""

import json
from typing import Any

from budwood import __version__
from budwood.core.task import Answer, Row, Task
from budwood.serving import strict_json
from budwood.serving.binary_tensors import infer_body, with_data
from budwood.serving.errors import HttpError
from budwood.serving.http import Request, Response
from budwood.serving.model import Model
from budwood.serving.service import Service

__all__ = ["health_live", "health_ready", "infer", "model_metadata", "model_ready", "server_metadata"]

OUTPUTS = {"label": "BYTES", "score": "FP32", "value": "FP64", "answer": "BYTES"}
"""Output tensors and their data types. `answer` is the JSON that /predict gives."""
CLASSIFIED = ("label", "score")


def reply(value: dict[str, Any]) -> Response:
    return Response(json.dumps(value).encode())


async def server_metadata(service: Service, request: Request) -> Response:
    return reply({"name": "budwood", "version": __version__, "extensions": ["binary_tensor_data"]})


async def health_live(service: Service, request: Request) -> Response:
    return reply({"live": True})


async def health_ready(service: Service, request: Request) -> Response:
    service.refuse_unready()
    return reply({"ready": True})


async def model_metadata(service: Service, request: Request) -> Response:
    model = named(service, request)
    problem = service.shelf.problem(model)
    return reply(
        {
            "name": model.name,
            "versions": [other.version for other in service.models if other.name == model.name],
            "platform": f"budwood_{model.task.name}",
            "inputs": [{"name": model.task.inputs[0], "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": name, "datatype": OUTPUTS[name], "shape": [-1]} for name in offered(model.task)],
            "parameters": {"open": model.opened} | ({"problem": problem} if problem else {}),
        }
    )


async def model_ready(service: Service, request: Request) -> Response:
    model = named(service, request)
    service.refuse_unready()
    if not service.shelf.answers(model):
        raise HttpError(503, "the model cannot be opened now", retry_after=1)
    return reply({"name": model.name, "ready": True})


async def infer(service: Service, request: Request) -> Response:
    """One inference request: as many rows as the input tensor has elements."""
    model = named(service, request)
    content, tail = await infer_body(request, service.limits)
    value = strict_json.parse(content, service.limits)
    service.refuse_unready()
    fields = expect(value, "the body", required=("inputs",), optional=("id", "parameters", "outputs"))
    wanted = wanted_outputs(model.task, fields.get("outputs"))
    rows = input_rows(service, model, fields["inputs"], tail)
    top = 3 if "answer" in wanted else 1
    # The protocol's tensors have no place for an error, so one failure fails the request, and is named.
    answers = [item.answer for item in await service.answer(request, rows, top, "inputs[0].data[{}]")]
    result: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if "id" in fields:
        result["id"] = text(fields["id"], "id")
    result["outputs"] = [tensor(name, answers) for name in wanted]
    return reply(result)


def named(service: Service, request: Request) -> Model:
    request.model = service.find(request.parameters["name"], request.parameters.get("version"))
    return request.model


def offered(task: Task) -> tuple[str, ...]:
    """The output tensors of a task: those that every answer of it has."""
    required = task.answer_schema().get("required", ())
    single = task.to_json().get("multi_label") is False
    found = (name for name in OUTPUTS if name in required or (single and name in CLASSIFIED))
    return (*found, "answer")


def wanted_outputs(task: Task, outputs: Any) -> list[str]:
    known = offered(task)
    if outputs is None:
        return [name for name in known if name != "answer"] or ["answer"]
    if not isinstance(outputs, list) or not outputs:
        raise HttpError(422, "outputs must be a list of at least one output", field="outputs")
    names = []
    for i, item in enumerate(outputs):
        fields = expect(item, f"outputs[{i}]", required=("name",), optional=("parameters",))
        if fields["name"] not in known:
            raise HttpError(422, f"the outputs are: {', '.join(known)}", field=f"outputs[{i}].name")
        names.append(fields["name"])
    return list(dict.fromkeys(names))


def input_rows(service: Service, model: Model, inputs: Any, tail: bytes) -> list[Row]:
    """The rows of the one input tensor, whose data are in it or in the bytes behind the JSON. Raises HttpError 422."""
    main = model.task.inputs[0]
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise HttpError(422, f"inputs must be a list of one tensor named {main}", field="inputs")
    required = ("name", "shape", "datatype", "data")
    tensor = with_data(inputs[0], tail, service.limits, files=bool(model.task.files))
    fields = expect(tensor, "inputs[0]", required=required, optional=("parameters",))
    if fields["name"] != main:
        raise HttpError(422, f"the input is named {main}", field="inputs[0].name")
    if fields["datatype"] != "BYTES":
        raise HttpError(422, "the input's datatype is BYTES", field="inputs[0].datatype")
    data, shape = fields["data"], fields["shape"]
    if not isinstance(data, list):
        raise HttpError(422, "data must be a list", field="inputs[0].data")
    if shape == [len(data), 1]:
        data = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]
    elif shape != [len(data)] or isinstance(shape[0], bool):
        raise HttpError(422, f"the shape must be [{len(data)}], the number of data", field="inputs[0].shape")
    if not 1 <= len(data) <= service.limits.items:
        raise HttpError(422, f"data must have 1 to {service.limits.items} items", field="inputs[0].data")
    return [service.parse(model, {main: item}, f"inputs[0].data[{i}]") for i, item in enumerate(data)]


def tensor(name: str, answers: list[Answer]) -> dict[str, Any]:
    data = [json.dumps(answer) if name == "answer" else answer[name] for answer in answers]
    return {"name": name, "datatype": OUTPUTS[name], "shape": [len(data)], "data": data}


def expect(value: Any, place: str, *, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
    """An object with these fields and no others. Raises HttpError 422 naming the first that is off."""
    if not isinstance(value, dict):
        raise HttpError(422, f"{place} must be an object", field=place)
    for name in required:
        if name not in value:
            raise HttpError(422, f"{name} is missing in {place}", field=name)
    for name in value:
        if name not in required and name not in optional:
            raise HttpError(422, f"unknown field {name[:50]!r} in {place}", field=name[:50])
    if not isinstance(value.get("parameters", {}), dict):
        raise HttpError(422, "parameters must be an object", field="parameters")
    return value


def text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise HttpError(422, f"{field} must be a string", field=field)
    return value
