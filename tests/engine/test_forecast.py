"""The learning curve and what it promises of twice the rows."""

import numpy as np
import pytest

from budwood.engine.forecast import MIN_ROWS, forecast, next_gain

pytest.importorskip("sklearn")


def blobs(count: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(4, 24)) * apart
    targets = np.arange(count) % 4
    return (centres[targets] + random.normal(size=(count, 24))).astype(np.float32), targets


def test_a_power_law_is_continued_at_most():
    errors = [0.4, 0.3, 0.225]
    assert next_gain(errors, 1.0) == pytest.approx(0.225 * 0.25)
    assert next_gain(errors) < next_gain(errors, 1.0)


def test_no_gain_is_promised_when_the_error_rose():
    assert next_gain([0.2, 0.1, 0.12]) == 0.0


def test_a_hard_set_promises_more_than_one_that_is_solved():
    hard = forecast(*blobs(240, 0.35), 4, 1.0, seed=0)
    solved = forecast(*blobs(240, 3.0), 4, 1.0, seed=0)
    assert hard is not None
    assert solved is not None
    assert hard.gain > solved.gain
    assert hard.ci[0] <= hard.gain <= hard.ci[1]
    assert list(hard.sizes) == sorted(hard.sizes)
    assert hard.scores[-1] > hard.scores[0]


def test_the_promise_holds_on_rows_that_come_later():
    embeddings, targets = blobs(2400, 0.35)
    seen = forecast(embeddings[:400], targets[:400], 4, 1.0, seed=0)
    later = forecast(embeddings[:800], targets[:800], 4, 1.0, seed=0)
    assert seen is not None
    assert later is not None
    assert seen.ci[0] <= later.scores[-1] - seen.scores[-1] <= seen.ci[1]


def test_the_same_seed_gives_the_same_curve():
    assert forecast(*blobs(120, 0.5), 4, 1.0, seed=3) == forecast(*blobs(120, 0.5), 4, 1.0, seed=3)


def test_too_few_rows_or_sets_of_labels_give_none():
    embeddings, targets = blobs(MIN_ROWS - 1, 1.0)
    assert forecast(embeddings, targets, 4, 1.0, seed=0) is None
    embeddings, targets = blobs(MIN_ROWS, 1.0)
    assert forecast(embeddings, np.eye(4, dtype=np.float32)[targets], 4, 1.0, seed=0) is None
