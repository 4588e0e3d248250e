"""What a drop means for writers: the same share of perplexity, whatever the perplexity is."""

import numpy as np
import pytest

from budwood.engine.statistics import no_loss
from budwood.tasks.text_generation import TextGeneration


@pytest.mark.parametrize("perplexity", [3.0, 60.0])
def test_a_point_of_drop_is_one_percent_more_perplexity(perplexity: float) -> None:
    task = TextGeneration()
    parent = np.full(400, 1 / perplexity)
    rise = 1.02 * np.exp(np.random.default_rng(0).normal(0, 0.02, 400))
    losses = task.losses(parent, parent / rise)
    verdict = no_loss(losses, max_drop=0.03)
    assert verdict.drop == pytest.approx(np.log(1.02), abs=0.003)
    assert verdict.verdict == "PASS"
    assert no_loss(losses, max_drop=0.01).verdict == "FAIL"
    better = no_loss(task.losses(parent, parent * 1.2 / rise), max_drop=0.01)
    assert better.drop == pytest.approx(np.log(1.02 / 1.2), abs=0.003)
    assert better.verdict == "PASS"


def test_a_few_broken_texts_count_in_full() -> None:
    """A bounded score hid them: two rows of a hundred that became nonsense are a rise of 12 %, and not of 1 %."""
    losses = np.zeros(1000)
    losses[:20] = 6.0
    verdict = no_loss(losses, max_drop=0.03)
    assert verdict.drop == pytest.approx(0.12)
    assert verdict.verdict != "PASS"
    zero = TextGeneration().losses(np.array([0.2]), np.array([0.0]))
    assert np.isfinite(zero).all()
    assert zero[0] > 20


def test_a_few_texts_prove_a_small_rise_where_they_agree() -> None:
    rises = np.random.default_rng(1).normal(0.002, 0.004, 20)
    verdict = no_loss(rises, max_drop=0.01)
    assert verdict.verdict == "PASS"
    from scipy import stats

    low, high = stats.t.interval(0.90, 19, rises.mean(), rises.std(ddof=1) / np.sqrt(20))
    assert (verdict.lower, verdict.upper) == pytest.approx((low, high), rel=0.01)
    assert no_loss(rises + 0.008, max_drop=0.01).verdict == "UNDECIDED"
    assert no_loss(rises[:9], max_drop=0.01).verdict == "UNDECIDED", "too few to tell how they vary"
