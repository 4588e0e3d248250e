"""Text to token ids and back for language models: the same for training documents, prompts and chats. No torch.

A document is `start + text + end`, so a prompt is encoded as a document's beginning. Where a model has no start token
of its own (GPT-2), its end token stands before a document as well.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from budwood.core.errors import BundleError, DataError
from budwood.core.task import Row
from budwood.engine.chat_template import ChatTemplate
from budwood.engine.chat_tokens import ChatTokens
from budwood.engine.token_text import TokenTexts
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["Document", "Vocabulary"]

ROLES = ("system", "user", "assistant")
CHATML = ("<|im_start|>", "<|im_end|>")
"""The two tokens of the ChatML layout; a vocabulary that has both gets its chats in that layout."""


class Document(NamedTuple):
    """A document as a model learns it."""

    ids: list[int]
    learnt: list[bool]
    """False for the tokens of prompts, which are read and not learnt."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the ids that begin and end a document. Safe to use from several threads."""

    tokenizer: Any
    start: int
    ends: tuple[int, ...]
    """The first one ends a document in training; generation stops at any of them."""
    prepends: bool
    """Whether the tokenizer puts a space before every text, as Llama's does."""
    chats: ChatTokens | None = None
    """The layout of chats that the model brings; without one they get ours."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read tokenizer.json, config.json and, where they are there, generation_config.json and tokenizer_config.json.

        Raises:
            BundleError: one of them cannot be read, or no token ends a document.
        """
        tokenizer = read_tokenizer(folder)
        # A text that spells a special token is a text: a user must not be able to end a turn or a document by typing.
        tokenizer.encode_special_tokens = True
        config = read_json(folder / "config.json") | read_json(folder / "generation_config.json")
        ends = ids_of(config.get("eos_token_id"))
        if not ends:
            raise BundleError("no token ends a document", where=str(folder), fix="set eos_token_id in config.json")
        starts = ids_of(config.get("bos_token_id")) or ends
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        if max(*starts, *ends) >= size:
            raise BundleError("config.json names tokens that the tokenizer does not have", where=str(folder))
        template = ChatTemplate.read(folder)
        if template is None:
            return cls(tokenizer, starts[0], ends, prepends_space(tokenizer))
        turn = tokenizer.token_to_id(template.tokens.get("eos_token", ""))  # it ends an answer, if not a document
        ends = ends if turn is None or turn in ends else (*ends, turn)
        return cls(tokenizer, starts[0], ends, prepends_space(tokenizer), ChatTokens(template, tokenizer))

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """The ids of a text. `first=False` for a text that follows another: it gets no space before it.

        Raises:
            DataError: it is not valid Unicode.
        """
        check_unicode(text, "text")
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids[1:] if not first and self.prepends and encoding.tokens[:1] == ["▁"] else ids

    def encode_prompt(self, prompt: str) -> list[int]:
        """The ids of the beginning of a document; an empty prompt is the start token alone."""
        return [self.start, *(self.encode(prompt) if prompt else [])]

    def known(self, ids: Sequence[int]) -> list[int]:
        """The ids of a prompt that comes as ids. Raises DataError where there are none, or unknown ones."""
        if not ids or not all(0 <= token < self.size for token in ids):
            raise DataError(f"a prompt of token ids needs some, from 0 to {self.size - 1}", where="prompt")
        return list(ids)

    @property
    def size(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def texts(self) -> TokenTexts:
        """What each token spells."""
        return TokenTexts(self.tokenizer)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation up to where the assistant answers.

        Raises:
            DataError: an unknown role, or the model's template refuses the messages or takes too long.
        """
        if self.chats is not None:
            return self.chats.ids(checked(messages))
        return self.document({"messages": [*messages, {"role": "assistant", "content": ""}]}, ending=False).ids

    def rest(self) -> None:
        """Give up what only chats need; the next one has it again."""
        if self.chats is not None:
            self.chats.template.rest()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def document(self, row: Row, *, ending: bool = True) -> Document:
        """A row as ids with the ones to learn: `{"text"}`, `{"prompt", "completion"}` or `{"messages"}`.

        A `text` row that is a part of a longer text says so with `starts` or `ends` False and gets no such token.

        Raises:
            DataError: the row has none of these fields, or a message has an unknown role.
        """
        if "messages" in row:
            if self.chats is not None and ending:
                return Document(*self.chats.document(checked(row["messages"]), self.ends))
            return self.conversation(row["messages"], ending=ending)
        if "completion" in row:
            prompt = [self.start, *self.encode(row["prompt"])]
            answer = [*self.encode(row["completion"], first=False), self.ends[0]]
            return Document(prompt + answer, [False] * len(prompt) + [True] * len(answer))
        if "text" not in row:
            raise DataError("the row has neither text nor prompt and completion nor messages", where=str(list(row)))
        ids = self.encode(row["text"])
        ids = [self.start] * bool(row.get("starts", True)) + ids + [self.ends[0]] * bool(row.get("ends", True))
        return Document(ids, [True] * len(ids))

    def conversation(self, messages: Sequence[Mapping[str, str]], *, ending: bool) -> Document:
        """Turns in ChatML where the vocabulary has its tokens, else as `User: …` paragraphs; answers are learnt."""
        marks = [self.tokenizer.token_to_id(mark) for mark in CHATML]
        ids, learnt = [self.start], [False]
        for number, message in enumerate(checked(messages)):
            role, content = message["role"], message["content"]
            last = number == len(messages) - 1
            if None in marks:
                head = self.encode(f"{'' if number == 0 else chr(10)}{role.capitalize()}:", first=number == 0)
                body = self.encode(f" {content}" if content else "", first=False)
                tail = [self.ends[0]] if role == "assistant" else []
            else:
                head = [marks[0], *self.encode(f"{role}\n", first=False)]
                body = self.encode(content, first=False)
                tail = [marks[1], *([] if last else self.encode("\n", first=False))]
            if last and not ending:
                tail = []
            ids += head + body + tail
            learnt += [False] * len(head) + [role == "assistant"] * (len(body) + len(tail))
        return Document(ids, learnt)


def checked(messages: Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    """The messages. Raises DataError for one without content, of an unknown role, or not valid Unicode."""
    for number, message in enumerate(messages, start=1):
        content = message.get("content")
        if message.get("role") not in ROLES or not isinstance(content, str):
            raise DataError(f"a message needs content and a role of {', '.join(ROLES)}", where=f"message {number}")
        check_unicode(content, f"message {number}")
    return messages


def check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError("the text is not valid Unicode: it has a lone surrogate", where=where) from error


def ids_of(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value if isinstance(value, list) else [] if value is None else [value]))


def prepends_space(tokenizer: Any) -> bool:
    tokens: list[str] = tokenizer.encode("a", add_special_tokens=False).tokens
    return bool(tokens) and tokens[0].startswith("▁")


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path.name} is not JSON: {error}", where=str(path)) from error
    return found if isinstance(found, dict) else {}
