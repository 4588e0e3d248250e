"""POST /v1/embeddings: what a model's head reads of each input, as vectors of length 1, in OpenAI's shape."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Row
from budwood.engine.predictor import EMBEDDING, NO_EMBEDDING
from budwood.serving import strict_json
from budwood.serving.batch import EMBED, Failed
from budwood.serving.errors import HttpError
from budwood.serving.http import Request, Response
from budwood.serving.limits import Limits
from budwood.serving.model import Model
from budwood.serving.service import Service
from budwood.serving.writing_options import whole
from budwood.serving.writing_schemas import nullable

__all__ = ["EMBEDDING_ANSWER", "embedding_request", "embeddings"]

MAX_DIMENSIONS = 65_536
TURN = 16
"""Vectors that are written in one go."""
FORMATS = ("float", "base64")
EMBEDDING_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {
                        "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
                        "description": "numbers, or their float32, little-endian, in base64",
                    },
                },
                "required": ["object", "index", "embedding"],
            },
        },
        "model": {"type": "string"},
        "usage": {
            "type": "object",
            "properties": {key: {"type": "integer", "minimum": 0} for key in ("prompt_tokens", "total_tokens")},
            "required": ["prompt_tokens", "total_tokens"],
        },
        "truncated": {"type": "boolean", "description": "an input was longer than the model reads; its start was read"},
    },
    "required": ["object", "data", "model", "usage"],
}
FIELDS = ("input", "model", "encoding_format", "dimensions", "user")


def embedding_request(models: Sequence[Model], limits: Limits) -> dict[str, Any]:
    """The JSON schema of a request. An input is what the first model that gives vectors takes in its main field."""
    task = next((model.task for model in models if model.predictor.embeds), None)
    one = task.request_schema()["properties"][task.inputs[0]] if task else {"type": "string"}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": limits.items}
    size = {"description": "so many numbers of each vector, of length 1 again; at most those it has"}
    return {
        "type": "object",
        "properties": {
            "input": {"anyOf": [one, several]},
            "model": nullable({"type": "string", "description": "where it is left out, the first that gives vectors"}),
            "encoding_format": nullable({"enum": list(FORMATS), "default": FORMATS[0]}),
            "dimensions": nullable({"type": "integer", "minimum": 1, "maximum": MAX_DIMENSIONS} | size),
            "user": nullable({"type": "string"}),
        },
        "required": ["input"],
        "additionalProperties": False,
    }


async def embeddings(service: Service, request: Request) -> Response:
    """A vector for each input."""
    value = strict_json.parse(await request.json_body(service.limits), service.limits)
    service.refuse_unready()
    if not isinstance(value, dict):
        raise HttpError(422, "the body must be an object", field="body")
    given = {name: item for name, item in value.items() if item is not None}
    unknown = [name for name in given if name not in FIELDS]
    if unknown:
        raise HttpError(422, f"unknown field {unknown[0][:50]!r}", field=unknown[0][:50])
    request.model = embedder(service, given.get("model"))
    kind = given.get("encoding_format", "float")
    if kind not in FORMATS:
        raise HttpError(422, f"encoding_format is one of: {', '.join(FORMATS)}", field="encoding_format")
    if not isinstance(given.get("user", ""), str):
        raise HttpError(422, "user must be a string", field="user")
    dimensions = None
    if "dimensions" in given:
        dimensions = whole(given["dimensions"], "dimensions", 1, MAX_DIMENSIONS)
    found = await vectors(service, request, rows_of(service, request.model, given.get("input")))
    parts = []
    for index, answer in enumerate(found):
        if index % TURN == TURN - 1:
            await asyncio.sleep(0)  # writing numbers takes time, and others are waiting for the event loop
        vector = written(shortened(answer[EMBEDDING], dimensions), kind)
        parts.append(json.dumps({"object": "embedding", "index": index, "embedding": vector}))
    tokens = sum(answer["tokens"] for answer in found)
    rest: dict[str, Any] = {"model": request.model.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    if any(answer.get("truncated") for answer in found):
        rest["truncated"] = True
    text = '{"object": "list", "data": [' + ", ".join(parts) + "], " + json.dumps(rest)[1:]
    return Response(text.encode())


def embedder(service: Service, name: Any) -> Model:
    """The model of a name or `name:version`; the first that gives vectors where none is named. Raises HttpError."""
    if name is None:
        found = next((model for model in service.models if model.predictor.embeds), None)
        if found is None:
            raise HttpError(404, "no model that is served here gives embeddings", field="model")
        return found
    if not isinstance(name, str):
        raise HttpError(422, "model must be a string", field="model")
    model = service.find(name)
    refuse_without(model)
    return model


def refuse_without(model: Model) -> None:
    if model.task.writes:
        raise HttpError(404, f"{model.name} writes texts and gives no embeddings", field="model")
    if not model.predictor.embeds:
        raise HttpError(404, f"{NO_EMBEDDING}; make it again: budwood export {model.name}", field="model")


def rows_of(service: Service, model: Model, asked: Any) -> list[Row]:
    """The inputs as rows of the model's task. Raises HttpError 422 naming the first that is off."""
    items = asked if isinstance(asked, list) else [asked]
    main, most = model.task.inputs[0], service.limits.items
    if not items or len(items) > most:
        raise HttpError(422, f"input is a text, or a list of 1 to {most} of them", field="input")
    rows = []
    for at, item in enumerate(items):
        place = f"input[{at}]" if items is asked else "input"
        if isinstance(item, int | list) and not isinstance(item, bool):
            raise HttpError(422, "token ids are not read here; send texts", field="input")
        if not isinstance(item, str):
            raise HttpError(422, "each input must be a text", field=place)
        try:
            rows.append(service.parse(model, {main: item}))
        except HttpError as error:
            raise HttpError(error.status, error.detail, field=place) from error
    return rows


async def vectors(service: Service, request: Request, rows: list[Row]) -> list[dict[str, Any]]:
    """What the batcher gives of each row.

    Raises:
        HttpError: 404 where the model turns out to give no vectors, 422 where it fails on a row, 503 and 504 as always.
    """
    await service.open(request)
    refuse_without(request.model)
    results = service.batcher.at_once(request.model, rows, EMBED, request.scope.get("client"))
    answers = []
    for at, result in enumerate(results or await service.queued(request, rows, EMBED)):
        if isinstance(result, Failed):
            raise result.error(f"input[{at}]")
        answers.append(result.answer)
    return answers


def shortened(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first numbers of a vector, of length 1 again. Raises HttpError 422 where it has fewer."""
    if dimensions is None:
        return vector
    if dimensions > len(vector):
        raise HttpError(422, f"the model's vectors have {len(vector)} dimensions", field="dimensions")
    part = vector[:dimensions]
    return np.asarray(part / max(float(np.linalg.norm(part)), float(np.finfo(np.float32).tiny)), np.float32)


def written(vector: NDArray[np.float32], kind: str) -> str | list[float]:
    """A vector as it stands in JSON. Eight decimals are finer than float32 is at length 1."""
    if kind == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(number) for number in np.round(vector.astype(np.float64), 8)]
