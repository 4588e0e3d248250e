"""The tests for drift give what scipy gives, and have the properties that their definitions promise."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from budwood.engine.drift import chi_square, chi_square_tail, kolmogorov_smirnov, mmd, pooled, psi, quantile_bins

COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=30)
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bins", [2, 3, 10, 77])
def test_chi_square_is_that_of_scipy(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(bins))
    first, second = random.multinomial(900, shares), random.multinomial(300, random.dirichlet(10 * bins * shares + 1))
    found = chi_square(first, second)
    there = (first + second) > 0
    expected = stats.chi2_contingency([first[there], second[there]], correction=False)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("freedom", [1, 2, 5, 76, 999])
def test_tails_reach_as_far_as_those_of_scipy(freedom: int) -> None:
    for x in (1e-9, 0.1, 1.0, freedom * 0.5, freedom * 1.0, freedom * 1.5, freedom * 5 + 50, 1e5):
        assert chi_square_tail(x, freedom) == pytest.approx(stats.chi2.sf(x, freedom), rel=1e-8, abs=1e-290)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "m"), [(30, 40), (200, 500), (512, 2000)])
@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_kolmogorov_smirnov_is_that_of_scipy(seed: int, n: int, m: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=n), random.normal(shift, size=m)
    found, expected = kolmogorov_smirnov(first, second), stats.ks_2samp(first, second, method="exact")
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, rel=0.25, abs=0.02)


def test_ties_make_kolmogorov_smirnov_cautious() -> None:
    random = np.random.default_rng(0)
    alarms = sum(
        kolmogorov_smirnov(random.integers(0, 5, 100), random.integers(0, 5, 100)).p < 0.05 for _ in range(300)
    )
    assert alarms <= 15


def slow_mmd(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The estimate by its definition: means of the kernel over pairs."""
    every = [*first, *second]
    squares = [float(((a - b) ** 2).sum()) for i, a in enumerate(every) for b in every[i + 1 :]]
    width = float(np.median(squares))

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * width)))

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j])
        for part in (first, second)
    ]
    return float(within[0] + within[1] - 2 * np.mean([kernel(a, b) for a in first for b in second]))


@pytest.mark.parametrize("seed", range(3))
def test_mmd_is_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(9, 3)), random.normal(0.5, size=(12, 3))
    assert mmd(first, second, permutations=19).statistic == pytest.approx(slow_mmd(first, second))


def test_mmd_tells_samples_apart_and_not_equal_ones() -> None:
    random = np.random.default_rng(0)
    same = [mmd(random.normal(size=(40, 4)), random.normal(size=(40, 4)), permutations=199).p for _ in range(100)]
    assert np.mean(np.asarray(same) <= 0.05) <= 0.12
    assert stats.kstest(same, "uniform").pvalue > 0.001
    apart = random.normal(size=(40, 4)), random.normal(1.0, size=(40, 4))
    assert mmd(*apart, permutations=199).p == 1 / 200
    assert mmd(*apart, permutations=1234).p == 1 / 1235  # drawn in several parts


def test_psi_of_an_example() -> None:
    before, after = np.asarray([50.5, 50.5]) / 101, np.asarray([80.5, 20.5]) / 101
    assert psi([50, 50], [80, 20]) == pytest.approx(sum((after - before) * np.log(after / before)))


@given(COUNTS, st.randoms())
def test_psi_is_a_symmetric_divergence(counts: list[int], random: Random) -> None:
    other = counts[:]
    random.shuffle(other)
    assert psi(counts, other) == pytest.approx(psi(other, counts))
    assert psi(counts, other) >= 0
    assert psi(counts, counts) == 0


@given(COUNTS)
def test_equal_histograms_are_no_drift(counts: list[int]) -> None:
    found = chi_square(counts, counts)
    assert found.statistic == pytest.approx(0, abs=1e-9)
    assert found.p == pytest.approx(1)


@given(COUNTS, COUNTS)
def test_pooling_keeps_the_rows_and_expects_enough(first: list[int], second: list[int]) -> None:
    size = min(len(first), len(second))
    before, after = pooled(first[:size], second[:size])
    assert (before.sum(), after.sum()) == (sum(first[:size]), sum(second[:size]))
    rows = [before.sum(), after.sum()]
    if all(rows) and len(before) > 1:
        assert ((before + after) / sum(rows) * min(rows)).min() >= 5 - 1e-9


@given(NUMBERS, NUMBERS)
def test_kolmogorov_smirnov_is_symmetric_and_bounded(first: list[float], second: list[float]) -> None:
    found, turned = kolmogorov_smirnov(first, second), kolmogorov_smirnov(second, first)
    assert found.statistic == pytest.approx(turned.statistic)
    assert 0 <= found.statistic <= 1
    assert 0 <= found.p <= 1
    assert kolmogorov_smirnov(first, first).statistic == 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80))
def test_bins_rise(numbers: list[float]) -> None:
    edges = quantile_bins(numbers)
    assert len(edges) <= 9
    assert (np.diff(edges) > 0).all()


def test_nothing_is_compared_with_nothing() -> None:
    assert kolmogorov_smirnov([], [1.0]).p == 1
    assert chi_square([0, 0], [3, 4]).p == 1
    assert mmd(np.zeros((1, 2)), np.ones((5, 2))).p == 1
    assert mmd(np.zeros((5, 2)), np.zeros((5, 2)), permutations=19).p == 1
