"""Hazards, survival curves and Harrell's C, against values known by hand and against simulation."""

import numpy as np
import pytest

from budwood.engine import survival
from budwood.engine.head_fit import fitter

ENDS = (10.0, 20.0, 30.0)


def test_targets_say_what_was_seen_of_each_period():
    times = np.asarray([5.0, 15.0, 15.0, 30.0, 40.0, 10.0])
    events = np.asarray([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    found = survival.hazard_targets(times, events, ENDS)
    nan = np.nan
    expected = [[1, nan, nan], [0, 1, nan], [0, nan, nan], [0, 0, 0], [0, 0, 0], [0, nan, nan]]
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))


def test_a_curve_is_the_product_of_what_is_left():
    hazards = np.asarray([[0.1, 0.5, 0.25]])
    curve = survival.survival_curve(np.log(hazards / (1 - hazards)))
    assert curve[0] == pytest.approx([0.9, 0.45, 0.3375])
    risks = [float(survival.risk_at(curve, ENDS, time)[0]) for time in (0, 5, 10, 15, 30, 99)]
    assert risks == pytest.approx([0, 0.05, 0.1, 0.325, 0.6625, 0.6625])


def test_periods_hold_about_equally_many_events():
    times = np.arange(1.0, 201.0)
    events = np.ones(200)
    ends = survival.periods_of(times, events)
    assert len(ends) == survival.PERIODS
    counts = np.diff(np.searchsorted(times, [0.0, *ends], side="right"))
    assert counts.max() - counts.min() <= 2
    assert survival.periods_of(times, np.zeros(200)) == ()
    assert len(survival.periods_of(np.asarray([1.0, 1.0, 2.0]), np.ones(3))) == 2


def test_concordance_by_hand():
    risk = np.asarray([0.9, 0.5, 0.5, 0.1])
    times, events = np.asarray([1.0, 2.0, 3.0, 4.0]), np.asarray([1.0, 1.0, 0.0, 1.0])
    # Known orders: 0 before 1, 2, 3; 1 before 2 (a tie of risks) and 3.
    assert survival.concordance(risk, times, events) == pytest.approx(4.5 / 5)
    assert survival.concordance(-risk, times, events) == pytest.approx(0.5 / 5)
    assert np.isnan(survival.concordance(risk, times, np.zeros(4)))


def test_what_came_true_at_once_has_no_error():
    targets = survival.hazard_targets(np.asarray([5.0, 40.0]), np.asarray([1.0, 0.0]), ENDS)
    assert survival.squared_errors(np.asarray([[0, 0, 0], [1, 1, 1]], float), targets) == pytest.approx([0, 0])
    assert survival.squared_errors(np.asarray([[1, 1, 1], [1, 1, 1]], float), targets) == pytest.approx([1, 0])


def test_a_row_of_which_nothing_is_known_counts_as_the_others_do():
    targets = survival.hazard_targets(np.asarray([5.0, 40.0, 40.0]), np.asarray([0.0, 0.0, 0.0]), ENDS)
    curve = np.asarray([[0.5] * 3, [0.6] * 3, [0.8] * 3])
    assert survival.squared_errors(curve, targets) == pytest.approx([0.1, 0.16, 0.04])
    assert survival.squared_errors(curve[:1], targets[:1]) == pytest.approx([1.0]), "nothing is known at all"


def test_the_chance_of_being_watched_by_hand():
    times, events = np.asarray([1.0, 2.0, 2.0, 3.0, 4.0]), np.asarray([0.0, 1.0, 0.0, 1.0, 0.0])
    found = survival.still_watched(times, events, np.asarray([0.5, 1.0, 1.5, 2.0, 3.0, 4.0]))
    # One of 5 leaves at 1; at 2 one of the 3 that the event has left; nobody at 3.
    assert found == pytest.approx([1, 1, 0.8, 0.8, 0.8 * 2 / 3, 0.8 * 2 / 3])


def test_the_brier_score_of_rows_that_are_watched_for_a_while_is_that_of_all():
    random = np.random.default_rng(0)
    rows, horizon = 40_000, 100.0
    rate = np.exp(random.normal(-5, 1, rows))
    times, watched = random.exponential(1 / rate), random.exponential(150, rows)
    risk = 0.6 * (1 - np.exp(-rate * horizon))
    truth = float(np.mean((risk - (times <= horizon)) ** 2))
    seen, events = np.minimum(times, watched), (times <= watched).astype(float)
    known = (seen >= horizon) | (events > 0)
    naive = float(np.mean((risk - ((seen <= horizon) & (events > 0)))[known] ** 2))
    assert survival.brier_at(risk, seen, events, horizon) == pytest.approx(truth, abs=0.006)
    assert abs(naive - truth) > 0.02
    everything = survival.brier_at(risk, times, np.ones(rows), horizon)
    assert everything == pytest.approx(truth, abs=1e-9), "nobody was lost"


def test_a_fitted_head_foretells_the_true_risks():
    pytest.importorskip("scipy")
    random = np.random.default_rng(0)
    signs = random.normal(size=(3000, 4)).astype(np.float32)
    times = random.exponential(100 * np.exp(-signs[:, 0]))
    watched = random.uniform(20, 300, len(times))
    seen, events = np.minimum(times, watched), (times <= watched).astype(float)
    ends = survival.periods_of(seen, events)
    weight, bias = fitter("hazards").fit(signs, survival.hazard_targets(seen, events, ends), len(ends), 100.0)
    curve = survival.survival_curve(signs @ weight.T + bias)
    risk = survival.risk_at(curve, ends, 80.0)
    assert np.corrcoef(risk, 1 - np.exp(-80 / (100 * np.exp(-signs[:, 0]))))[0, 1] > 0.98
    assert risk.mean() == pytest.approx((times <= 80).mean(), abs=0.02)
    assert survival.concordance(risk, seen, events) == pytest.approx(
        survival.concordance(signs[:, 0].astype(float), seen, events), abs=0.01
    )
