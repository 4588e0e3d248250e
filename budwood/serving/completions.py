"""POST /v1/completions and /v1/chat/completions: writing, in the shapes that OpenAI's clients send and read.

`"stream": true` gives server-sent events that end with `data: [DONE]`.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from budwood import __version__
from budwood.engine.decoding import Chosen, Piece, Sampling
from budwood.engine.generator import Completion
from budwood.engine.token_text import TokenTexts
from budwood.serving import strict_json
from budwood.serving.desk import Begun, Wanted, attended, complete
from budwood.serving.errors import HttpError, render
from budwood.serving.http import Disconnected, Request, Response
from budwood.serving.model import Model
from budwood.serving.service import Service
from budwood.serving.token_logs import chat_logs, text_logs
from budwood.serving.writing_options import Extra, extra, token_prompts

__all__ = ["chat", "completions"]

OPTIONS = tuple(field.name for field in fields(Sampling) if field.name not in ("alternatives", "logit_bias"))
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
    sent: Sequence[object]
    """The prompts as they came."""
    chat: bool
    more: Extra
    texts: TokenTexts
    """What the tokens of the model spell."""
    echoed: Sequence[str]
    """What stands before each text: its prompt where that is asked for, else nothing."""
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
    await service.open(request)
    model = request.model
    assert model.generator is not None
    vocabulary, is_chat = model.generator.vocabulary, main == "messages"
    more = extra(given, service.limits.texts, vocabulary.size, chat=is_chat)
    if main not in given:
        raise HttpError(422, f"{main} is missing", field=main)
    asked = given.pop(main)
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise HttpError(422, f"unknown field {unknown[0][:50]!r}", field=unknown[0][:50])
    ids = None if is_chat else token_prompts(asked, vocabulary.size, service.limits.text_characters)
    if is_chat:
        rows = [parse(service, model, {"messages": messages(asked)} | given, main)]
    elif ids is None:
        rows = [parse(service, model, {"text": text} | given, main) for text in prompts(asked)]
    else:
        row = parse(service, model, {"text": ""} | given, main)
        rows = [row | {"text": each} for each in ids]
    sent = [asked] if is_chat else prompts(asked) if ids is None else ids
    changes = {"alternatives": more.alternatives, "logit_bias": more.bias}
    rows = [row | {"options": replace(row["options"], **changes)} for row in rows]
    echoed = [""] * len(rows)
    if more.echo:
        echoed = prompts(asked) if ids is None else [vocabulary.decode(each) for each in ids]
    head = head_of(request, model, more.stream, is_chat)
    return Asked(Wanted.of(rows, more.n), sent, is_chat, more, vocabulary.texts, echoed, head)


def head_of(request: Request, model: Model, stream: bool, is_chat: bool) -> dict[str, Any]:
    kind, prefix = ("chat.completion", "chatcmpl") if is_chat else ("text_completion", "cmpl")
    return {
        "id": f"{prefix}-{request.id.decode()}",
        "object": f"{kind}.chunk" if stream and is_chat else kind,
        "created": int(time.time()),
        "model": model.name,
        # Equal requests with equal seeds may differ when it does.
        "system_fingerprint": f"budwood-{__version__}-{model.name}-{model.version}",
    }


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


def prompts(asked: Any) -> list[str]:
    texts = [asked] if isinstance(asked, str) else asked
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise HttpError(422, "prompt must be a text, a list of texts, or token ids", field="prompt")
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
    if asked.more.stream:
        events = stream(service, request, asked)
        # What is refused, is refused with a status: the answer begins with the first event.
        first = await anext(events, None)
        if first is None:
            raise Disconnected
        return Response(b"", content_type=b"text/event-stream; charset=utf-8", stream=joined(first, events))
    started = time.perf_counter()
    found = await complete(service.desk, request, asked.wanted)
    note(service, request, asked, started)
    if asked.more.alternatives is None:
        return Response(whole_answer(asked, found))
    # Many numbers take their time, in which the event loop is for others.
    return Response(await asyncio.to_thread(whole_answer, asked, found))


def whole_answer(asked: Asked, found: Sequence[Completion]) -> bytes:
    choices = [choice(asked, at, item) for at, item in enumerate(found)]
    body = {**asked.head, "choices": choices}
    read_tokens = sum(item.prompt_tokens for item in found[:: asked.more.n])
    body["usage"] = counts(read_tokens, sum(item.tokens for item in found))
    if any(item.cut for item in found):
        body["truncated"] = True
    return json.dumps(body).encode()


def note(service: Service, request: Request, asked: Asked, started: float) -> None:
    seconds = time.perf_counter() - started
    owned = request.owned(request.id.decode()).encode()
    service.monitor.wrote(owned, request.model, asked.sent, asked.wanted.n, seconds)


def choice(asked: Asked, at: int, found: Completion) -> dict[str, Any]:
    if asked.chat:
        written: dict[str, Any] = {"message": {"role": "assistant", "content": found.text, "refusal": None}}
    else:
        written = {"text": before(asked, at) + found.text}
    logs = logprobs(asked, at, found.chosen)
    return {"index": at, **written, "logprobs": logs, "finish_reason": REASONS[found.finish]}


def before(asked: Asked, at: int) -> str:
    """What is echoed before text number `at`."""
    return asked.echoed[at // asked.more.n]


def logprobs(asked: Asked, at: int, chosen: Sequence[Chosen]) -> dict[str, Any] | None:
    """The log-probabilities of tokens of text number `at`; None where they are not asked for."""
    if asked.more.alternatives is None:
        return None
    return chat_logs(chosen, asked.texts) if asked.chat else text_logs(chosen, asked.texts, len(before(asked, at)))


def counts(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


async def joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


async def stream(service: Service, request: Request, asked: Asked) -> AsyncIterator[bytes]:
    """Server-sent events. An error after the first one is an event too, and nothing comes after it."""
    begun, sent, started = Begun(0, False), False, time.perf_counter()
    async with attended(service.desk, request, asked.wanted, pieces=True) as job:
        try:
            async for event in job:
                if isinstance(event, Begun):
                    begun = event
                    if begun.truncated:
                        asked = replace(asked, head={**asked.head, "truncated": True})
                    found = openings(asked)
                else:
                    found = parts(asked, event)
                if found:
                    yield b"".join(chunk(asked, [item]) for item in found)
                    sent = True
        except HttpError as error:
            if not sent:
                raise
            yield b"data: " + render(error, "openai", request.id.decode())[1] + b"\n\n"
            return
        if not job.stopped.is_set():
            note(service, request, asked, started)
            if asked.more.usage:
                yield chunk(asked, [], usage=counts(begun.prompt_tokens, job.tokens))
            yield b"data: [DONE]\n\n"


def openings(asked: Asked) -> list[dict[str, Any]]:
    """What comes before all text: in a chat the role, in an echo the prompt."""
    every = range(asked.wanted.texts)
    if asked.chat:
        return [delta(at, {"role": "assistant", "content": ""}) for at in every]
    return [text_part(at, before(asked, at)) for at in every if before(asked, at)]


def parts(asked: Asked, piece: Piece) -> list[dict[str, Any]]:
    """The choices that one piece makes: in a chat the reason comes by itself, after the text."""
    reason = REASONS[piece.finish] if piece.finish else None
    logs = logprobs(asked, piece.index, piece.chosen) if piece.chosen else None
    if not asked.chat:
        return [text_part(piece.index, piece.text, logs, reason)]
    found = [delta(piece.index, {"content": piece.text}, logs)] if piece.text or logs else []
    return found + ([delta(piece.index, {}, None, reason)] if reason else [])


Logs = dict[str, Any] | None


def text_part(at: int, text: str, logs: Logs = None, reason: str | None = None) -> dict[str, Any]:
    return {"index": at, "text": text, "logprobs": logs, "finish_reason": reason}


def delta(at: int, content: Mapping[str, Any], logs: Logs = None, reason: str | None = None) -> dict[str, Any]:
    return {"index": at, "delta": dict(content), "logprobs": logs, "finish_reason": reason}


def chunk(asked: Asked, choices: list[dict[str, Any]], usage: Mapping[str, int] | None = None) -> bytes:
    event = {**asked.head, "choices": choices}
    if asked.more.usage:
        event["usage"] = usage  # null but in the last one
    return b"data: " + json.dumps(event).encode() + b"\n\n"
