"""Chats in a bundle's own layout as token ids: what a template writes may end a turn, what a user types never does."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from budwood.core.errors import DataError
from budwood.engine.chat_template import ChatTemplate

__all__ = ["ChatTokens"]

MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Code points that Unicode keeps free of characters; one that no message has is put inside a token that is typed."""

Messages = Sequence[Mapping[str, Any]]


class Place(NamedTuple):
    token: int
    start: int
    """Where its text begins in the rendered chat."""


class ChatTokens:
    """A template with the tokenizer that reads what it writes. Safe to use from several threads.

    Args:
        tokenizer: one that reads special tokens as text (`encode_special_tokens`).
    """

    def __init__(self, template: ChatTemplate, tokenizer: Any) -> None:
        self.template, self.plain = template, tokenizer
        added = tokenizer.get_added_tokens_decoder().items()
        self.special = {item.content: token for token, item in added if item.special and len(item.content) > 1}
        longest_first = sorted(self.special, key=len, reverse=True)
        self.pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self.special else None

    @cached_property
    def marked(self) -> Any:
        """The same tokenizer, for which special tokens are such."""
        return type(self.plain).from_str(self.plain.to_str())

    def ids(self, messages: Messages) -> list[int]:
        """The ids of a chat up to where the assistant answers. Raises DataError as `ChatTemplate.render`."""
        safe, mark = self.guarded(messages)
        return [place.token for place in self.places(self.template.render(safe, answer=True), mark)]

    def document(self, messages: Messages, ends: Sequence[int]) -> tuple[list[int], list[bool]]:
        """The ids of a whole chat, and which of them are answers, with what ends them.

        Raises:
            DataError: the template fails, or writes the last answer so that nobody could tell where it begins.
        """
        safe, mark = self.guarded(messages)
        text = self.template.render(safe, answer=False)
        spans = [self.span(safe, at, text) for at, turn in enumerate(safe) if turn["role"] == "assistant"]
        if not spans or spans[-1] is None:
            raise DataError("the chat template shows no answer that could be learnt from", where="messages")
        places = self.places(text, mark)
        known = [span for span in spans if span is not None]
        learnt = [any(first <= place.start < last for first, last in known) for place in places]
        ids = [place.token for place in places]
        if not any(token in ends for token, own in zip(ids, learnt, strict=True) if own):
            ids, learnt = [*ids, ends[0]], [*learnt, True]
        return ids, learnt

    def span(self, messages: Messages, at: int, text: str) -> tuple[int, int] | None:
        """Where an answer stands in the whole chat; None where the template writes it otherwise once others follow."""
        try:
            before = self.template.render(messages[:at], answer=True)
            after = self.template.render(messages[: at + 1], answer=False)
        except DataError:
            return None
        if not (text.startswith(after) and after.startswith(before)):
            return None
        return len(before), len(after)

    def guarded(self, messages: Messages) -> tuple[list[dict[str, Any]], str]:
        """The messages with every special token in them broken by a mark, and that mark; none where none is typed."""
        contents = "\n".join(turn["content"] for turn in messages)
        if self.pattern is None or not self.pattern.search(contents):
            return [dict(turn) for turn in messages], ""
        mark = next((mark for mark in MARKS if mark not in contents), "")
        if not mark:
            raise DataError("the messages have too many code points that are no characters", where="messages")

        def broken(found: re.Match[str]) -> str:
            return found[0][0] + mark + found[0][1:]

        return [{**turn, "content": self.pattern.sub(broken, turn["content"])} for turn in messages], mark

    def places(self, text: str, mark: str) -> list[Place]:
        """The tokens of a rendered chat, without the mark."""
        if not mark:
            encoding = self.marked.encode(text, add_special_tokens=False)
            return [Place(token, start) for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)]
        return list(self.parts(text, mark))

    def parts(self, text: str, mark: str) -> Iterator[Place]:
        assert self.pattern is not None
        at = 0
        for part in self.pattern.split(text):
            if part in self.special:
                yield Place(self.special[part], at)
            elif part:
                where = [at + number for number, letter in enumerate(part) if letter != mark]
                encoding = self.plain.encode(part.replace(mark, ""), add_special_tokens=False)
                for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
                    yield Place(token, where[min(start, len(where) - 1)])
            at += len(part)
