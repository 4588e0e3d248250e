"""The JSON schemas of /v1/completions and /v1/chat/completions, for the OpenAPI document."""

from typing import Any

from budwood.engine.decoding import MAX_ALTERNATIVES, MAX_BIASES, Sampling
from budwood.serving.limits import Limits
from budwood.serving.writing_options import TEXT_ALTERNATIVES, UNSUPPORTED

__all__ = ["COMPLETION_ANSWER", "MESSAGES", "chat_request", "completion_request", "nullable"]

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
MESSAGES: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["system", "developer", "user", "assistant"]}, "content": TEXT},
        "required": ["role", "content"],
    },
    "minItems": 1,
}
LOG = {
    "type": "number",
    "maximum": 0,
    "description": "of the model's own distribution, before temperature and penalties",
}
TEXT_LOGS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "tokens": {"type": "array", "items": TEXT},
        "token_logprobs": {"type": "array", "items": LOG},
        "top_logprobs": {"type": "array", "items": {"type": "object", "additionalProperties": LOG}},
        "text_offset": {"type": "array", "items": COUNT},
    },
    "required": ["tokens", "token_logprobs", "top_logprobs", "text_offset"],
}
TOKEN_LOG: dict[str, Any] = {
    "type": "object",
    "properties": {"token": TEXT, "logprob": LOG, "bytes": {"type": "array", "items": COUNT}},
    "required": ["token", "logprob", "bytes"],
}
CHAT_LOGS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "content": {
            "type": "array",
            "items": TOKEN_LOG
            | {"properties": TOKEN_LOG["properties"] | {"top_logprobs": {"type": "array", "items": TOKEN_LOG}}},
        },
        "refusal": {"type": "null"},
    },
    "required": ["content"],
}
COMPLETION_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "object": {"enum": ["text_completion", "chat.completion"]},
        "created": COUNT,
        "model": TEXT,
        "system_fingerprint": TEXT,
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": COUNT,
                    "text": TEXT,
                    "message": {"type": "object", "properties": {"role": TEXT, "content": TEXT}},
                    "logprobs": {"anyOf": [{"type": "null"}, TEXT_LOGS, CHAT_LOGS]},
                    "finish_reason": {"enum": ["stop", "length"]},
                },
                "required": ["index", "logprobs", "finish_reason"],
            },
        },
        "usage": {
            "type": "object",
            "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), COUNT),
            "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
        },
        "truncated": {"type": "boolean", "description": "a prompt was longer than the model reads; its end was read"},
    },
    "required": ["id", "object", "created", "model", "choices", "usage"],
}


def completion_request(limits: Limits, vocabulary: int) -> dict[str, Any]:
    """A request to go on from a text. `vocabulary` is the number of tokens of the smallest model that writes."""
    ids = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": vocabulary - 1},
        "minItems": 1,
        "maxItems": limits.text_characters,
    }
    kinds = [TEXT, *({"type": "array", "items": kind, "minItems": 1, "maxItems": 8} for kind in (TEXT, ids)), ids]
    prompt = {"description": "a text, texts, or the ids of tokens, which are read as they are", "anyOf": kinds}
    logprobs = {"type": "integer", "minimum": 0, "maximum": TEXT_ALTERNATIVES}
    echo = {"type": "boolean", "default": False, "description": "put the prompt before the text; not with logprobs"}
    more = {"logprobs": logprobs, "echo": echo, "suffix": {"const": UNSUPPORTED["suffix"]}}
    both = {"echo": {"const": True}, "logprobs": {"type": "integer"}}
    found = writing_request({"prompt": prompt}, more, limits, vocabulary)
    return found | {"not": {"properties": both, "required": list(both)}}


def chat_request(limits: Limits, vocabulary: int) -> dict[str, Any]:
    """A request to answer in a chat. `vocabulary` is the number of tokens of the smallest model that writes."""
    alternatives = {"type": "integer", "minimum": 0, "maximum": MAX_ALTERNATIVES, "description": "with logprobs: true"}
    more = {
        "logprobs": {"type": "boolean", "default": False},
        "top_logprobs": alternatives,
        "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    }
    alone = {"top_logprobs": {"type": "integer", "minimum": 1}, "logprobs": {"enum": [False, None]}}
    found = writing_request({"messages": MESSAGES | {"maxItems": limits.chat_messages}}, more, limits, vocabulary)
    return found | {"not": {"properties": alone, "required": ["top_logprobs"]}}


def writing_request(main: dict[str, Any], more: dict[str, Any], limits: Limits, vocabulary: int) -> dict[str, Any]:
    """A request whose main field is given with its schema, and what else only it has."""
    whole, share = {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0}
    penalty = {"type": "number", "minimum": -2, "maximum": 2, "default": 0}
    stop = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 16}
    bias = {
        "type": "object",
        "propertyNames": {"pattern": f"^({up_to(vocabulary - 1)})$", "description": "the id of a token"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": MAX_BIASES,
    }
    properties = main | {
        "model": TEXT | {"description": "name or name:version; the first model that writes where it is left out"},
        "n": {"type": "integer", "minimum": 1, "maximum": max(1, limits.texts // 8), "default": 1},
        "stream": {"type": "boolean", "default": False},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": Sampling.max_tokens},
        "temperature": share | {"maximum": 100, "default": Sampling.temperature},
        "top_p": share | {"maximum": 1, "default": Sampling.top_p},
        "top_k": whole | {"maximum": 10_000_000, "default": Sampling.top_k},
        "repetition_penalty": {"type": "number", "minimum": 0.01, "maximum": 100},
        "presence_penalty": penalty,
        "frequency_penalty": penalty,
        "logit_bias": bias,
        "stop": {"anyOf": [{"type": "string", "minLength": 1}, stop]},
        "seed": whole | {"maximum": 2**63 - 1, "default": Sampling.seed},
        "user": TEXT,
        **more,
    }
    properties["stream_options"]["additionalProperties"] = False
    properties = {name: part if name in main else nullable(part) for name, part in properties.items()}
    return {"type": "object", "properties": properties, "required": list(main), "additionalProperties": False}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's clients send null for what was not set."""
    return {"anyOf": [schema, {"type": "null"}]}


def up_to(most: int) -> str:
    """A pattern for the decimals of 0 to `most`, without leading zeros."""
    digits = str(most)
    shorter = ["0", f"[1-9][0-9]{{0,{len(digits) - 2}}}"] if len(digits) > 1 else []
    lower = []
    for at, digit in enumerate(digits):
        least = 1 if at == 0 and len(digits) > 1 else 0
        if int(digit) > least:
            lower.append(f"{digits[:at]}[{least}-{int(digit) - 1}][0-9]{{{len(digits) - at - 1}}}")
    return "|".join([*shorter, *lower, digits])
