"""The JSON schemas of /v1/completions and /v1/chat/completions, for the OpenAPI document."""

from typing import Any

from budwood.engine.decoding import Sampling
from budwood.serving.limits import Limits

__all__ = ["COMPLETION_ANSWER", "MESSAGES", "PROMPT", "writing_request"]

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
PROMPT: dict[str, Any] = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 8}]}
MESSAGES: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["system", "developer", "user", "assistant"]}, "content": TEXT},
        "required": ["role", "content"],
    },
    "minItems": 1,
}
COMPLETION_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "object": {"enum": ["text_completion", "chat.completion"]},
        "created": COUNT,
        "model": TEXT,
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": COUNT,
                    "text": TEXT,
                    "message": {"type": "object", "properties": {"role": TEXT, "content": TEXT}},
                    "finish_reason": {"enum": ["stop", "length"]},
                },
                "required": ["index", "finish_reason"],
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


def writing_request(main: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """A request whose main field is given with its schema."""
    whole, share = {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0}
    stop = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 16}
    properties = main | {
        "model": TEXT | {"description": "name or name:version; the first model that writes where it is left out"},
        "n": {"type": "integer", "minimum": 1, "maximum": max(1, limits.texts // 8), "default": 1},
        "stream": {"type": "boolean", "default": False},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": Sampling.max_tokens},
        "temperature": share | {"maximum": 100, "default": Sampling.temperature},
        "top_p": share | {"maximum": 1, "default": Sampling.top_p},
        "top_k": whole | {"maximum": 10_000_000, "default": Sampling.top_k},
        "repetition_penalty": {"type": "number", "minimum": 0.01, "maximum": 100},
        "stop": {"anyOf": [{"type": "string", "minLength": 1}, stop]},
        "seed": whole | {"maximum": 2**63 - 1, "default": Sampling.seed},
        "user": TEXT,
    }
    return {"type": "object", "properties": properties, "required": list(main), "additionalProperties": False}
