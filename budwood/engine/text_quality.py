"""How good, how varied and how original generated text is: perplexity with its interval, and three plain measures.

Used for the report of a text generator. numpy only.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CopiedRun",
    "Likelihood",
    "distinct",
    "longest_copied_run",
    "perplexity_ratio",
    "repetition",
    "token_logs",
    "unigram",
]

RESAMPLES = 2_000
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of documents: for each the sum of -log p over its tokens (nats), and how many they are."""

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def perplexity(self) -> float:
        """Over all tokens."""
        return float(np.exp(self.nats.sum() / self.tokens.sum()))

    @property
    def per_document(self) -> NDArray[np.float64]:
        """Each document's own perplexity."""
        return np.asarray(np.exp(self.nats / self.tokens))

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % of the perplexity, by the bootstrap over documents (percentiles of 2,000 resamples)."""
        weights = resamples(len(self.nats), seed)
        return ends(np.exp(weights @ self.nats / (weights @ self.tokens)))


def perplexity_ratio(adapted: Likelihood, base: Likelihood, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Adapted over base on the same documents, and its 95 % interval: the same documents are drawn for both.

    The tokens must be the same ones; perplexities of different vocabularies cannot be compared.
    """
    if not np.array_equal(adapted.tokens, base.tokens):
        raise ValueError("the two models did not read the same tokens")
    weights = resamples(len(base.nats), seed)
    logs = weights @ (adapted.nats - base.nats) / (weights @ base.tokens)
    return adapted.perplexity / base.perplexity, ends(np.exp(logs))


def resamples(documents: int, seed: int) -> NDArray[np.float64]:
    """How often each document is drawn in each resample, (resamples, documents)."""
    random = np.random.default_rng(seed)
    share = np.full(documents, 1.0 / documents)
    return random.multinomial(documents, share, size=RESAMPLES).astype(np.float64)


def ends(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def unigram(train: Sequence[Sequence[int]], held: Sequence[Sequence[int]], vocabulary: int) -> Likelihood:
    """The likelihood of held-out tokens by their frequency in training alone, plus one for each token (Laplace).

    What a new model is measured against: its random beginning is no base worth beating.
    """
    counts = np.ones(vocabulary)
    for ids in train:
        counts += np.bincount(np.asarray(ids, np.int64), minlength=vocabulary)
    costs = -np.log(counts / counts.sum())
    nats = np.asarray([costs[np.asarray(ids, np.int64)].sum() for ids in held])
    return Likelihood(nats, np.asarray([len(ids) for ids in held], np.int64))


def token_logs(logits: NDArray[Any], targets: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """The log-probability of each row's own next tokens, (rows, width), filled up with 1, which none of them can be.

    Args:
        logits: (rows, length, vocabulary).
        targets: (rows, length), the token that follows; below 0 where none is measured.
        width: at least the number of measured tokens of any row.
    """
    found = np.full((len(targets), width), 1.0, np.float32)
    for at, (row, wanted) in enumerate(zip(logits, targets, strict=True)):
        measured = np.flatnonzero(wanted >= 0)
        scores = row[measured].astype(np.float64)
        top = scores.max(axis=1, initial=-np.inf)
        total = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        own = scores[np.arange(len(measured)), wanted[measured]] - total
        found[at, : len(measured)] = np.minimum(own, 0.0)
    return found


def words(text: str) -> list[str]:
    return WORD.findall(text)


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams of words over all n-grams of all texts (Li et al. 2016): 1 when none occurs twice."""
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """The mean share of a text's n-grams of words that repeat one of its own (seq-rep-4, Welleck et al. 2020)."""
    shares = []
    for text in texts:
        counts = Counter(ngrams(words(text), n))
        if counts:
            shares.append(1.0 - len(counts) / counts.total())
    return float(np.mean(shares)) if shares else 0.0


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]


@dataclass(frozen=True)
class CopiedRun:
    """The longest run of words that a text shares with the training texts."""

    words: int
    text: str


def longest_copied_run(texts: Sequence[str], training: Sequence[str]) -> CopiedRun:
    """The longest run of words of any text that stands in a training text, found exactly.

    Runs of 1, 2, 4, … words get numbers, equal runs equal ones (prefix doubling, Karp et al. 1972), until no run of a
    text is found in training; the length between is found by halving. Time n log n for n words in all.
    """
    spelled, numbers, own = numbered(texts, training)
    levels = [numbers]
    size = 1
    while shared(levels[-1], own).any():
        following = paired(levels[-1], size)
        if following is None:
            break
        levels.append(following)
        size *= 2
    else:
        if len(levels) == 1:
            return CopiedRun(0, "")
    best, at = 0, 0
    low, high = 0, min(2 * size, len(numbers))
    while low < high:
        length = (low + high + 1) // 2
        found = shared(runs(levels, length), own)
        if found.any():
            best, at, low = length, int(found.argmax()), length
        else:
            high = length - 1
    return CopiedRun(best, " ".join(spelled[at : at + best]))


def numbered(texts: Sequence[str], training: Sequence[str]) -> tuple[list[str], NDArray[np.int64], int]:
    """All words in a row, the texts' first, then training's; each text is closed by a number that occurs once."""
    spelled: list[str] = []
    numbers: list[int] = []
    known: dict[str, int] = {}
    own = 0
    for count, text in enumerate([*texts, *training], start=1):
        for word in words(text):
            spelled.append(word)
            numbers.append(known.setdefault(word, len(known)))
        spelled.append("")
        numbers.append(-count)
        if count == len(texts):
            own = len(spelled)
    return spelled, np.unique(np.asarray(numbers, np.int64), return_inverse=True)[1].astype(np.int64), own


def paired(level: NDArray[np.int64], size: int) -> NDArray[np.int64] | None:
    """Numbers of runs twice as long; None where nothing is that long."""
    if len(level) <= size:
        return None
    keys = level[:-size] * (int(level.max()) + 1) + level[size:]
    doubled: NDArray[np.int64] = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    return doubled


def runs(levels: Sequence[NDArray[np.int64]], length: int) -> NDArray[np.int64]:
    """Numbers of runs of any length, from two overlapping runs of a power of two."""
    power = min(length.bit_length() - 1, len(levels) - 1)
    level, offset = levels[power], length - (1 << power)
    if offset == 0:
        return level
    if len(level) <= offset:
        return np.empty(0, np.int64)
    return level[:-offset] * (int(level.max()) + 1) + level[offset:]


def shared(numbers: NDArray[np.int64], own: int) -> NDArray[np.bool_]:
    """Whether each run that begins in the texts also begins in training."""
    return np.isin(numbers[:own], numbers[own:])
