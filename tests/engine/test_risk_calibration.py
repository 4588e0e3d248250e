"""Platt's calibration, conformal widths and bins: honest on new rows, and silent where rows are too few."""

import numpy as np
import pytest

from budwood.engine import risk_calibration as calibration
from budwood.engine.calibrate import expected_calibration_error


def overconfident(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are twice too large and 1.5 too high, and what happened."""
    random = np.random.default_rng(seed)
    true = random.normal(-1, 1.5, rows)
    return 2 * true + 1.5, (random.random(rows) < calibration.sigmoid(true)).astype(float)


def test_platt_finds_slope_and_offset_and_makes_new_rows_honest():
    fitted = calibration.fit_platt(*overconfident(4000, 0))
    assert fitted["slope"] == pytest.approx(0.5, abs=0.04)
    assert fitted["offset"] == pytest.approx(-0.75, abs=0.1)
    logits, happened = overconfident(4000, 1)
    before, after = (
        expected_calibration_error(calibration.sigmoid(values)[:, None], happened[:, None])
        for values in (logits, calibration.rescaled(logits, fitted))
    )
    assert after < 0.03 < 0.1 < before


def test_a_model_without_an_error_does_not_become_infinitely_sure():
    logits = np.concatenate([np.full(30, -5.0), np.full(30, 5.0)])
    fitted = calibration.fit_platt(logits, (logits > 0).astype(float))
    assert np.abs(calibration.rescaled(logits, fitted)).max() < 6


@pytest.mark.parametrize(("rows", "happened"), [(10, [0.0, 1.0]), (40, [0.0]), (40, [1.0])])
def test_few_rows_or_one_outcome_fit_nothing(rows, happened):
    truth = np.resize(happened, rows)
    assert calibration.fit_platt(np.linspace(-1, 1, rows), truth) == {}


@pytest.mark.parametrize("rows", [30, 200])
def test_conformal_intervals_hold_nine_of_ten_new_values(rows):
    random = np.random.default_rng(0)
    held = []
    for _ in range(400):
        half = calibration.conformal_width(random.standard_t(4, rows))["half_90"]
        held.append(np.mean(np.abs(random.standard_t(4, 200)) <= half))
    assert 0.9 <= np.mean(held) + 0.005 < 0.95
    assert calibration.conformal_width(np.ones(19)) == {}


@pytest.mark.parametrize(("rows", "rank"), [(20, 19), (29, 27), (99, 90), (100, 91)])
def test_the_width_is_the_error_of_the_conformal_rank(rows, rank):
    errors = np.random.default_rng(0).permutation(np.arange(1.0, rows + 1)) * np.resize([1, -1], rows)
    assert calibration.conformal_width(errors) == {"half_90": rank}


def test_what_is_not_fitted_leaves_risks_as_they_are():
    assert calibration.platt(np.zeros(5), np.ones(5)) == {"slope": 1.0, "offset": 0.0}
    fitted = calibration.platt(*overconfident(4000, 0))
    assert fitted == calibration.fit_platt(*overconfident(4000, 0))


def test_bins_hold_a_fifth_each_and_users_edges_go_first():
    values = np.random.default_rng(0).lognormal(size=1000)
    fitted = calibration.bin_edges(values)
    edges = calibration.edges_in(fitted)
    names = [calibration.bin_name(value, edges) for value in values]
    assert [names.count(name) for name in ("very low", "low", "moderate", "high", "very high")] == [200] * 5
    assert calibration.edges_in(fitted, (1.0,)) == (1.0,)
    assert [calibration.bin_name(value, (1.0,)) for value in (0.5, 1.0)] == ["low", "high"]
    assert calibration.bin_name(3, (1.0, 2.0, 3.0, 4.0, 5.0)) == "4 of 6"
    assert calibration.bin_edges(np.ones(100)) == {}
    assert calibration.edges_in({}) == ()
