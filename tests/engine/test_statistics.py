"""Intervals and paired tests against SciPy, published tables and seeded simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.core.errors import DataError, UsageError
from budwood.engine.statistics import (
    better,
    difference_interval,
    flip_rate,
    holm,
    interval,
    mcnemar,
    non_inferiority,
    rows_for_power,
    wilson,
)


def outcomes(n: int, worse: int, improved: int) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores of a parent and a child of whose n rows `worse` got lost and `improved` were won."""
    parent, child = np.ones(n), np.ones(n)
    child[:worse] = 0
    parent[worse : worse + improved] = 0
    return parent, child


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (45, 50), (500, 500), (2650, 3080)])
def test_interval_of_zero_one_scores_is_wilsons(right: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert interval([1.0] * right + [0.0] * (n - right)) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_interval_of_other_scores_is_the_bca_bootstrap() -> None:
    from scipy.stats import bootstrap

    scores = np.random.default_rng(1).beta(5, 1, 400)
    expected = bootstrap((scores,), np.mean, n_resamples=9999, method="BCa", rng=2).confidence_interval
    assert interval(scores) == pytest.approx((expected.low, expected.high), abs=1.5e-3)


def test_interval_covers_the_mean_of_skewed_scores_about_95_times_in_100() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(150):
        low, high = interval(generator.beta(8, 0.5, 100))
        hits += low <= 8 / 8.5 <= high
    assert 0.89 <= hits / 150 <= 0.99


def test_few_or_equal_scores_get_a_wide_interval_and_never_a_point() -> None:
    assert interval([0.5] * 100) == pytest.approx(wilson(0.5, 100, 1.959964), abs=1e-6)
    low, high = interval([0.9, 0.8, 1.0])
    assert high - low > 0.4


def test_few_small_scores_get_an_interval_of_their_own_scale() -> None:
    low, high = interval([0.004, 0.006, 0.005, 0.009, 0.003])
    assert 0.002 < low < 0.0054 < high < 0.012
    assert interval([1 - score for score in (0.004, 0.006, 0.005, 0.009, 0.003)]) == pytest.approx((1 - high, 1 - low))
    assert interval([0.0, 0.006, 0.005, 0.009, 0.003])[1] > 0.3, "with a 0 among them it may be hit or miss"


@pytest.mark.parametrize("n", [4, 12, 29])
def test_the_interval_of_few_scores_covers_their_mean(n: int) -> None:
    generator, hits = np.random.default_rng(4), 0
    for _ in range(400):
        low, high = interval(generator.beta(2, 98, n))
        hits += low <= 0.02 <= high
    assert 0.91 <= hits / 400 <= 0.98


def test_students_points_are_those_of_scipy() -> None:
    from scipy.stats import t

    from budwood.engine.few_scores import STUDENT

    assert pytest.approx(t.ppf(0.975, range(1, 29)), abs=1e-4) == STUDENT


def test_interval_is_the_same_every_time() -> None:
    scores = np.random.default_rng(5).random(200)
    assert interval(scores) == interval(scores)


def test_normal_interval_takes_over_smoothly_for_many_rows() -> None:
    scores = np.random.default_rng(6).beta(2, 1, 10_001)
    many, few = interval(scores), interval(scores[:10_000])
    assert many == pytest.approx(few, abs=5e-4)


@pytest.mark.parametrize(("scores", "error"), [([], DataError), ([0.5, math.nan], DataError), ([0.5, 1.1], UsageError)])
def test_interval_refuses_what_is_no_score(scores: list[float], error: type[Exception]) -> None:
    with pytest.raises(error):
        interval(scores)


@pytest.mark.parametrize(("worse", "improved"), [(0, 0), (1, 0), (5, 12), (30, 30), (400, 330)])
def test_mcnemar_is_the_exact_binomial_test(worse: int, improved: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(worse, worse + improved).pvalue if worse + improved else 1.0
    assert mcnemar(worse, improved) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("worse", "improved", "n"), [(7, 12, 150), (4, 4, 740), (30, 10, 500)])
def test_difference_interval_inverts_the_score_test(worse: int, improved: int, n: int) -> None:
    """Tango's closed form against a numerical maximum of the constrained likelihood."""
    from scipy.optimize import brentq, minimize_scalar

    def statistic(delta: float) -> float:
        def loss(share: float) -> float:
            cells = ((worse, share + delta), (improved, share), (n - worse - improved, 1 - delta - 2 * share))
            return -sum(count * math.log(max(cell, 1e-300)) for count, cell in cells)

        edges = (max(0.0, -delta), (1 - delta) / 2)
        share = minimize_scalar(loss, bounds=edges, method="bounded", options={"xatol": 1e-12}).x
        return float((worse - improved - n * delta) / math.sqrt(n * (2 * share + delta * (1 - delta))))

    drop = (worse - improved) / n
    low = brentq(lambda delta: statistic(delta) - 1.959964, -0.5, drop)
    high = brentq(lambda delta: statistic(delta) + 1.959964, drop, 0.5)
    parent, child = outcomes(n, worse, improved)
    assert difference_interval(parent - child, tail=0.025) == pytest.approx((low, high), abs=1e-5)


def test_no_differing_row_gives_the_rule_of_three() -> None:
    low, high = difference_interval(np.zeros(300), tail=0.05)
    assert high == pytest.approx(1 - 0.05 ** (1 / 300), abs=1e-8)
    assert low == -high


def test_difference_interval_of_other_scores_agrees_with_the_t_interval() -> None:
    from scipy.stats import ttest_1samp

    change = np.clip(np.random.default_rng(8).normal(0.02, 0.1, 600), -1, 1)
    expected = ttest_1samp(change, 0).confidence_interval(0.95)
    assert difference_interval(change, tail=0.025) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_a_few_small_differences_are_not_taken_for_certainty() -> None:
    change = np.zeros(200)
    change[0] = 0.3
    low, high = difference_interval(change, tail=0.05)
    assert high > 3 / 200 - 1e-3
    assert low < 0


@pytest.mark.parametrize(
    ("discordance", "gap", "rows"),
    [(0.012, 0.002, 18_500), (0.012, 0.005, 3_000), (0.012, 0.01, 740), (0.03, 0.02, 460), (0.06, 0.01, 3_700)],
)
def test_rows_for_power_follow_the_table_of_paired_designs(discordance: float, gap: float, rows: int) -> None:
    assert rows_for_power(discordance, gap) == pytest.approx(rows, rel=0.1)


def test_rows_for_power_are_never_fewer_than_a_perfect_child_needs() -> None:
    rows = rows_for_power(0.0, 0.01)
    assert rows == 299
    assert non_inferiority(np.ones(rows), np.ones(rows), 0.01).verdict == "PASS"
    assert non_inferiority(np.ones(rows - 1), np.ones(rows - 1), 0.01).verdict == "UNDECIDED"


def test_so_many_rows_do_decide_about_four_times_in_five() -> None:
    generator = np.random.default_rng(9)
    decided = 0
    for _ in range(300):
        luck = generator.random(rows_for_power(0.012, 0.01))
        parent, child = (luck >= 0.006) * 1.0, ((luck < 0.006) | (luck >= 0.012)) * 1.0
        decided += non_inferiority(parent, child, 0.01).verdict == "PASS"
    assert 0.68 <= decided / 300 <= 0.9


@pytest.mark.parametrize(("n", "improves"), [(300, 0.0), (300, 0.01), (1000, 0.004), (3000, 0.0)])
def test_a_child_that_is_exactly_too_bad_passes_at_most_6_times_in_100(n: int, improves: float) -> None:
    generator = np.random.default_rng(10)
    counts = generator.multinomial(n, [0.01 + improves, improves, 1 - 0.01 - 2 * improves], size=1500)
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    passed = 0
    for (worse, improved, _), count in zip(kinds.tolist(), times.tolist(), strict=True):
        change = np.concatenate([np.ones(worse), -np.ones(improved), np.zeros(n - worse - improved)])
        passed += count * (difference_interval(change, tail=0.05)[1] < 0.01)
    assert passed / 1500 <= 0.065


@pytest.mark.parametrize(
    ("n", "worse", "improved", "verdict"),
    [
        (3080, 18, 19, "PASS"),
        (3080, 120, 20, "FAIL"),
        (200, 2, 1, "UNDECIDED"),
        (200, 0, 0, "UNDECIDED"),
        (50, 0, 1, "UNDECIDED"),
        (50, 0, 6, "PASS"),
    ],
)
def test_three_verdicts(n: int, worse: int, improved: int, verdict: str) -> None:
    result = non_inferiority(*outcomes(n, worse, improved), 0.01)
    assert result.verdict == verdict
    assert result.drop == pytest.approx((worse - improved) / n)
    assert result.drop_ci[0] < result.lower < result.drop < result.upper < result.drop_ci[1]
    assert result.flips == pytest.approx((worse + improved) / n)
    assert (result.rows_needed is None) == (verdict != "UNDECIDED")
    assert result.rows_needed is None or result.rows_needed > n
    assert f"{n} rows" in result.why


@pytest.mark.parametrize(
    ("n", "worse", "improved", "rows"),
    [
        (119, 1, 0, 520),  # one row says nothing of the drop: plan for a child that is as good
        (1000, 9, 3, 4637),  # 742 rows were not enough, so the drop of 0.6 points is taken at its word
        (200, 0, 0, 299),
    ],
)
def test_rows_needed_are_more_than_there_are(n: int, worse: int, improved: int, rows: int) -> None:
    result = non_inferiority(*outcomes(n, worse, improved), 0.01)
    assert result.verdict == "UNDECIDED"
    assert result.rows_needed == pytest.approx(rows, rel=0.01)


def test_a_drop_at_the_limit_itself_is_never_decided() -> None:
    result = non_inferiority(*outcomes(1000, 11, 1), 0.01)
    assert (result.verdict, result.rows_needed) == ("UNDECIDED", None)


def test_nothing_can_prove_that_equal_models_do_not_differ_at_all() -> None:
    result = non_inferiority(np.ones(500), np.ones(500), 0.0)
    assert (result.verdict, result.rows_needed) == ("UNDECIDED", None)
    assert "no number of rows" in result.why


def test_max_drop_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="0 <= max_drop < 1"):
        non_inferiority([1.0], [1.0], 1.0)


def test_better_says_how_much_better_the_second_is() -> None:
    baseline, adapted = outcomes(400, 10, 40)
    result = better(baseline, adapted)
    assert result.difference == pytest.approx(0.075)
    assert result.ci[0] < 0.075 < result.ci[1]
    assert (result.n_differ, result.n, result.significant) == (50, 400, True)
    assert result.p == mcnemar(10, 40)
    assert better(adapted, baseline).difference == -result.difference


def test_better_of_other_scores_agrees_with_the_t_test() -> None:
    from scipy.stats import ttest_rel

    generator = np.random.default_rng(12)
    a = generator.random(80)
    b = np.clip(a + generator.normal(0.01, 0.05, 80), 0, 1)
    assert better(a, b).p == pytest.approx(ttest_rel(b, a).pvalue, abs=0.02)


def test_scores_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="3 and 2 scores"):
        better([1, 0, 1], [1, 0])


def test_flip_rate_counts_both_directions() -> None:
    assert flip_rate(*outcomes(10, 1, 2)) == pytest.approx(0.3)


def test_holm_is_the_step_down_adjustment() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_intervals_hold_the_estimate_and_mirror(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    forth, back = better(a, b), better(b, a)
    assert -1 <= forth.ci[0] <= forth.difference + 1e-9
    assert forth.difference - 1e-9 <= forth.ci[1] <= 1
    assert forth.ci == pytest.approx((-back.ci[1], -back.ci[0]))
    assert 0 < forth.p <= 1
