"""Intervals and paired tests over per-row scores: the reason why a smaller model is accepted, refused or left open.

Use it whenever two models are compared; numpy and the standard library only. Scores are in [0, 1], one a row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from budwood.core.errors import DataError, UsageError
from budwood.engine.few_scores import logit_interval, mean_of_few
from budwood.engine.power import rows_for_power, rows_to_decide

__all__ = [
    "Comparison",
    "Verdict",
    "better",
    "difference_interval",
    "flip_rate",
    "holm",
    "interval",
    "mcnemar",
    "no_loss",
    "non_inferiority",
    "rows_for_power",
]

Scores = NDArray[np.float64]

CONFIDENCE = 0.95
ONE_SIDED = 0.05
"""Probability beyond the one bound of a one-sided interval."""
TWO_SIDED = 0.025
"""Probability beyond each bound of a two-sided interval."""
RESAMPLES = 10_000
SEED = 0
CHUNK = 4_000_000
"""Numbers held at once while resampling: 32 MB."""
FEW = 30
"""Below so many differing rows a bootstrap is too narrow, and the score interval is used instead."""
LEAST_OF_FEW = 10
"""Below so many rows even continuous losses are bounded as if any size were possible."""
MANY = 10_000
"""Above so many rows the mean is normal enough, and resampling only costs time."""


@dataclass(frozen=True)
class Comparison:
    """How much better `b` is than `a` on the same rows: `difference` is mean(b) - mean(a)."""

    difference: float
    ci: tuple[float, float]
    """Two-sided 95 % interval of the difference."""
    p: float
    """Two-sided p value of no difference: exact McNemar for 0/1 scores, otherwise a sign-flip permutation."""
    n_differ: int
    """Rows whose scores differ."""
    n: int

    @property
    def significant(self) -> bool:
        return self.p < 1 - CONFIDENCE


@dataclass(frozen=True)
class Verdict:
    """Whether a child is no more than `max_drop` worse than its parent. `drop` is mean(parent) - mean(child)."""

    verdict: Literal["PASS", "FAIL", "UNDECIDED"]
    drop: float
    drop_ci: tuple[float, float]
    """Two-sided 95 % interval of the drop."""
    lower: float
    """Lower bound of the one-sided 95 % interval; above `max_drop` the child fails."""
    upper: float
    """Upper bound of the one-sided 95 % interval; below `max_drop` the child passes."""
    p: float
    """Two-sided p value of no drop at all. It explains; it does not decide."""
    flips: float
    """Share of rows whose score changed, in either direction."""
    rows_needed: int | None
    """Rows in all that would decide with 80 % power; None when decided, or when no number of rows can."""
    max_drop: float
    n: int

    @property
    def why(self) -> str:
        """The verdict in one sentence, in points (hundredths)."""
        bound = f"{100 * self.max_drop:.2f} points"
        facts = f"drop {100 * self.drop:+.2f} points on {self.n} rows"
        if self.verdict == "PASS":
            return f"{facts}; below {bound} with 95 % confidence (at most {100 * self.upper:.2f})"
        if self.verdict == "FAIL":
            return f"{facts}; above {bound} with 95 % confidence (at least {100 * self.lower:.2f})"
        need = f"about {self.rows_needed:,} rows would decide" if self.rows_needed else "no number of rows can decide"
        return f"{facts}; {self.n} rows cannot tell whether it is below {bound} (up to {100 * self.upper:.2f}): {need}"


def interval(scores: ArrayLike) -> tuple[float, float]:
    """The 95 % interval of the mean of per-row scores, shape (n,).

    Wilson's score interval for 0/1 scores. For fewer than 30 rows of other scores Student's t on the logit scale where
    none is 0 or 1, as with the probabilities of texts, and else Wilson's, which is on the safe side there because no
    score in [0, 1] varies more than a 0/1 score of the same mean. Otherwise the BCa bootstrap (Efron 1987).

    Raises:
        DataError: there are no scores, or one is not a number.
        UsageError: a score is outside [0, 1].
    """
    values = checked(scores)
    mean = float(values.mean())
    if binary(values) or len(values) < FEW or float(np.ptp(values)) == 0.0:
        if len(values) < FEW and float(np.ptp(values)) > 0.0 and values.min() > 0.0 and values.max() < 1.0:
            return logit_interval(values)
        return wilson(mean, len(values), z_value(tail=TWO_SIDED))
    low, high = mean_interval(values, tail=TWO_SIDED)
    return max(0.0, low), min(1.0, high)


def better(a_scores: ArrayLike, b_scores: ArrayLike) -> Comparison:
    """Compare two models on the same rows, scores of shape (n,) each: how much better is `b` than `a`?

    Raises:
        UsageError: the lengths differ, or a score is outside [0, 1].
        DataError: there are no scores, or one is not a number.
    """
    a, b = paired(a_scores, b_scores)
    change = b - a
    return Comparison(
        difference=float(change.mean()),
        ci=difference_interval(change, tail=TWO_SIDED),
        p=paired_p_value(change),
        n_differ=int(np.count_nonzero(change)),
        n=len(change),
    )


def non_inferiority(
    parent_scores: ArrayLike, child_scores: ArrayLike, max_drop: float, comparisons: int = 1
) -> Verdict:
    """Is the child at most `max_drop` worse than its parent? Scores of shape (n,) on the same rows, in the same order.

    PASS when the upper bound of the one-sided 95 % interval of the drop is below `max_drop`, FAIL when the lower one is
    above it, otherwise UNDECIDED. "Not significantly worse" is not enough: a tiny test set would let everything pass.
    With `comparisons` children tested on the same rows, of which one will be picked, each must pass at 5 % divided by
    their number (Bonferroni), so that picking a wrong one stays below 5 %.

    Raises:
        UsageError: the lengths differ, a score is outside [0, 1], or `max_drop` is outside [0, 1).
        DataError: there are no scores, or one is not a number.
    """
    parent, child = paired(parent_scores, child_scores)
    return no_loss(parent - child, max_drop, comparisons)


def no_loss(losses: ArrayLike, max_drop: float, comparisons: int = 1) -> Verdict:
    """The same of what each row lost, shape (n,), in any unit: `max_drop` is in that unit too.

    Intervals are made on losses divided by the largest one, if that is above 1: where few rows differ they are on the
    safe side then, since they allow for any losses up to that size.

    Raises:
        UsageError: `max_drop` is outside [0, 1). DataError: there are no rows, or one is not a number.
    """
    if not 0 <= max_drop < 1:
        raise UsageError(f"max_drop is {max_drop}, expected 0 <= max_drop < 1", where="max_drop", fix="try 0.01")
    values = np.asarray(losses, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise DataError("a loss is not a number, or there are none", where="losses", fix="give test rows")
    scale = max(1.0, float(np.abs(values).max()))
    fall = values / scale
    drop, limit = float(fall.mean()), max_drop / scale
    lower, upper = loss_interval(fall, ONE_SIDED / comparisons)
    low, high = loss_interval(fall, TWO_SIDED)
    verdict: Literal["PASS", "FAIL", "UNDECIDED"] = (
        "PASS" if upper < limit else "FAIL" if lower > limit else "UNDECIDED"
    )
    undecided = verdict == "UNDECIDED"
    return Verdict(
        verdict=verdict,
        drop=drop * scale,
        drop_ci=(low * scale, high * scale),
        lower=lower * scale,
        upper=upper * scale,
        p=paired_p_value(fall),
        flips=float(np.mean(fall != 0)),
        rows_needed=rows_to_decide(float(np.mean(fall**2)), drop, limit, len(fall)) if undecided else None,
        max_drop=max_drop,
        n=len(fall),
    )


def loss_interval(fall: Scores, tail: float) -> tuple[float, float]:
    """Bounds of the mean loss; few rows that all lost or won another amount, as texts do, have Student's t."""
    continuous = bool((fall != 0).all()) and len(np.unique(fall)) == len(fall)
    if continuous and LEAST_OF_FEW <= len(fall) < FEW:
        return mean_of_few(fall, z_value(tail=tail))
    return difference_interval(fall, tail=tail)


def flip_rate(a_scores: ArrayLike, b_scores: ArrayLike) -> float:
    """Share of rows whose score differs, in either direction. It can be large while the mean stays the same."""
    a, b = paired(a_scores, b_scores)
    return float(np.mean(a != b))


def mcnemar(worse: int, improved: int) -> float:
    """Exact two-sided McNemar p value: `worse` rows went from right to wrong, `improved` rows the other way."""
    total = worse + improved
    if total == 0:
        return 1.0
    logs = [log_choose(total, k) for k in range(min(worse, improved) + 1)]
    top = max(logs)
    tail = math.log(sum(math.exp(item - top) for item in logs)) + top - total * math.log(2)
    return min(1.0, 2 * math.exp(tail))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): p values that stay honest when several tests are read together."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def difference_interval(change: ArrayLike, *, tail: float) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, shape (n,), each in [-1, 1].

    Tango's score interval (1998) when the differences are -1, 0 and 1, and where fewer than 30 rows differ (there it is
    on the safe side: no difference in [-1, 1] varies more). Otherwise the BCa bootstrap. `tail` is the probability
    beyond each bound: 0.025 for a two-sided interval, 0.05 for one-sided bounds.
    """
    values = np.asarray(change, dtype=np.float64)
    n = len(values)
    up, down = float(values[values > 0].sum()), float(-values[values < 0].sum())
    whole = bool(np.isin(values, (-1.0, 0.0, 1.0)).all())
    if not whole and np.count_nonzero(values) >= FEW and float(np.ptp(values)) > 0.0:
        low, high = mean_interval(values, tail=tail)
        return max(-1.0, low), min(1.0, high)
    return -score_bound(down, up, n, tail=tail), score_bound(up, down, n, tail=tail)


def score_bound(up: float, down: float, n: int, *, tail: float) -> float:
    """Upper bound of (up - down) / n by Tango's score method.

    Where nothing went down the score method is too narrow (6.7 % instead of 5 % errors), and the exact binomial bound
    of Clopper and Pearson holds: the rule of three when nothing differs at all.
    """
    z = z_value(tail=tail)
    bound = bisect(lambda delta: tango(up, down, n, delta) + z, (up - down) / n, 1.0)
    if down == 0:
        return max(bound, binomial_upper(up, n, tail))
    return bound


def tango(up: float, down: float, n: int, delta: float) -> float:
    """Tango's score statistic of H0: the difference of paired proportions is `delta`. Falls as `delta` rises."""
    linear = (2 * n - up + down) * delta - up - down
    constant = -down * delta * (1 - delta)
    share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    excess = up - down - n * delta
    if variance <= 0:
        return math.copysign(math.inf, excess) if abs(excess) > 1e-12 else 0.0
    return excess / math.sqrt(variance)


def binomial_upper(successes: float, n: int, alpha: float) -> float:
    """The share at which so few successes, or fewer, would be seen with probability `alpha` (Clopper-Pearson)."""
    whole = math.ceil(successes)
    if whole >= n:
        return 1.0
    return bisect(lambda share: binomial_cdf(whole, n, share) - alpha, whole / n, 1.0)


def binomial_cdf(successes: int, n: int, share: float) -> float:
    if share <= 0 or share >= 1:
        return float(share <= 0)
    hit, miss = math.log(share), math.log1p(-share)
    return math.fsum(math.exp(log_choose(n, k) + k * hit + (n - k) * miss) for k in range(successes + 1))


def bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    """The root of a falling function between `low` and `high`, from above, to 1e-10."""
    while high - low > 1e-10:
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return high


def wilson(mean: float, n: int, z: float) -> tuple[float, float]:
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # Rounding must not put a mean of 0 or 1 outside its own interval.
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def mean_interval(values: Scores, *, tail: float) -> tuple[float, float]:
    """BCa bootstrap interval of a mean; above 10,000 rows the normal interval, which is then the same."""
    mean, z = float(values.mean()), z_value(tail=tail)
    if len(values) > MANY:
        half = z * float(values.std(ddof=1)) / math.sqrt(len(values))
        return mean - half, mean + half
    means = resampled_means(values)
    normal, centred = NormalDist(), values - mean
    below = float(np.mean(means < mean) + np.mean(means == mean) / 2)
    bias = normal.inv_cdf(min(max(below, 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    # The jackknife's acceleration of a mean has a closed form: a sixth of the skewness over root n.
    acceleration = float((centred**3).sum()) / (6 * float((centred**2).sum()) ** 1.5)
    levels = [bias + (bias + side) / (1 - acceleration * (bias + side)) for side in (-z, z)]
    low, high = np.quantile(means, [normal.cdf(level) for level in levels])
    return float(low), float(high)


def resampled_means(values: Scores) -> Scores:
    """Means of 10,000 resamples with replacement, seeded, in chunks that bound the memory."""
    generator = np.random.default_rng(SEED)
    size = max(1, CHUNK // len(values))
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, size):
        stop = min(RESAMPLES, start + size)
        means[start:stop] = values[generator.integers(0, len(values), (stop - start, len(values)))].mean(axis=1)
    return means


def paired_p_value(change: Scores) -> float:
    """Two-sided p value of a zero mean: exact McNemar for -1, 0, 1, otherwise random sign flips of differing rows."""
    moved = change[change != 0]
    if bool((np.abs(moved) == 1).all()):
        return mcnemar(int((moved > 0).sum()), int((moved < 0).sum()))
    observed, spread = abs(float(moved.sum())), math.sqrt(float((moved**2).sum()))
    if len(moved) > MANY // 5:
        return 2 * NormalDist().cdf(-observed / spread)
    generator = np.random.default_rng(SEED)
    size, extreme = max(1, CHUNK // len(moved)), 0
    for start in range(0, RESAMPLES, size):
        count = min(size, RESAMPLES - start)
        signs = 2.0 * generator.integers(0, 2, (count, len(moved)), dtype=np.int8) - 1.0
        extreme += int((np.abs(signs @ moved) >= observed - 1e-12).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def checked(scores: ArrayLike) -> Scores:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise DataError("there are no scores to compare", where=f"scores of shape {values.shape}", fix="give test rows")
    if not np.isfinite(values).all():
        raise DataError("a score is not a number", where=f"row {int(np.argmin(np.isfinite(values)))}")
    if values.min() < 0 or values.max() > 1:
        raise UsageError("a score is outside [0, 1]", where=f"scores from {values.min()} to {values.max()}")
    return values


def paired(a_scores: ArrayLike, b_scores: ArrayLike) -> tuple[Scores, Scores]:
    a, b = checked(a_scores), checked(b_scores)
    if len(a) != len(b):
        raise UsageError(f"{len(a)} and {len(b)} scores are not pairs", where="scores", fix="score the same rows")
    return a, b


def binary(values: Scores) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def z_value(*, tail: float) -> float:
    return NormalDist().inv_cdf(1 - tail)


def log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
