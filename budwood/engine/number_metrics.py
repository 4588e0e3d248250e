"""Metrics of probabilities of one event and of predicted numbers: ranking, distance to the truth, and their intervals.

Written with numpy, because `evaluate` runs where scikit-learn is not installed.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "average_precision",
    "bootstrap_interval",
    "ranking_metrics",
    "ranks",
    "regression_metrics",
    "resampled_span",
    "roc_auc",
    "roc_auc_interval",
]

RESAMPLES = 500
LEAST = 10
"""Rows of each class below which no interval of the area is given: its variance is a guess."""
ALIKE = 1e-9
"""Width below which resamples differ by rounding alone."""


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, the smallest value first; equal values share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    result = np.empty(len(values))
    result[order] = (ends - (counts - 1) / 2)[inverse]
    return result


def placements(scores: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each active the share of inactives ranked below it, for each inactive the share of actives above it."""
    values, active = np.asarray(scores, np.float64), np.asarray(truth).astype(bool)
    n_active, n_inactive = int(active.sum()), int((~active).sum())
    all_ranks = ranks(values)
    above = (all_ranks[active] - ranks(values[active])) / max(n_inactive, 1)
    below = 1 - (all_ranks[~active] - ranks(values[~active])) / max(n_active, 1)
    return above, below


def roc_auc(scores: ArrayLike, truth: ArrayLike) -> float:
    """The chance that an active is ranked before an inactive, ties counting half; NaN when one class is missing."""
    above, below = placements(scores, truth)
    return float(above.mean()) if len(above) and len(below) else math.nan


def roc_auc_interval(scores: ArrayLike, truth: ArrayLike) -> tuple[float, float] | None:
    """The 95 % interval by DeLong's variance (1988), on the logit scale so that it stays within [0, 1].

    None with fewer than 10 rows of a class, or where all scores are equal. Where the order is perfect the variance is
    0, and the bound is that of the rule of three.
    """
    above, below = placements(scores, truth)
    if min(len(above), len(below)) < LEAST:
        return None
    area = float(above.mean())
    variance = float(above.var(ddof=1)) / len(above) + float(below.var(ddof=1)) / len(below)
    if not 0 < area < 1:
        spare = 1 - 0.05 ** (1 / min(len(above), len(below)))  # the rule of three: nothing was out of order
        return (1 - spare, 1.0) if area == 1 else (0.0, spare)
    if not variance > 0:
        return None
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    return 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))


def average_precision(scores: ArrayLike, truth: ArrayLike) -> float:
    """The mean precision at each active, ties taken as a block; NaN without actives."""
    values, active = np.asarray(scores, np.float64), np.asarray(truth).astype(bool)
    if not active.any():
        return math.nan
    levels, inverse = np.unique(-values, return_inverse=True)
    hits = np.bincount(inverse, active, len(levels))
    found = np.cumsum(hits)
    seen = np.cumsum(np.bincount(inverse, minlength=len(levels)))
    return float((hits * found / seen).sum() / active.sum())


def ranking_metrics(probability: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """`roc_auc`, `average_precision` and `brier` of one property; the first two only where both classes occur."""
    values, active = np.asarray(probability, np.float64), np.asarray(truth, np.float64)
    found = {"roc_auc": roc_auc(values, active), "average_precision": average_precision(values, active)}
    found = {name: value for name, value in found.items() if 0 < active.sum() < len(active)}
    return found | {"brier": float(((values - active) ** 2).mean())}


def regression_metrics(values: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """`rmse`, `mae`, and from three rows on `r2` and `spearman`."""
    given, actual = np.asarray(values, np.float64), np.asarray(truth, np.float64)
    error = given - actual
    found = {"rmse": float(np.sqrt((error**2).mean())), "mae": float(np.abs(error).mean())}
    if len(actual) >= 3 and actual.std() > 0:
        found["r2"] = float(1 - (error**2).mean() / actual.var())
        if given.std() > 0:
            found["spearman"] = float(np.corrcoef(ranks(given), ranks(actual))[0, 1])
    return found


def bootstrap_interval(
    scores: NDArray[np.float64], truth: NDArray[np.floating], metric: str, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean `roc_auc` or `rmse` over the properties, molecules being resampled.

    Args:
        scores, truth: shape (rows, properties); NaN in `truth` where a value is unknown.

    Returns:
        None where the metric is not defined in most resamples, or the same in all: too few molecules.
    """
    random = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        drawn = random.integers(0, len(truth), len(truth))
        values = [one(scores[drawn, i], truth[drawn, i], metric) for i in range(truth.shape[1])]
        known = [value for value in values if math.isfinite(value)]
        if known:
            found.append(sum(known) / len(known))
    if len(found) < RESAMPLES / 2:
        return None
    return resampled_span(found)


def resampled_span(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % percentile interval of a resampled metric; None where all resamples agree, which few rows can do."""
    low, high = (float(bound) for bound in np.quantile(values, (0.025, 0.975)))
    return (low, high) if high - low > ALIKE else None


def one(scores: NDArray[np.float64], truth: NDArray[np.floating], metric: str) -> float:
    """A metric of one property over its known values; NaN where it is not defined."""
    known = np.isfinite(truth)
    if not known.any():
        return math.nan
    if metric == "roc_auc":
        return roc_auc(scores[known], truth[known])
    return float(np.sqrt(((scores[known] - truth[known]) ** 2).mean()))
