"""Whether two samples come from one distribution: PSI, chi-square, Kolmogorov-Smirnov and MMD; numpy only.

Use `chi_square` and `psi` on counts of classes, `kolmogorov_smirnov` on numbers and `mmd` on vectors; `holm` in
`statistics.py` corrects the p values of tests that are looked at together.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Tested", "chi_square", "kolmogorov_smirnov", "mmd", "pooled", "psi", "quantile_bins"]

Numbers = NDArray[np.float64]
SMOOTHING = 0.5
"""Added to each count before PSI takes logarithms (Jeffreys' prior): an empty bin is no infinite distance."""
LEAST_EXPECTED = 5.0
"""The chi-square distribution fits counts that are expected to be at least so large (Cochran 1954)."""


@dataclass(frozen=True)
class Tested:
    """A statistic, and how likely one as large is when nothing has changed."""

    statistic: float
    p: float


def psi(reference: ArrayLike, counts: ArrayLike) -> float:
    """The population stability index of two histograms with the same bins, shape (bins,); 0 for equal shares.

    It is the sum of (q - p) ln(q / p) over the bins, which is Jeffreys' divergence (Kullback and Leibler 1951); Siddiqi
    2006, Credit Risk Scorecards, reads below 0.1 as no change, from 0.25 on as a large one. Counts get half a row more.
    """
    before, after = shares(reference), shares(counts)
    return float(((after - before) * np.log(after / before)).sum())


def shares(counts: ArrayLike) -> Numbers:
    smooth = np.asarray(counts, np.float64) + SMOOTHING
    return np.asarray(smooth / smooth.sum())


def chi_square(reference: ArrayLike, counts: ArrayLike) -> Tested:
    """Pearson's test that two histograms, shape (bins,), were drawn from one distribution (Pearson 1900).

    Bins that are empty in both do not count. The statistic has a chi-square distribution with bins - 1 degrees of
    freedom if the expected counts are not small; `pooled` brings small ones together.
    """
    table = np.asarray([reference, counts], np.float64)
    table = table[:, table.sum(axis=0) > 0]
    rows = table.sum(axis=1, keepdims=True)
    if table.shape[1] < 2 or not rows.all():
        return Tested(0.0, 1.0)
    expected = rows * table.sum(axis=0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return Tested(statistic, chi_square_tail(statistic, table.shape[1] - 1))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """The probability that a chi-square variable with so many degrees of freedom is larger.

    The regularized upper incomplete gamma function Q(freedom / 2, statistic / 2), by its series below the mean and by
    its continued fraction above (Abramowitz and Stegun 1964, 6.5.29 and 6.5.31; the fraction by Lentz 1976).
    """
    shape, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        for n in range(1, 10_000):
            term *= x / (shape + n)
            total += term
            if term < total * 1e-16:
                break
        return max(0.0, 1 - scale * total)
    tiny = 1e-300
    b = x + 1 - shape
    c, d = 1 / tiny, 1 / b
    fraction = d
    for n in range(1, 10_000):
        a = -n * (n - shape)
        b += 2
        d = 1 / (a * d + b or tiny)
        c = b + a / c or tiny
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, scale * fraction)


def pooled(reference: ArrayLike, counts: ArrayLike) -> tuple[Numbers, Numbers]:
    """Two histograms whose rarest bins became one, such that the chi-square distribution fits: both expect 5 a bin.

    What is expected of a bin is its share in both samples together, times the smaller sample.
    """
    table = np.asarray([reference, counts], np.float64)
    sizes = table.sum(axis=1)
    if not sizes.all():
        return table[0], table[1]
    expected = table.sum(axis=0) / sizes.sum() * sizes.min()
    order = np.argsort(expected, kind="stable")
    few = int(np.searchsorted(expected[order], LEAST_EXPECTED))
    while few and few < len(order) and expected[order[:few]].sum() < LEAST_EXPECTED:
        few += 1
    rare, kept = order[:few], np.sort(order[few:])
    result = np.concatenate([table[:, kept], table[:, rare].sum(axis=1, keepdims=True)], axis=1) if few else table
    return result[0], result[1]


def kolmogorov_smirnov(first: ArrayLike, second: ArrayLike) -> Tested:
    """The two-sample test on numbers, shapes (n,) and (m,): the largest distance of their distribution functions.

    The p value is that of Smirnov's limit with Stephens' correction for finite samples (Stephens 1970, J. R. Stat.
    Soc. B 32), two-sided. It is exact enough from some ten values on; ties make it cautious.
    """
    one, two = np.sort(np.asarray(first, np.float64)), np.sort(np.asarray(second, np.float64))
    if not len(one) or not len(two):
        return Tested(0.0, 1.0)
    every = np.concatenate([one, two])
    below = np.searchsorted(one, every, side="right") / len(one) - np.searchsorted(two, every, side="right") / len(two)
    distance = float(np.abs(below).max())
    size = math.sqrt(len(one) * len(two) / (len(one) + len(two)))
    return Tested(distance, kolmogorov_tail((size + 0.12 + 0.11 / size) * distance))


def kolmogorov_tail(x: float) -> float:
    """The probability that Kolmogorov's limit variable is larger: 2 sum (-1)^(k-1) exp(-2 k² x²) (Kolmogorov 1933)."""
    if x < 0.2:  # the other form of the series is below 1e-12 there
        return 1.0
    total = sum((1 if k % 2 else -1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


def mmd(first: ArrayLike, second: ArrayLike, *, permutations: int = 1999, seed: int = 0) -> Tested:
    """The maximum mean discrepancy of two samples of vectors, shapes (n, d) and (m, d), with a Gaussian kernel.

    The statistic is the unbiased estimate of its square; the p value is the share of random divisions of all vectors
    into two samples of these sizes that are as far apart (Gretton et al. 2012, JMLR 13, eq. 3 and section 5.1). The
    kernel's width is the median distance of the vectors (the median heuristic, there in section 8).
    """
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    n, m = len(one), len(two)
    if n < 2 or m < 2:
        return Tested(0.0, 1.0)
    every = np.concatenate([one, two])
    norms = (every**2).sum(axis=1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * every @ every.T, 0.0)
    median = float(np.median(squares[np.triu_indices(n + m, 1)]))
    kernel = np.exp(-squares / (2 * median)) if median > 0 else (squares == 0).astype(np.float64)
    np.fill_diagonal(kernel, 0.0)
    random, first_sample = np.random.default_rng(seed), (np.arange(n + m) < n).astype(np.float64)[:, None]
    found = float(distances(kernel, first_sample, n, m)[0])
    as_far = 0
    for start in range(0, permutations, DRAWN):
        drawn = random.permuted(np.repeat(first_sample, min(DRAWN, permutations - start), axis=1), axis=0)
        as_far += int((distances(kernel, drawn, n, m) >= found - 1e-12).sum())
    return Tested(found, (1 + as_far) / (1 + permutations))


DRAWN = 500
"""Permutations that are drawn in one call: other threads wait meanwhile, for some milliseconds."""


def distances(kernel: Numbers, members: Numbers, n: int, m: int) -> Numbers:
    """The statistic of each division, a column of `members` with 1 for the n vectors of the first sample."""
    # With the sum of a sample's kernel rows, the sums within and across follow from one product.
    product = kernel @ members
    within_first = (members * product).sum(axis=0)
    across = product.sum(axis=0) - within_first
    within_second = kernel.sum() - within_first - 2 * across
    return np.asarray(within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m))


def quantile_bins(reference: ArrayLike, bins: int = 10) -> Numbers:
    """The inner edges of bins that hold equal shares of a sample, shape (at most bins - 1,): equal ones stand once."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.unique(np.quantile(np.asarray(reference, np.float64), inner, method="inverted_cdf"))
