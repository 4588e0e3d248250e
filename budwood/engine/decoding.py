"""How a text is written token by token: choosing each token, turning tokens into text, and knowing when to stop.

The serving half of text generation: numpy only. `engine/generator.py` runs the model, with a `Writer` for each text.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import UsageError

__all__ = [
    "MAX_ALTERNATIVES",
    "MAX_BIASES",
    "Chosen",
    "Detokenizer",
    "Finish",
    "Piece",
    "Sampling",
    "StopStrings",
    "Writer",
    "choose",
    "cut_at",
]

Finish = Literal["stop", "length", "deadline", "cancelled"]
"""Why a text ended: its end token or a stop string, its limit of tokens, the caller's clock, or the caller."""
Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out."""

REPLACEMENT = "\ufffd"
"""What a tokenizer gives for bytes that are not, or not yet, a character."""
CONTEXT = 6
"""Tokens of the prompt that are decoded with the first new ones: some tokenizers strip a text's first space."""
MAX_ALTERNATIVES = 20
MAX_BIASES = 300
LEAST_LOG = -9999.0
"""Stands for the logarithm of a probability of zero, which JSON cannot say."""
BLOCK = 256
"""Weights of one block where a token is drawn."""
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1_000


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when a text ends. The defaults are those of every verb and of the API.

    Raises:
        UsageError: a value makes no sense; `where` is the field's name.
    """

    max_tokens: int = 256
    """New tokens at most."""
    min_tokens: int = 0
    """The end token is not chosen before so many."""
    temperature: float = 0.7
    """0 always takes the likeliest token."""
    top_k: int = 0
    """Choose among so many of the likeliest tokens; 0 for all."""
    top_p: float = 0.0
    """Choose among the fewest tokens that hold this share of the probability (Holtzman et al. 2020); 0 or 1 for all."""
    repetition_penalty: float = 1.0
    """Tokens that occurred lose by this factor (Keskar et al. 2019); 1 for none."""
    presence_penalty: float = 0.0
    """Taken off the logits of tokens that were written already, as OpenAI defines it; the prompt does not count."""
    frequency_penalty: float = 0.0
    """The same, times how often each was written."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits: token ids with what is added to each, -100 to 100."""
    alternatives: int | None = None
    """With each token the log-probabilities of so many likeliest ones are given beside its own; None for neither."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    seed: int = 0
    """Equal seeds give equal texts; sample number i draws from its own stream (seed, i)."""

    def __post_init__(self) -> None:
        whole(self.max_tokens, "max_tokens", 1, 1_000_000)
        whole(self.min_tokens, "min_tokens", 0, self.max_tokens)
        whole(self.top_k, "top_k", 0, 10_000_000)
        whole(self.seed, "seed", 0, 2**63 - 1)
        number(self.temperature, "temperature", 0.0, 100.0)
        number(self.top_p, "top_p", 0.0, 1.0)
        number(self.repetition_penalty, "repetition_penalty", 0.01, 100.0)
        number(self.presence_penalty, "presence_penalty", -2.0, 2.0)
        number(self.frequency_penalty, "frequency_penalty", -2.0, 2.0)
        if self.alternatives is not None:
            whole(self.alternatives, "alternatives", 0, MAX_ALTERNATIVES)
        whole(len(self.logit_bias), "logit_bias", 0, MAX_BIASES)
        for token, bias in self.logit_bias:
            whole(token, "logit_bias", 0, 2**31 - 1)
            number(bias, "logit_bias", -100.0, 100.0)
        if len(self.stop) > MAX_STOPS or not all(
            isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARACTERS for text in self.stop
        ):
            raise UsageError(
                f"stop takes up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters", where="stop"
            )


def whole(value: object, name: str, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}", where=name, fix=f"give a whole number from {least} to {most}")


def number(value: object, name: str, least: float, most: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}", where=name, fix=f"give a number from {least:g} to {most:g}")


def choose(
    logits: NDArray[np.floating],
    options: Sampling,
    random: np.random.Generator,
    seen: NDArray[np.int64],
    forbidden: Sequence[int] = (),
    written: Mapping[int, int] | None = None,
) -> int:
    """The next token from the logits of the vocabulary, shape (tokens,). `seen` are the ids that occurred.

    In order: repetition penalty, presence and frequency penalty (`written`: how often each id was written), bias,
    forbidden tokens, temperature, top_k, top_p. Candidates are drawn in the order of their ids, so that a rounding
    difference between two machines hardly ever changes the draw.

    Raises:
        UsageError: the bias is of a token that the vocabulary does not have.
    """
    scores = logits.astype(np.float64)
    if options.repetition_penalty != 1.0 and len(seen):
        past = scores[seen]
        scores[seen] = np.where(past > 0, past / options.repetition_penalty, past * options.repetition_penalty)
    if written:
        counts = np.fromiter(written.values(), np.float64, len(written))
        scores[list(written)] -= options.presence_penalty + options.frequency_penalty * counts
    for token, bias in options.logit_bias:
        if token >= len(scores):
            raise UsageError(f"there is no token {token}", where="logit_bias", fix=f"name ids below {len(scores)}")
        scores[token] += bias
    if forbidden:
        scores[list(forbidden)] = -np.inf
    if options.temperature == 0 or options.top_k == 1:
        return int(scores.argmax())
    kept = None
    if 0 < options.top_k < len(scores):
        rest = len(scores) - options.top_k
        kept = np.sort(np.argpartition(scores, rest)[rest:])
        scores = scores[kept]
    with np.errstate(over="ignore"):  # a temperature next to 0 makes all but the likeliest minus infinity, as it should
        weights = scores - scores.max()
        weights /= options.temperature
        np.exp(weights, out=weights)
    if 0.0 < options.top_p < 1.0:
        nucleus = np.sort(likeliest(weights / weights.sum(), options.top_p))
        kept, weights = nucleus if kept is None else kept[nucleus], weights[nucleus]
    found = drawn(weights, random.random())
    return found if kept is None else int(kept[found])


def drawn(weights: NDArray[np.float64], share: float) -> int:
    """The index where the running sum of the weights passes this share of it. Block by block, since one long running
    sum takes as long as all the rest of a choice."""
    starts = np.arange(0, len(weights), BLOCK)
    sums = np.cumsum(np.add.reduceat(weights, starts))
    point = share * sums[-1]
    block = min(int(np.searchsorted(sums, point, side="right")), len(sums) - 1)
    part = np.cumsum(weights[starts[block] : starts[block] + BLOCK])
    before = sums[block - 1] if block else 0.0
    return int(starts[block]) + min(int(np.searchsorted(part, point - before, side="right")), len(part) - 1)


def likeliest(weights: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """The fewest indices whose weights sum to `share` of 1, the heaviest first; at least one."""
    # All weights below this bound sum to less than the rest, so that none of them is needed: few are left to sort.
    some = np.flatnonzero(weights >= (1.0 - share) / len(weights))
    order = some[np.argsort(-weights[some], kind="stable")]
    return order[: int(np.searchsorted(np.cumsum(weights[order]), share)) + 1]


class Chosen(NamedTuple):
    """A token that was written, with log-probabilities of the model's own distribution (before all penalties)."""

    token: int
    log: float
    likeliest: tuple[tuple[int, float], ...]
    """Ids and log-probabilities of the likeliest tokens, the likeliest first."""
    start: int
    """Where its text begins, in characters of what was written."""


def described(logits: NDArray[np.floating], token: int, alternatives: int, start: int) -> Chosen:
    """A token with its log-probability, and those of the likeliest ones. `logits` have the shape (tokens,)."""
    scores = logits.astype(np.float64)
    peak = scores.max()
    total = peak + np.log(np.exp(scores - peak).sum())
    size = min(alternatives, len(scores))
    order = np.argpartition(-scores, size - 1)[:size] if size else np.zeros(0, np.int64)
    order = order[np.lexsort((order, -scores[order]))]
    likeliest = tuple((int(at), max(float(scores[at] - total), LEAST_LOG)) for at in order)
    return Chosen(token, max(float(scores[token] - total), LEAST_LOG), likeliest, start)


class Detokenizer:
    """Tokens to text, piece by piece. A piece is held back until its last character is whole."""

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self.decode = decode
        self.ids = list(prompt[-CONTEXT:])
        self.start, self.given = 0, len(self.ids)

    def push(self, token: int) -> str:
        """The text that this token completes, often empty for parts of a character."""
        self.ids.append(token)
        return self.take(final=False)

    def flush(self) -> str:
        """What is left at the end; bytes that never became a character are shown as a replacement character."""
        return self.take(final=True)

    def take(self, *, final: bool) -> str:
        before = self.decode(self.ids[self.start : self.given])
        after = self.decode(self.ids[self.start :])
        if len(after) <= len(before) or (after.endswith(REPLACEMENT) and not final):
            return ""
        # Only the tokens of the last piece are decoded again next time, so a long text costs no more than a short one.
        self.start, self.given = self.given, len(self.ids)
        return after[len(before) :]


class StopStrings:
    """Lets text through up to the first stop string, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to show, and whether a stop string was met.

        Of several stop strings the one that ends first counts, so the pieces in which the text comes change nothing.
        """
        self.held += text
        ends = [(at + len(stop), at) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if ends:
            return self.held[: min(ends)[1]], True
        keep = max((overlap(self.held, stop) for stop in self.stops), default=0)
        shown = self.held[: len(self.held) - keep]
        self.held = self.held[len(self.held) - keep :]
        return shown, False

    def flush(self) -> str:
        rest, self.held = self.held, ""
        return rest


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`, `stop` itself not counted."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


@dataclass(frozen=True)
class Piece:
    """A part of one text as it is written. `finish` is set on the last piece of a text, which may be empty."""

    index: int
    """The number of the text among those asked for."""
    text: str
    tokens: int
    """New tokens of this text so far."""
    finish: Finish | None = None
    chosen: tuple[Chosen, ...] = ()
    """The tokens that this part of the text begins with or holds, where `alternatives` asks for them."""


class Writer:
    """One text that is being written: chooses its tokens, gives its pieces, knows when it has ended."""

    def __init__(
        self,
        index: int,
        prompt: Sequence[int],
        options: Sampling,
        decode: Decode,
        ends: Sequence[int],
        stream: int = 0,
        *,
        answers: bool = False,
    ) -> None:
        """`ends` are the ids of end tokens, `stream` is the sample's number among those that share prompt and seed.

        Where it `answers` a chat, the spaces after `Assistant:` are layout, and no part of the text.
        """
        self.index, self.options, self.ends = index, options, tuple(ends)
        self.ids = list(prompt)
        self.prompt_tokens = len(self.ids)
        self.seen = np.unique(np.asarray(self.ids, np.int64))
        self.random = np.random.default_rng([options.seed, stream])
        self.text = Detokenizer(decode, prompt)
        self.stops = StopStrings(options.stop)
        self.trims = answers
        self.finish: Finish | None = None
        self.penalised = bool(options.presence_penalty or options.frequency_penalty)
        self.written: Counter[int] = Counter()
        self.chosen: list[Chosen] = []
        """Tokens whose text was not shown yet."""
        self.characters = self.shown = self.trimmed = 0
        """Of the text as it was decoded, shown, and left out at its beginning."""

    @property
    def tokens(self) -> int:
        return len(self.ids) - self.prompt_tokens

    def take(self, logits: NDArray[np.floating]) -> Piece:
        """Choose the next token. The piece may be empty; its `finish` says whether the text has ended."""
        forbidden = self.ends if self.tokens < self.options.min_tokens else ()
        token = choose(logits, self.options, self.random, self.seen, forbidden, self.written)
        if token in self.ends:
            return self.end("stop")
        self.ids.append(token)
        if self.options.repetition_penalty != 1.0:
            self.seen = np.union1d(self.seen, [token])
        if self.penalised:
            self.written[token] += 1
        if self.options.alternatives is not None:
            self.chosen.append(described(logits, token, self.options.alternatives, self.characters))
        text = self.text.push(token)
        self.characters += len(text)
        shown, stopped = self.stops.push(text)
        if stopped:
            self.finish = "stop"
        elif self.tokens >= self.options.max_tokens:
            return self.end("length", shown)
        return self.piece(shown, stopped)

    def end(self, finish: Finish, before: str = "") -> Piece:
        """The last piece, with all that was held back."""
        shown, stopped = self.stops.push(self.text.flush())
        self.finish = "stop" if stopped else finish
        shown = before + shown + ("" if stopped else self.stops.flush())
        return self.piece(shown, stopped)

    def piece(self, shown: str, stopped: bool) -> Piece:
        """A piece with the tokens that begin in its text; with the last one come all, but those that were cut off."""
        self.shown += len(shown)
        text = self.trim(shown)
        self.trimmed += len(shown) - len(text)
        whole = self.finish is not None and not stopped
        ready = [item for item in self.chosen if whole or (item.start < self.shown and (text or self.finish))]
        self.chosen = [] if whole else self.chosen[len(ready) :]
        chosen = tuple(item._replace(start=max(0, item.start - self.trimmed)) for item in ready)
        return Piece(self.index, text, self.tokens, self.finish, chosen)

    def trim(self, text: str) -> str:
        if self.trims:
            text = text.lstrip(" ")
            self.trims = not text
        return text


def cut_at(text: str, truncate: str | re.Pattern[str] | None) -> str:
    """The text before the first match of a pattern, or before a plain string; all of it when there is none."""
    if truncate is None:
        return text
    found = (re.compile(re.escape(truncate)) if isinstance(truncate, str) else truncate).search(text)
    return text[: found.start()] if found else text
