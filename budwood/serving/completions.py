"""POST /v1/completions and /v1/chat/completions: writing, in the shapes that OpenAI's clients send and read.

`"stream": true` gives server-sent events that end with `data: [DONE]`.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from budwood.engine.decoding import Piece, Sampling
from budwood.serving import strict_json
from budwood.serving.desk import Begun, Wanted, attended, complete
from budwood.serving.errors import HttpError, render
from budwood.serving.http import Disconnected, Request, Response
from budwood.serving.model import Model
from budwood.serving.service import Service

__all__ = ["chat", "completions"]

OPTIONS = tuple(field.name for field in fields(Sampling))
UNSUPPORTED: Mapping[str, Any] = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "presence_penalty": 0,
    "suffix": "",
    "tools": [],
}
"""Fields of OpenAI's that are accepted with the value that changes nothing."""
REASONS = {"stop": "stop", "length": "length", "deadline": "length", "cancelled": "length"}
"""Why a text ended, in OpenAI's words: one that was cut by the clock has reached a limit of length, too."""


async def completions(service: Service, request: Request) -> Response:
    """Texts that go on from a prompt, or from each of several."""
    return await respond(service, request, await read(service, request, "prompt"))


async def chat(service: Service, request: Request) -> Response:
    """The assistant's next message in a conversation."""
    return await respond(service, request, await read(service, request, "messages"))


@dataclass(frozen=True)
class Asked:
    """A request as it is understood."""

    wanted: Wanted
    chat: bool
    stream: bool
    usage: bool
    """Whether a stream ends with the counts of tokens."""
    head: Mapping[str, Any]
    """What every object of the answer begins with."""


async def read(service: Service, request: Request, main: str) -> Asked:
    """The request whose main field is `prompt` or `messages`.

    Raises:
        HttpError: 404 for an unknown model, 422 for anything that is off, with the field.
    """
    value = strict_json.parse(await request.json_body(service.limits), service.limits)
    service.refuse_unready()
    if not isinstance(value, dict):
        raise HttpError(422, "the body must be an object", field="body")
    # OpenAI's clients send null for what was not set.
    given = {name: item for name, item in value.items() if item is not None}
    request.model = writer(service, given.pop("model", None))
    n, stream, usage = sizes(given, service.limits.texts)
    refuse_unsupported(given)
    if "max_completion_tokens" in given:
        given["max_tokens"] = given.pop("max_completion_tokens")
    if main not in given:
        raise HttpError(422, f"{main} is missing", field=main)
    asked = given.pop(main)
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise HttpError(422, f"unknown field {unknown[0][:50]!r}", field=unknown[0][:50])
    items = [{"messages": messages(asked)}] if main == "messages" else [{"text": text} for text in prompts(asked)]
    wanted = Wanted.of([parse(service, request.model, item | given, main) for item in items], n)
    kind, prefix = ("chat.completion", "chatcmpl") if main == "messages" else ("text_completion", "cmpl")
    head = {
        "id": f"{prefix}-{request.id.decode()}",
        "object": f"{kind}.chunk" if stream and main == "messages" else kind,
        "created": int(time.time()),
        "model": request.model.name,
    }
    return Asked(wanted, main == "messages", stream, usage, head)


def writer(service: Service, name: Any) -> Model:
    """The model of a name or `name:version`; the first that writes where none is named."""
    if name is None:
        found = next((model for model in service.models if model.generator is not None), None)
        if found is None:
            raise HttpError(404, "no model that is served here writes texts", field="model")
        return found
    if not isinstance(name, str):
        raise HttpError(422, "model must be a string", field="model")
    title, _, version = name.partition(":")
    model = service.find(title, version or None)
    if model.generator is None:
        raise HttpError(404, f"{model.name} is made for {model.task.name} and writes no texts", field="model")
    return model


def sizes(given: dict[str, Any], most: int) -> tuple[int, bool, bool]:
    """`n`, `stream` and whether a stream ends with the usage, taken out of the fields. Raises HttpError 422."""
    n, stream = given.pop("n", 1), given.pop("stream", False)
    options = given.pop("stream_options", {})
    if isinstance(n, float) and n.is_integer():  # JSON knows one kind of number
        n = int(n)
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= most:
        raise HttpError(422, f"n must be a whole number from 1 to {most}", field="n")
    if not isinstance(stream, bool):
        raise HttpError(422, "stream must be true or false", field="stream")
    usage = options.get("include_usage", False) if isinstance(options, dict) else None
    if not isinstance(usage, bool) or set(options) - {"include_usage"}:
        raise HttpError(422, 'stream_options is {"include_usage": true} or false', field="stream_options")
    return n, stream, usage


def refuse_unsupported(given: dict[str, Any]) -> None:
    """Take out what changes nothing. Raises HttpError 422 for what would, and is not built."""
    user = given.pop("user", "")
    if not isinstance(user, str):
        raise HttpError(422, "user must be a string", field="user")
    for name, neutral in UNSUPPORTED.items():
        if given.pop(name, neutral) != neutral:
            raise HttpError(422, f"{name} is not supported here; leave it out", field=name)


def prompts(asked: Any) -> list[str]:
    texts = [asked] if isinstance(asked, str) else asked
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise HttpError(422, "prompt must be a text or a list of texts", field="prompt")
    return texts


def messages(asked: Any) -> Any:
    """Messages as the task takes them: parts that are texts are joined, and a developer is a system."""
    if not isinstance(asked, list):
        return asked
    return [plain(turn, f"messages[{at}]") if isinstance(turn, dict) else turn for at, turn in enumerate(asked)]


def plain(turn: dict[str, Any], place: str) -> dict[str, Any]:
    content = turn.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) < len(content) or not all(isinstance(part, str) for part in parts):
            raise HttpError(422, "only texts are read", field=f"{place}.content")
        content = "".join(map(str, parts))
    role = "system" if turn.get("role") == "developer" else turn.get("role")
    return {"role": role, "content": content}


def parse(service: Service, model: Model, item: dict[str, Any], main: str) -> Any:
    try:
        return service.parse(model, item)
    except HttpError as error:
        raise HttpError(error.status, error.detail, field=main if error.field == "text" else error.field) from error


async def respond(service: Service, request: Request, asked: Asked) -> Response:
    if asked.stream:
        events = stream(service, request, asked)
        # What is refused, is refused with a status: the answer begins with the first event.
        first = await anext(events, None)
        if first is None:
            raise Disconnected
        return Response(b"", content_type=b"text/event-stream; charset=utf-8", stream=joined(first, events))
    found = await complete(service.desk, request, asked.wanted)
    choices = [choice(asked, at, item.text, item.finish) for at, item in enumerate(found)]
    body = {**asked.head, "choices": choices}
    read_tokens = sum(item.prompt_tokens for item in found[:: asked.wanted.n])
    body["usage"] = counts(read_tokens, sum(item.tokens for item in found))
    if any(item.cut for item in found):
        body["truncated"] = True
    return Response(json.dumps(body).encode())


def choice(asked: Asked, at: int, text: str, finish: str) -> dict[str, Any]:
    written = {"message": {"role": "assistant", "content": text, "refusal": None}} if asked.chat else {"text": text}
    return {"index": at, **written, "logprobs": None, "finish_reason": REASONS[finish]}


def counts(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


async def joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


async def stream(service: Service, request: Request, asked: Asked) -> AsyncIterator[bytes]:
    """Server-sent events. An error after the first one is an event too, and nothing comes after it."""
    begun, sent = Begun(0, False), False
    async with attended(service.desk, request, asked.wanted, pieces=True) as job:
        try:
            async for event in job:
                if isinstance(event, Begun):
                    begun = event
                    if asked.chat:
                        for at in range(asked.wanted.texts):
                            yield chunk(asked, [delta(at, {"role": "assistant", "content": ""})])
                            sent = True
                else:
                    yield b"".join(chunk(asked, [item]) for item in parts(asked, event))
                    sent = True
        except HttpError as error:
            if not sent:
                raise
            yield b"data: " + render(error, "openai", request.id.decode())[1] + b"\n\n"
            return
        if not job.stopped.is_set():
            if asked.usage:
                yield chunk(asked, [], usage=counts(begun.prompt_tokens, job.tokens))
            yield b"data: [DONE]\n\n"


def parts(asked: Asked, piece: Piece) -> list[dict[str, Any]]:
    """The choices that one piece makes: in a chat the reason comes by itself, after the text."""
    reason = REASONS[piece.finish] if piece.finish else None
    if not asked.chat:
        return [{"index": piece.index, "text": piece.text, "logprobs": None, "finish_reason": reason}]
    found = [delta(piece.index, {"content": piece.text})] if piece.text else []
    return found + ([delta(piece.index, {}, reason)] if reason else [])


def delta(at: int, content: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": at, "delta": dict(content), "logprobs": None, "finish_reason": reason}


def chunk(asked: Asked, choices: list[dict[str, Any]], **usage: Any) -> bytes:
    return b"data: " + json.dumps({**asked.head, "choices": choices, **usage}).encode() + b"\n\n"
