"""What a drop means for writers: the same share of perplexity, whatever the perplexity is."""

import numpy as np
import pytest

from budwood.engine.statistics import non_inferiority
from budwood.tasks.text_generation import TextGeneration


@pytest.mark.parametrize("perplexity", [3.0, 60.0])
def test_a_point_of_drop_is_one_percent_more_perplexity(perplexity: float) -> None:
    task = TextGeneration()
    parent = np.full(400, 1 / perplexity)
    rise = 1.02 * np.exp(np.random.default_rng(0).normal(0, 0.02, 400))
    pair = task.paired(parent, parent / rise)
    verdict = non_inferiority(*pair, max_drop=0.03)
    assert verdict.drop == pytest.approx(np.log(1.02), abs=0.003)
    assert verdict.verdict == "PASS"
    assert non_inferiority(*pair, max_drop=0.01).verdict == "FAIL"
    better = non_inferiority(*task.paired(parent, parent * 1.2 / rise), max_drop=0.01)
    assert better.drop == pytest.approx(np.log(1.02 / 1.2), abs=0.003)
    assert better.verdict == "PASS"
