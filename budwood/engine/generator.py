"""Writes texts with a causal language model over any runtime: several prompts at once, streamed, with a cache.

    generator = Generator.open(bundle)
    for piece in generator.stream(["Once upon a time"], Sampling(max_tokens=50)): print(piece.text, end="")

A text that outgrows the model's window slides: the last three quarters of the window are read again (after the start
token, where there is one) and the writing goes on, as if the beginning had been forgotten.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.runtime import Runtime
from budwood.core.task import Answer, Arrays
from budwood.engine.decoder_rows import CopiedRows, Rows, SharedRows
from budwood.engine.decoding import Chosen, Finish, Piece, Sampling, Writer, cut_at
from budwood.engine.scheduler import Room, Scheduler, Work
from budwood.engine.vocabulary import Vocabulary

__all__ = ["Completion", "Decoder", "Generator", "Prompt", "Shape", "fresh_seed"]

MAX_ROWS = 64
"""Texts that are written side by side; further ones wait for the next batch."""

Cancelled = Callable[[], bool]
Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""A text to go on from, its token ids, or the messages of a chat to answer."""


class Shape(NamedTuple):
    """What the arrays of a decoder look like, by its `config.json`."""

    layers: int
    heads: int
    width: int
    window: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises BundleError when config.json is not that of a causal language model."""
        path = folder / "config.json"
        try:
            config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            all_heads = int(pick(config, "num_attention_heads", "n_head"))
            width = config.get("head_dim") or int(pick(config, "hidden_size", "n_embd")) // all_heads
            return cls(
                int(pick(config, "num_hidden_layers", "n_layer")),
                int(config.get("num_key_value_heads") or all_heads),
                int(width),
                int(pick(config, "max_position_embeddings", "n_positions")),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"config.json is not that of a language model: {error}", where=str(path)) from error

    @property
    def token_bytes(self) -> int:
        """What one token takes in a cache."""
        return self.layers * 2 * self.heads * self.width * np.dtype(np.float32).itemsize

    def empty(self, rows: int) -> Arrays:
        """A cache that remembers nothing, for so many rows."""
        nothing = np.zeros((rows, self.heads, 0, self.width), np.float32)
        names = (f"past_key_values.{layer}.{part}" for layer in range(self.layers) for part in ("key", "value"))
        return dict.fromkeys(names, nothing)


def pick(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields: GPT-2 has its own names."""
    return next((config[name] for name in names if config.get(name) is not None), None) or config[names[0]]


@dataclass(frozen=True)
class Decoder:
    """A language model as a runtime runs it."""

    run: Callable[[Arrays], Arrays]
    """As `Runtime.run`."""
    shape: Shape
    in_place: Callable[[Arrays, Arrays], Arrays] | None = None
    """As `Runtime.run_in_place`, where the model can."""

    @classmethod
    def of(cls, runtime: Runtime, folder: Path) -> Self:
        """Of a bundle's folder. Raises BundleError when its config.json is not that of a causal language model."""
        return cls(runtime.run, Shape.read(folder), runtime.run_in_place if runtime.in_place else None)

    def rows(self, count: int) -> Rows:
        """Memory for so many texts."""
        if self.in_place is not None:
            return SharedRows(self.in_place, self.shape, count)
        return CopiedRows(self.run, self.shape)


@dataclass(frozen=True)
class Completion:
    """One finished text."""

    text: str
    finish: Finish
    prompt_tokens: int
    tokens: int
    cut: bool = False
    """The prompt was longer than the window, so only its end was read."""
    chosen: tuple[Chosen, ...] = ()
    """The tokens with their log-probabilities, where `Sampling.alternatives` asks for them."""

    def answer(self) -> Answer:
        """As `predict` and the server give it."""
        found = {"text": self.text, "finish_reason": self.finish, "tokens": self.tokens}
        return found | {"truncated": True} if self.cut else found


class Generator:
    """A decoder with its vocabulary. Several threads may use it; each call has rows of its own."""

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, runtime: Runtime | None = None) -> None:
        self.decoder, self.vocabulary, self.runtime = decoder, vocabulary, runtime

    @classmethod
    def open(cls, bundle: Bundle, runtime: str = "auto", threads: int = 0) -> Self:
        """Open a bundle; `auto` takes ONNX Runtime when the bundle has a graph, else torch."""
        if runtime == "auto":
            runtime = "onnxruntime" if bundle.formats - {"torch"} else "torch"
        kind: type[Runtime] = registry.get("runtimes", runtime)
        opened = kind.open(bundle, threads)
        return cls(Decoder.of(opened, bundle.path), Vocabulary.open(bundle.path), opened)

    def stream(
        self,
        prompts: Sequence[Prompt],
        options: Sampling | Sequence[Sampling],
        *,
        n: int = 1,
        batch_size: int = MAX_ROWS,
        seconds: float | None = None,
        cancelled: Cancelled | None = None,
    ) -> Iterator[Piece]:
        """Pieces of `n` texts for each prompt, as they are written; text i * n + j is sample j of prompt i.

        Samples share the reading of their prompt. A text's tokens depend on its prompt, the options and its sample
        number, not on the texts beside it (up to the rounding of batched sums).

        Args:
            prompts: texts to go on from (an empty one starts a new document), or messages to answer.
            options: how to choose tokens and when to stop, for all prompts or for each.
            n: samples of each prompt.
            batch_size: texts that are written side by side; the others wait.
            seconds: time for all of it; texts that are not done then end with `deadline`.
            cancelled: asked before each token; True ends all texts with `cancelled`.

        Raises:
            DataError: a prompt is not valid Unicode.
        """
        ids = [self.encode(prompt) for prompt in prompts]
        each = [options] * len(ids) if isinstance(options, Sampling) else list(options)
        until = None if seconds is None else time.monotonic() + seconds
        pieces: list[Piece] = []
        work = Work(self.writers(prompts, ids, each, n), pieces.append, until, cancelled or (lambda: False))
        side_by_side = max(1, min(batch_size, len(work.writers)))
        scheduler = self.scheduler(Room(side_by_side, side_by_side))
        scheduler.add(work)
        while scheduler.busy:
            scheduler.turn()
            yield from pieces
            pieces.clear()

    def writers(
        self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]], options: Sequence[Sampling], n: int
    ) -> list[Writer]:
        """`n` for each prompt, whose ids are what `encode` gave; each writes one text."""
        decode, ends = self.vocabulary.decode, self.vocabulary.ends
        ours = self.vocabulary.chats is None  # a template of the model's own says itself where an answer begins
        return [
            Writer(at * n + sample, ids[at], options[at], decode, ends, sample, answers=ours and is_chat(prompts[at]))
            for at in range(len(ids))
            for sample in range(n)
        ]

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt; ids are taken as they are.

        Raises:
            DataError: it is not valid Unicode, a message has an unknown role, or there are no ids, or unknown ones.
        """
        if isinstance(prompt, str):
            return self.vocabulary.encode_prompt(prompt)
        if is_chat(prompt):
            return self.vocabulary.encode_chat(cast(Sequence[Mapping[str, str]], prompt))
        return self.vocabulary.known(cast(Sequence[int], prompt))

    def scheduler(self, room: Room) -> Scheduler:
        """What writes with this model, for one thread."""
        shape = self.decoder.shape
        return Scheduler(self.decoder.rows(room.rows + 1), shape.window, self.vocabulary.start, room)

    def complete(
        self,
        prompts: Sequence[Prompt],
        options: Sampling | Sequence[Sampling],
        *,
        n: int = 1,
        batch_size: int = MAX_ROWS,
        truncate: str | re.Pattern[str] | None = None,
        include_prefix: bool = False,
        seconds: float | None = None,
        cancelled: Cancelled | None = None,
    ) -> list[Completion]:
        """Finished texts, in the order of `stream`.

        Args:
            prompts, options, n, batch_size, seconds, cancelled: as for `stream`.
            truncate: a string ends the text like a stop string; a compiled pattern cuts the finished text.
            include_prefix: put the prompt before each text (texts only, not chats).

        Raises:
            DataError: a prompt is not valid Unicode.
        """
        if isinstance(truncate, str) and truncate:
            each = [options] * len(prompts) if isinstance(options, Sampling) else options
            options = [replace(item, stop=(*item.stop, truncate)) for item in each]
        pieces = list(self.stream(prompts, options, n=n, batch_size=batch_size, seconds=seconds, cancelled=cancelled))
        sizes = [size for prompt in prompts for size in [len(self.encode(prompt))] * n]
        heads = [str(prompt) if include_prefix else "" for prompt in prompts for _ in range(n)]
        return [
            replace(found, text=head + cut_at(found.text, truncate))
            for head, found in zip(heads, self.finished(pieces, sizes), strict=True)
        ]

    def finished(self, pieces: Sequence[Piece], sizes: Sequence[int]) -> list[Completion]:
        """All pieces of some texts, put together; `sizes` are the tokens of each text's prompt."""
        parts: list[list[Piece]] = [[] for _ in sizes]
        for piece in pieces:
            parts[piece.index].append(piece)
        return [
            Completion(
                "".join(piece.text for piece in own),
                own[-1].finish or "stop",
                size,
                own[-1].tokens,
                size >= self.decoder.shape.window,
                tuple(item for piece in own for item in piece.chosen),
            )
            for own, size in zip(parts, sizes, strict=True)
        ]

    def close(self) -> None:
        if self.runtime is not None:
            self.runtime.close()


def is_chat(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)


def fresh_seed() -> int:
    """A seed for texts that differ at each call; give it back with them, so that they can be had again."""
    return secrets.randbelow(2**32)
