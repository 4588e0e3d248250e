"""The OpenAPI 3.1 document, made from the route table and the schemas of the served tasks."""

from collections.abc import Sequence
from typing import Any

from budwood import __version__
from budwood.serving.embeddings import EMBEDDING_ANSWER, embedding_request
from budwood.serving.limits import Limits
from budwood.serving.model import Model
from budwood.serving.routes import ROUTES, Route
from budwood.serving.writing_schemas import COMPLETION_ANSWER, chat_request, completion_request

__all__ = ["document"]

PROBLEM = {
    "type": "object",
    "description": "Problem details, RFC 9457",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
    "required": ["title", "status", "detail"],
}
PLAIN = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
OPENAI = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}},
    "required": ["error"],
}
REASONS = {
    400: "Not an HTTP request, or not JSON",
    401: "No key, or an unknown one",
    403: "Sent by the page of another site, or with a key that is good for less",
    404: "No such model",
    408: "The request came too slowly",
    409: "There is another label for this answer",
    413: "Too long",
    415: "Not application/json",
    422: "Well-formed, but invalid; the field is named",
    429: "The key asks too often, or too many wrong keys came from this address; see Retry-After",
    431: "The headers are too long",
    503: "Busy or stopping; see Retry-After",
    504: "Not answered in time",
}


def document(models: Sequence[Model], limits: Limits, guarded: bool) -> dict[str, Any]:
    """The whole document. `guarded` says whether keys are needed."""
    paths: dict[str, Any] = {}
    for route in (route for route in ROUTES if route.shape != "part"):
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route, models, guarded)
    keys = {"bearer": {"type": "http", "scheme": "bearer"}, "header": KEY_HEADER} if guarded else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Budwood", "version": __version__, "description": "A small model behind an API."},
        "paths": paths,
        "components": {"schemas": schemas(models, limits), "securitySchemes": keys},
    }


OPENAI_SHAPES = ("completion", "chat", "embedding")
"""The shapes of routes whose body names a model."""
WRITING = OPENAI_SHAPES[:2]
"""The shapes of routes that write texts."""
KEY_HEADER = {"type": "apiKey", "in": "header", "name": "x-api-key"}


def operation(route: Route, models: Sequence[Model], guarded: bool) -> dict[str, Any]:
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    known = {field: {"enum": sorted({getattr(model, field) for model in models})} for field in ("name", "version")}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"} | known.get(name, {})}
        for name in names
    ]
    if route.shape == "predict":
        parameters.append({"name": "top", "in": "query", "schema": {"$ref": "#/components/schemas/Top"}})
        if any(model.task.explains for model in models):
            about = "also a heat map of what each answer rests on"
            switch = {"type": "string", "enum": ["true", "false"]}
            parameters.append({"name": "explain", "in": "query", "description": about, "schema": switch})
    success = {"description": "OK", "headers": HEADERS, "content": content(route)}
    result: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method} {route.path}",
        "parameters": parameters,
        "responses": {"200": success} | failures(route, guarded),
    }
    if route.method == "POST":
        schema = {"$ref": f"#/components/schemas/{route.shape.capitalize()}Request"}
        bodies: dict[str, Any] = {"application/json": {"schema": schema}}
        if route.shape == "predict":
            bodies |= file_bodies(models)
        result["requestBody"] = {"required": True, "content": bodies}
    if guarded:
        result["security"] = [] if route.open else [{"bearer": []}, {"header": []}]
    return result


def file_bodies(models: Sequence[Model]) -> dict[str, Any]:
    """The further bodies of models that read files: the file as it is, or as a part of a form."""
    tasks = [model.task for model in models if model.task.files]
    if not tasks:
        return {}
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"anyOf": [strict({name: file}) for name in sorted({task.inputs[0] for task in tasks})]}
    whole: dict[str, Any] = {kind: {"schema": {}} for task in tasks for kind in task.files}
    return whole | {"multipart/form-data": {"schema": form}}


HEADERS = {
    name: {"schema": {"type": "string"}, "required": True} for name in ("x-request-id", "x-model", "x-model-version")
}


def content(route: Route) -> dict[str, Any]:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "predict": ("application/json", {"$ref": "#/components/schemas/PredictAnswer"}),
        "infer": ("application/json", {"$ref": "#/components/schemas/InferAnswer"}),
        "completion": ("application/json", {"$ref": "#/components/schemas/CompletionAnswer"}),
        "chat": ("application/json", {"$ref": "#/components/schemas/CompletionAnswer"}),
        "embedding": ("application/json", {"$ref": "#/components/schemas/EmbeddingAnswer"}),
        "json": ("application/json", {"type": "object"}),
        "feedback": ("application/json", FEEDBACK_ANSWER),
        "drawing": ("image/svg+xml", {"type": "string"}),
        "text": ("text/plain", {"type": "string"}),
        "html": ("text/html", {"type": "string"}),
    }
    kind, schema = kinds[route.shape]
    # OpenAPI 3.1 has no word for a stream of events, and readers differ in what they take for its value.
    events: dict[str, Any] = {"text/event-stream": {"schema": {}}} if route.shape in WRITING else {}
    return {kind: {"schema": schema}} | events


def failures(route: Route, guarded: bool) -> dict[str, Any]:
    statuses = [400, 431]
    statuses += [401, 429] if guarded and not route.open else []
    statuses += [403] if guarded and route.scope != "predict" and not route.infers else []
    statuses += [403, 408, 413, 415, 422, 503] if route.method == "POST" else []
    statuses += [504] if route.infers else [409] if route.shape == "feedback" else []
    statuses += [503] if route.path.endswith(("ready", "/readyz", "/ping")) else []
    statuses += [404] if "{" in route.path or route.shape in OPENAI_SHAPES else []
    kind, shape = "application/problem+json", "Problem"
    if route.path.startswith("/v2"):
        kind, shape = "application/json", "PlainError"
    elif route.path.startswith("/v1"):
        kind, shape = "application/json", "OpenAIError"
    body = {kind: {"schema": {"$ref": f"#/components/schemas/{shape}"}}}
    return {str(status): {"description": REASONS[status], "content": body} for status in sorted(statuses)}


def schemas(models: Sequence[Model], limits: Limits) -> dict[str, Any]:
    tasks = {type(model.task) for model in models}
    rows = [task.request_schema() for task in tasks]
    answers = [task.answer_schema() for task in tasks]
    row = rows[0] if len(rows) == 1 else {"anyOf": rows}
    answer = answers[0] if len(answers) == 1 else {"anyOf": answers}
    items = {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "minItems": 1, "maxItems": limits.items}
    answered = {"$ref": "#/components/schemas/Answer"}
    return {
        "Row": row,
        "Answer": answer,
        "Top": {"type": "integer", "minimum": 1, "maximum": limits.top, "default": 3},
        "PredictRequest": {"anyOf": [{"$ref": "#/components/schemas/Row"}, strict({"inputs": items})]},
        "PredictAnswer": {
            "anyOf": [
                answered,
                strict({"outputs": {"type": "array", "items": {"anyOf": [answered, FAILED_ITEM]}}}),
            ]
        },
        "DrawingRequest": {"$ref": "#/components/schemas/Row"},
        "InferRequest": infer_request(models, limits),
        "InferAnswer": INFER_ANSWER,
        "CompletionRequest": completion_request(limits, smallest_vocabulary(models)),
        "ChatRequest": chat_request(limits, smallest_vocabulary(models)),
        "CompletionAnswer": COMPLETION_ANSWER,
        "FeedbackRequest": feedback_request(limits),
        "EmbeddingRequest": embedding_request(models, limits),
        "EmbeddingAnswer": EMBEDDING_ANSWER,
        "Problem": PROBLEM,
        "PlainError": PLAIN,
        "OpenAIError": OPENAI,
    }


def smallest_vocabulary(models: Sequence[Model]) -> int:
    """The tokens that all models have that write."""
    return min((model.generator.vocabulary.size for model in models if model.generator), default=1)


def strict(properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


FAILED_ITEM = {
    "description": "In the place of the answer to an input on which the model failed",
} | strict({"error": strict({"status": {"type": "integer"}, "detail": {"type": "string"}})})


def feedback_request(limits: Limits) -> dict[str, Any]:
    """A label's kind is that of the answer: a text, a list of texts, a number, or for a text whether it was good."""
    label = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")] + [LABELS]}
    place = {"type": "integer", "minimum": 0, "maximum": limits.items - 1, "default": 0}
    return strict({"label": label, "input": place, "replace": {"type": "boolean"}}, optional=("input", "replace"))


LABELS = {"type": "array", "items": {"type": "string"}}
FEEDBACK_ANSWER = {
    "type": "object",
    "properties": {
        "request_id": {"type": "string"},
        "input": {"type": "integer"},
        "model": {"type": "string"},
        "version": {"type": "string"},
        "prediction": {},
        "label": {},
        "score": {"type": "number"},
    },
    "required": ["request_id", "input", "model", "version", "label", "score"],
}


def infer_request(models: Sequence[Model], limits: Limits) -> dict[str, Any]:
    """The tensor's shape must equal the number of its data, which JSON schema cannot say; so one item is described."""
    mains = sorted({model.task.inputs[0] for model in models})
    fields = {name: schema for model in models for name, schema in model.task.request_schema()["properties"].items()}
    parameters = {"type": "object"}
    data = {"type": "array", "items": fields[mains[0]], "minItems": 1, "maxItems": 1}
    tensor = {
        "name": {"enum": mains},
        "datatype": {"const": "BYTES"},
        "shape": {"const": [1], "description": f"the number of data, up to {limits.items}"},
        "data": data,
        "parameters": parameters,
    }
    names = {"type": "string", "enum": ["answer"]}
    output = strict({"name": names, "parameters": parameters}, optional=("parameters",))
    properties = {
        "id": {"type": "string"},
        "parameters": parameters,
        "inputs": {
            "type": "array",
            "items": strict(tensor, optional=("parameters",)),
            "minItems": 1,
            "maxItems": 1,
        },
        "outputs": {"type": "array", "items": output, "minItems": 1},
    }
    return strict(properties, optional=("id", "parameters", "outputs"))


INFER_ANSWER = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": strict(
                {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "array"},
                }
            ),
        },
    },
    "required": ["model_name", "model_version", "outputs"],
}
