"""JSON without surprises, for every request body: no duplicate keys, NaN, lone surrogates or deep nesting."""

import json
import math
from typing import Any

from budwood.serving.errors import HttpError
from budwood.serving.limits import Limits

__all__ = ["parse"]

DIGITS = 300
"""Longer numbers are refused: turning digits into a number takes time that grows with their square."""


def parse(body: bytes, limits: Limits) -> Any:
    """The value that a request body holds.

    Raises:
        HttpError: 400 when it is not strict JSON.
    """
    if not body:
        raise HttpError(400, "the body is empty; send JSON")
    # A body may be long because of the files in it, which are few long strings: many values would only cost time.
    if len(body) > limits.body_bytes and sum(map(body.count, (b",", b"[", b"{"))) > limits.long_body_values:
        raise HttpError(413, f"a body of more than {limits.body_bytes} bytes may hold {limits.long_body_values} values")
    try:
        value = DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise HttpError(400, f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise HttpError(400, f"the body is not JSON: {error.msg} ({place})") from error
    except RecursionError as error:
        raise HttpError(400, too_deep(limits)) from error
    except ValueError as error:
        raise HttpError(400, str(error)) from error
    check(value, body, limits)
    return value


def check(value: Any, body: bytes, limits: Limits) -> None:
    """Depth and lone surrogates; each is looked for only when the bytes make it possible."""
    if body.count(b"[") + body.count(b"{") > limits.json_depth:
        check_depth(value, limits)
    if b"\\u" in body:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise HttpError(400, "the body has a lone surrogate (\\ud800 to \\udfff)") from error


def check_depth(value: Any, limits: Limits) -> None:
    level = [value]
    for _ in range(limits.json_depth + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [child for item in containers for child in children(item)]
    raise HttpError(400, too_deep(limits))


def children(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def too_deep(limits: Limits) -> str:
    return f"the body is nested deeper than {limits.json_depth} levels"


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name[:50]!r} is there twice")
            seen.add(name)
    return result


def refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def decimal(digits: str) -> float:
    value = float(digits) if len(digits) <= DIGITS else math.inf
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


DECODER = json.JSONDecoder(
    object_pairs_hook=unique, parse_constant=refuse, parse_int=integer, parse_float=decimal, strict=True
)
