"""The fields of /v1/completions and /v1/chat/completions that only OpenAI's API has, read and bounded."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from budwood.engine.decoding import MAX_ALTERNATIVES, MAX_BIASES
from budwood.serving.errors import HttpError

__all__ = ["TEXT_ALTERNATIVES", "UNSUPPORTED", "Extra", "extra", "token_prompts", "whole"]

TEXT_ALTERNATIVES = 5
"""The largest `logprobs` of /v1/completions, as in OpenAI's API."""
UNSUPPORTED: Mapping[str, Any] = {
    "functions": [],
    "response_format": {"type": "text"},
    "store": False,
    "suffix": "",
    "tool_choice": "none",
    "tools": [],
}
"""Fields of OpenAI's that are accepted with the value that changes nothing."""


class Extra(NamedTuple):
    """What a request says beside the options of `Sampling`."""

    n: int
    stream: bool
    usage: bool
    """Whether a stream ends with the counts of tokens."""
    echo: bool
    alternatives: int | None
    """Likeliest tokens whose log-probabilities are given with each token; None for no log-probabilities."""
    bias: tuple[tuple[int, float], ...]


def extra(given: dict[str, Any], most: int, vocabulary: int, *, chat: bool) -> Extra:
    """Take these fields out of a request.

    Args:
        given: the fields; those that are read are taken out.
        most: the largest `n`.
        vocabulary: how many tokens there are to be biased.

    Raises:
        HttpError: 422 naming the first field that is off, or would change something and is not built.
    """
    n = whole(given.pop("n", 1), "n", 1, most)
    if whole(given.pop("best_of", n), "best_of", 1, most) != n:
        raise HttpError(422, "best_of other than n is not supported here; leave it out", field="best_of")
    stream = truth(given.pop("stream", False), "stream")
    usage = include_usage(given.pop("stream_options", {}))
    alternatives = chat_alternatives(given) if chat else text_alternatives(given)
    echo = False if chat else truth(given.pop("echo", False), "echo")
    if echo and alternatives is not None:
        detail = "log-probabilities of an echoed prompt are not computed; leave out echo or logprobs"
        raise HttpError(422, detail, field="echo")
    bias = biases(given.pop("logit_bias", {}), vocabulary)
    if not isinstance(given.pop("user", ""), str):
        raise HttpError(422, "user must be a string", field="user")
    for name, neutral in UNSUPPORTED.items():
        if given.pop(name, neutral) != neutral:
            raise HttpError(422, f"{name} is not supported here; leave it out", field=name)
    if "max_completion_tokens" in given:
        given["max_tokens"] = whole(given.pop("max_completion_tokens"), "max_completion_tokens", 1, 1_000_000)
    return Extra(n, stream, usage, echo, alternatives, bias)


def whole(value: Any, name: str, least: int, most: int) -> int:
    """A whole number. Raises HttpError 422."""
    if isinstance(value, float) and value.is_integer():  # JSON knows one kind of number
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise HttpError(422, f"{name} must be a whole number from {least} to {most}", field=name)
    return value


def truth(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise HttpError(422, f"{name} must be true or false", field=name)
    return value


def include_usage(options: Any) -> bool:
    usage = options.get("include_usage", False) if isinstance(options, dict) else None
    # OpenAI's padding against eavesdroppers is not ours, and a stream without it is what the client asks for here.
    if not isinstance(usage, bool) or set(options) - {"include_usage"}:
        raise HttpError(422, 'stream_options is {"include_usage": true} or false', field="stream_options")
    return usage


def text_alternatives(given: dict[str, Any]) -> int | None:
    if "logprobs" not in given:
        return None
    return whole(given.pop("logprobs"), "logprobs", 0, TEXT_ALTERNATIVES)


def chat_alternatives(given: dict[str, Any]) -> int | None:
    asked = truth(given.pop("logprobs", False), "logprobs")
    count = whole(given.pop("top_logprobs", 0), "top_logprobs", 0, MAX_ALTERNATIVES)
    if count and not asked:
        raise HttpError(422, "top_logprobs needs logprobs: true", field="top_logprobs")
    return count if asked else None


def biases(value: Any, vocabulary: int) -> tuple[tuple[int, float], ...]:
    """`{"50256": -100}` as pairs. Raises HttpError 422."""
    if not isinstance(value, dict):
        raise HttpError(422, "logit_bias must be an object of token ids and numbers", field="logit_bias")
    if len(value) > MAX_BIASES:
        raise HttpError(422, f"logit_bias has {len(value)} entries, at most {MAX_BIASES} are taken", field="logit_bias")
    found: dict[int, float] = {}
    for name, bias in value.items():
        if not (
            name.isascii() and name.isdigit() and len(name) < 10 and name == str(int(name)) and int(name) < vocabulary
        ):
            detail = f"the keys of logit_bias are token ids, from 0 to {vocabulary - 1}"
            raise HttpError(422, detail, field="logit_bias")
        if not isinstance(bias, int | float) or isinstance(bias, bool) or not -100 <= bias <= 100:
            raise HttpError(422, "a bias must be a number from -100 to 100", field="logit_bias")
        found[int(name)] = float(bias)
    return tuple(found.items())


def token_prompts(asked: Any, vocabulary: int, most: int) -> list[list[int]] | None:
    """The prompts of a request where they are token ids, one list or several; None where they are texts.

    Raises:
        HttpError: 422 for too many ids, unknown ones, and what is no id.
    """
    if not isinstance(asked, list) or not asked or all(isinstance(item, str) for item in asked):
        return None
    lists = asked if isinstance(asked[0], list) else [asked]
    for ids in lists:
        if not isinstance(ids, list) or not 1 <= len(ids) <= most:
            raise HttpError(422, f"a prompt of token ids is a list of 1 to {most} whole numbers", field="prompt")
    return [[whole(token, "prompt", 0, vocabulary - 1) for token in ids] for ids in lists]
