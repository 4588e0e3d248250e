"""Temperature scaling finds the temperature that data were made with, and never makes matters worse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.core.errors import DataError
from budwood.engine.calibrate import (
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
)


def softmax_data(temperature: float, rows: int = 4000, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the honest probabilities, and logits that are too sure by `temperature`."""
    generator = np.random.default_rng(0)
    honest = generator.normal(0, 2, (rows, labels))
    chosen = (probabilities(honest).cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1)
    return honest * temperature, np.minimum(chosen, labels - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_softmax_temperature_is_found(temperature: float) -> None:
    logits, targets = softmax_data(temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.06)


def test_sigmoid_temperature_is_found() -> None:
    generator = np.random.default_rng(1)
    honest = generator.normal(0, 2, (2000, 4))
    targets = (generator.random(honest.shape) < probabilities(honest, multi_label=True)).astype(np.float32)
    assert fit_temperature(honest * 3, targets) == pytest.approx(3.0, rel=0.06)


def test_the_minimum_is_that_of_scipy() -> None:
    from scipy.optimize import minimize_scalar

    logits, targets = softmax_data(1.8, rows=3000)
    best = minimize_scalar(lambda t: negative_log_likelihood(logits, targets, t), bounds=(0.1, 10), method="bounded")
    assert fit_temperature(logits, targets) == pytest.approx(best.x, rel=5e-3)


def test_calibration_error_falls_and_answers_stay() -> None:
    logits, targets = softmax_data(3.0)
    before, after = probabilities(logits), probabilities(logits, fit_temperature(logits, targets))
    assert expected_calibration_error(before, targets) > 0.1
    assert expected_calibration_error(after, targets) < 0.03
    assert brier(after, targets) < brier(before, targets)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()


def test_calibration_error_by_hand() -> None:
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    targets = np.array([0, 1, 1, 1])
    # One bin holds 0.9, 0.9 with accuracy 0.5; two bins hold one row each.
    expected = 2 / 4 * 0.4 + 1 / 4 * 0.4 + 1 / 4 * 0.35
    assert expected_calibration_error(probability, targets) == pytest.approx(expected)
    assert brier(probability, targets) == pytest.approx((0.02 + 1.62 + 0.32 + 0.245) / 4)


def test_multi_label_measures_count_every_label() -> None:
    probability, targets = np.array([[0.8, 0.2]]), np.array([[1.0, 0.0]])
    assert expected_calibration_error(probability, targets) == pytest.approx(0.2)
    assert brier(probability, targets) == pytest.approx(0.04)


def test_a_model_without_an_error_does_not_become_infinitely_sure() -> None:
    targets = np.arange(40) % 2
    logits = np.where(np.eye(2)[targets] > 0, 1.0, -1.0)
    temperature = fit_temperature(logits, targets)
    assert 0.2 < temperature < 1.0
    assert probabilities(logits, temperature).max() < 0.995


def test_few_rows_are_left_alone() -> None:
    logits, targets = softmax_data(4.0, rows=19)
    assert fit_temperature(logits, targets) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 50.0), st.booleans())
def test_never_worse_than_no_scaling(seed: int, scale: float, multi_label: bool) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, scale, (25, 3))
    targets = generator.integers(0, 2, (25, 3)) if multi_label else generator.integers(0, 3, 25)
    temperature = fit_temperature(logits, targets)
    assert 0.05 <= temperature <= 20.0
    assert negative_log_likelihood(logits, targets, temperature) <= negative_log_likelihood(logits, targets)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4, int), "do not fit"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "out of range"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "not finite"),
        (np.zeros((0, 2)), np.zeros(0, int), "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(logits: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_temperature(logits, targets)
