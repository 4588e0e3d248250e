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
from numpy.typing import NDArray

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.runtime import Runtime
from budwood.core.task import Answer, Arrays
from budwood.engine.decoding import Chosen, Finish, Piece, Sampling, Writer, cut_at
from budwood.engine.vocabulary import Vocabulary

__all__ = ["Cache", "Completion", "Decoder", "Generator", "Prompt", "Shape", "fresh_seed"]

KEPT = 0.75
"""Share of the window that is read again when a text outgrows it: more remembers better, less reads less often."""
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

    def empty(self, rows: int) -> Arrays:
        """A cache that remembers nothing, for so many rows."""
        nothing = np.zeros((rows, self.heads, 0, self.width), np.float32)
        names = (f"past_key_values.{layer}.{part}" for layer in range(self.layers) for part in ("key", "value"))
        return dict.fromkeys(names, nothing)


def pick(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields: GPT-2 has its own names."""
    return next((config[name] for name in names if config.get(name) is not None), None) or config[names[0]]


@dataclass
class Cache:
    """What a decoder remembers of a batch of texts, padded on the left to one width."""

    past: Arrays
    """`past_key_values.N.key|value`, each (rows, heads, columns, width)."""
    mask: NDArray[np.int64]
    """(rows, columns): 1 where a row has a token."""

    def select(self, rows: Sequence[int]) -> "Cache":
        """The cache of some rows, without the columns that only others needed."""
        mask = self.mask[list(rows)]
        used = int(mask.any(axis=0).argmax()) if mask.size else 0
        return Cache({name: value[list(rows), :, used:] for name, value in self.past.items()}, mask[:, used:])

    def join(self, other: "Cache") -> "Cache":
        """Both batches as one; the narrower is padded on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        both = (self, other)
        mask = np.concatenate([pad_left(cache.mask, 1, width) for cache in both])
        past = {name: np.concatenate([pad_left(cache.past[name], 2, width) for cache in both]) for name in self.past}
        return Cache(past, mask)


def pad_left(array: NDArray[Any], axis: int, width: int) -> NDArray[Any]:
    missing = width - array.shape[axis]
    return np.pad(array, [(missing, 0) if at == axis else (0, 0) for at in range(array.ndim)]) if missing else array


class Decoder:
    """A language model as two operations on a batch: read prompts, and go on by one token each."""

    def __init__(self, run: Callable[[Arrays], Arrays], shape: Shape) -> None:
        self.run, self.shape = run, shape

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[Cache, NDArray[np.float32]]:
        """The cache of these prompts and the logits of the token that follows each, (rows, vocabulary)."""
        width = max(map(len, prompts))
        ids = np.zeros((len(prompts), width), np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        return self.call(ids, np.maximum(mask.cumsum(axis=1) - 1, 0), mask, self.shape.empty(len(prompts)))

    def step(self, cache: Cache, tokens: Sequence[int]) -> tuple[Cache, NDArray[np.float32]]:
        """The cache with one more token in each row, and the logits of the token after it."""
        positions = cache.mask.sum(axis=1, keepdims=True)
        mask = np.pad(cache.mask, [(0, 0), (0, 1)], constant_values=1)
        return self.call(np.asarray(tokens, np.int64)[:, None], positions, mask, cache.past)

    def call(
        self, ids: NDArray[np.int64], positions: NDArray[np.int64], mask: NDArray[np.int64], past: Arrays
    ) -> tuple[Cache, NDArray[np.float32]]:
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        # The logits of the last token only; a graph without this input gives all of them.
        outputs = self.run(inputs | past | {"num_logits_to_keep": np.asarray(1, np.int64)})
        present = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        return Cache(present, mask), outputs["logits"][:, -1]


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
    """A decoder with its vocabulary. Several threads may use it; each call has its own cache."""

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, runtime: Runtime | None = None) -> None:
        self.decoder, self.vocabulary, self.runtime = decoder, vocabulary, runtime

    @classmethod
    def open(cls, bundle: Bundle, runtime: str = "auto", threads: int = 0) -> Self:
        """Open a bundle; `auto` takes ONNX Runtime when the bundle has a graph, else torch."""
        if runtime == "auto":
            runtime = "onnxruntime" if bundle.formats - {"torch"} else "torch"
        kind: type[Runtime] = registry.get("runtimes", runtime)
        opened = kind.open(bundle, threads)
        return cls(Decoder(opened.run, Shape.read(bundle.path)), Vocabulary.open(bundle.path), opened)

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
        rows = [(at, sample) for at in range(len(ids)) for sample in range(n)]
        decode, ends = self.vocabulary.decode, self.vocabulary.ends
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            writers = [
                Writer(at * n + sample, ids[at], each[at], decode, ends, sample, answers=is_chat(prompts[at]))
                for at, sample in part
            ]
            yield from self.write(writers, until, cancelled)

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

    def write(self, writers: Sequence[Writer], until: float | None, cancelled: Cancelled | None) -> Iterator[Piece]:
        """Write these texts side by side until each has ended."""
        open_ones = list(writers)
        cache: Cache | None = None
        logits: NDArray[np.float32]
        while open_ones:
            why = ending(until, cancelled)
            if why is not None:
                yield from (writer.end(why) for writer in open_ones)
                return
            if cache is None:
                cache, logits = self.begin(open_ones)
            else:
                cache, logits = self.advance(cache, open_ones)
            for writer, row in zip(open_ones, logits, strict=True):
                piece = writer.take(row)
                if piece.text or piece.finish:
                    yield piece
            going = [row for row, writer in enumerate(open_ones) if writer.finish is None]
            if len(going) < len(open_ones):
                cache, open_ones = cache.select(going), [open_ones[row] for row in going]

    def begin(self, writers: Sequence[Writer]) -> tuple[Cache, NDArray[np.float32]]:
        """Read the prompts; samples of one prompt are read once."""
        windows = [self.fit(writer.ids) for writer in writers]
        unique = list(dict.fromkeys(map(tuple, windows)))
        cache, logits = self.decoder.read(unique)
        rows = [unique.index(tuple(window)) for window in windows]
        return cache.select(rows), logits[rows]

    def advance(self, cache: Cache, writers: Sequence[Writer]) -> tuple[Cache, NDArray[np.float32]]:
        """One more token in each row; the rows whose window is full are read again, shortened."""
        lengths = cache.mask.sum(axis=1)
        full = [row for row in range(len(writers)) if lengths[row] >= self.decoder.shape.window]
        if not full:
            return self.decoder.step(cache, [writer.ids[-1] for writer in writers])
        rest = [row for row in range(len(writers)) if row not in full]
        slid, slid_logits = self.decoder.read([self.fit(writers[row].ids, slide=True) for row in full])
        if not rest:
            return slid, slid_logits
        stepped, logits = self.decoder.step(cache.select(rest), [writers[row].ids[-1] for row in rest])
        back = np.argsort(np.asarray(rest + full))
        return stepped.join(slid).select(back.tolist()), np.concatenate([logits, slid_logits])[back]

    def fit(self, ids: Sequence[int], *, slide: bool = False) -> list[int]:
        """The ids, or their end where they are too many for the window to hold and one token to be added."""
        window = self.decoder.shape.window
        if len(ids) < window and not slide:
            return list(ids)
        start = [ids[0]] if ids[0] == self.vocabulary.start else []
        return start + list(ids[len(ids) - max(1, int(window * KEPT) - len(start)) :])

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
        texts = [""] * (len(prompts) * n)
        last: list[Piece | None] = [None] * len(texts)
        chosen: list[list[Chosen]] = [[] for _ in texts]
        for piece in self.stream(prompts, options, n=n, batch_size=batch_size, seconds=seconds, cancelled=cancelled):
            texts[piece.index] += piece.text
            last[piece.index] = piece
            chosen[piece.index] += piece.chosen
        sizes = [len(self.encode(prompt)) for prompt in prompts]
        return [
            Completion(
                (str(prompts[at // n]) if include_prefix else "") + cut_at(text, truncate),
                piece.finish or "stop",
                sizes[at // n],
                piece.tokens,
                sizes[at // n] >= self.decoder.shape.window,
                tuple(chosen[at]),
            )
            for at, (text, piece) in enumerate(zip(texts, last, strict=True))
            if piece is not None
        ]

    def close(self) -> None:
        if self.runtime is not None:
            self.runtime.close()


def is_chat(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)


def ending(until: float | None, cancelled: Cancelled | None) -> Finish | None:
    if cancelled is not None and cancelled():
        return "cancelled"
    return "deadline" if until is not None and time.monotonic() > until else None


def fresh_seed() -> int:
    """A seed for texts that differ at each call; give it back with them, so that they can be had again."""
    return secrets.randbelow(2**32)
