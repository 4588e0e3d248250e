"""What more labels would bring: the baseline is fitted on smaller and smaller shares of the rows, and the gain of each
doubling tells that of the next.

A power law promises too much when there are few rows, because its exponent falls as they grow (Chen et al. 2023,
arXiv:2303.01598). So only the last doubling counts, and a range of slower exponents is part of the interval.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.engine.linear_head import fit

__all__ = ["LEVELS", "MIN_ROWS", "Forecast", "extrapolated", "forecast", "next_gain"]

MIN_ROWS = 80
"""With fewer rows a tenth of them says nothing."""
HELD_OUT = 0.25
LEVELS = 4
"""Shares of the rows: an eighth, a quarter, a half, all."""
REPEATS = 8
Z = 1.96
SLOWER = (0.4, 0.7, 1.0)
"""The exponent of the next doubling by that of the last: low, expected and high. 1 would be a power law."""


@dataclass(frozen=True)
class Forecast:
    """The learning curve of the baseline, and what twice the labels would add."""

    sizes: tuple[int, ...]
    """Rows learnt from."""
    scores: tuple[float, ...]
    """Mean score on held-out rows at each size."""
    gain: float
    """Expected gain of twice the last size."""
    ci: tuple[float, float]
    """Its interval: 95 % of the luck of the draws, and the range of exponents that were seen on public text sets."""
    metric: str = "accuracy"
    """What the scores are; 1 is the best."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast(
    embeddings: NDArray[Any], targets: NDArray[Any], n_labels: int, penalty: float, seed: int
) -> Forecast | None:
    """The learning curve of logistic regression on embeddings (rows, width) for class numbers (rows,).

    Returns:
        None with fewer than 80 rows, or when targets are not class numbers.
    """
    if targets.ndim != 1 or len(targets) < MIN_ROWS or not np.issubdtype(targets.dtype, np.integer):
        return None
    random = np.random.default_rng(seed)
    curves = []
    for _ in range(REPEATS):
        order = by_class(targets, random)
        held, pool = order[: int(HELD_OUT * len(order))], order[int(HELD_OUT * len(order)) :]
        sizes = [len(pool) >> (LEVELS - 1 - level) for level in range(LEVELS)]
        curves.append([accuracy(embeddings, targets, pool[:size], held, n_labels, penalty) for size in sizes])
    scores = np.asarray(curves)
    noise = float(np.sqrt(2 * scores[:, -1].mean() * (1 - scores[:, -1].mean()) / len(targets)))
    return extrapolated(sizes, scores, noise=noise)


def extrapolated(
    sizes: Sequence[int], scores: NDArray[np.float64], *, noise: float = 0.0, metric: str = "accuracy"
) -> Forecast:
    """The forecast from scores (draws, sizes) of which 1 is the best; each size is twice the one before.

    Args:
        noise: the standard error of a score from the number of held-out rows alone, where it can be told.
    """
    draws = len(scores)
    gains = [next_gain(1 - scores[np.arange(draws) != left].mean(axis=0)) for left in range(draws)]
    low, mean, high = (next_gain(1 - scores.mean(axis=0), slower) for slower in SLOWER)
    # Leave one draw out (jackknife): the draws share rows, so their plain spread would be too small a guess.
    error = float(np.sqrt((draws - 1) / draws * np.sum((np.asarray(gains) - np.mean(gains)) ** 2)))
    half = Z * float(np.hypot(error, noise / 2))
    ci = (max(mean - float(np.hypot(half, mean - low)), 0.0), mean + float(np.hypot(half, high - mean)))
    return Forecast(tuple(sizes), tuple(scores.mean(axis=0).tolist()), mean, ci, metric)


def next_gain(errors: Sequence[float] | NDArray[np.float64], slower: float = SLOWER[1]) -> float:
    """The fall of the error at the next doubling, from its fall at the last; never negative."""
    before, last = np.maximum(np.asarray(errors, np.float64)[-2:], 1e-6)
    fall = max(float(np.log2(before / last)), 0.0)
    return float(last * (1 - 2.0 ** -(fall * slower)))


def by_class(targets: NDArray[Any], random: np.random.Generator) -> NDArray[np.int64]:
    """All rows in an order in which every start holds the classes in about their shares."""
    place = np.empty(len(targets))
    for label in np.unique(targets):
        rows = random.permutation(np.flatnonzero(targets == label))
        place[rows] = (np.arange(len(rows)) + random.random()) / len(rows)
    return np.argsort(place, kind="stable")


def accuracy(
    embeddings: NDArray[Any],
    targets: NDArray[Any],
    learnt: NDArray[Any],
    held: NDArray[Any],
    n_labels: int,
    penalty: float,
) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn wonders at classes of one row
        weight, bias = fit(embeddings[learnt], targets[learnt], n_labels, penalty)
    return float(((embeddings[held] @ weight.T + bias).argmax(axis=1) == targets[held]).mean())
