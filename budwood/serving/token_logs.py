"""Log-probabilities of written tokens in the two shapes of OpenAI's API: columns for texts, a list for chats."""

from collections.abc import Sequence
from typing import Any

from budwood.engine.decoding import Chosen
from budwood.engine.token_text import TokenTexts

__all__ = ["chat_logs", "text_logs"]


def text_logs(chosen: Sequence[Chosen], texts: TokenTexts, before: int) -> dict[str, Any]:
    """Columns, one entry a token. `before` are the characters of an echoed prompt, which the offsets count."""
    likeliest = []
    for item in chosen:
        named: dict[str, float] = {}
        # Two ids may spell the same text; the likelier one stands. The token itself is always among them.
        for token, log in (*item.likeliest, (item.token, item.log)):
            named.setdefault(texts.text_of(token), log)
        likeliest.append(named)
    return {
        "tokens": [texts.text_of(item.token) for item in chosen],
        "token_logprobs": [item.log for item in chosen],
        "top_logprobs": likeliest,
        "text_offset": [before + item.start for item in chosen],
    }


def chat_logs(chosen: Sequence[Chosen], texts: TokenTexts) -> dict[str, Any]:
    """A list, one entry a token."""
    content = [
        {**entry(item.token, item.log, texts), "top_logprobs": [entry(*pair, texts) for pair in item.likeliest]}
        for item in chosen
    ]
    return {"content": content, "refusal": None}


def entry(token: int, log: float, texts: TokenTexts) -> dict[str, Any]:
    return {"token": texts.text_of(token), "logprob": log, "bytes": list(texts.bytes_of(token))}
