"""Linear heads for numbers: ridge regression as scikit-learn fits it, penalties by rows left out, groups kept whole."""

import numpy as np
import pytest

from budwood.engine.head_fit import fitter, folds_of

ROWS = 60


def rows(groups: int | None = None) -> list[dict[str, object]]:
    return [
        {"sha256": str(number), **({} if groups is None else {"group": str(number % groups)})} for number in range(ROWS)
    ]


@pytest.mark.parametrize("width", [5, 200])
def test_ridge_is_that_of_scikit_learn(width):
    sklearn = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    seen = random.normal(3, 1, (ROWS, width)).astype(np.float32)
    wanted = random.normal(size=(ROWS, 1)).astype(np.float32)
    weight, bias = fitter("numbers").fit(seen, wanted, 1, 0.5)
    scale = np.sqrt(np.mean(np.sum(seen.astype(float) ** 2, axis=1)))
    reference = sklearn.Ridge(alpha=2.0).fit(seen / scale, wanted[:, 0])
    assert seen @ weight[0] + bias[0] == pytest.approx(reference.predict(seen / scale), abs=1e-3)


def test_a_strong_penalty_is_chosen_for_noise_and_a_weak_one_for_a_law():
    random = np.random.default_rng(1)
    seen = random.normal(size=(ROWS, 40)).astype(np.float32)
    penalties = (0.01, 1.0, 100.0)
    noise = random.normal(size=(ROWS, 1)).astype(np.float32)
    law = seen[:, :1] * 2 + 1
    assert fitter("numbers").choose(seen, noise, 1, rows(), 0, penalties) == 0.01
    assert fitter("numbers").choose(seen, law, 1, rows(), 0, penalties) == 100.0


def test_rows_left_out_are_foretold_without_themselves_and_their_group():
    random = np.random.default_rng(2)
    patients = random.normal(size=(12, 30))
    seen = patients[np.arange(ROWS) % 12].astype(np.float32)
    wanted = random.normal(size=(12, 1))[np.arange(ROWS) % 12].astype(np.float32)
    apart = fitter("numbers").left_out(seen, wanted, rows(groups=12), 1000.0, 0)
    mixed = fitter("numbers").left_out(seen, wanted, rows(), 1000.0, 0)
    assert np.mean((mixed - wanted) ** 2) < 0.05, "a patient's other images give the answer away"
    assert np.mean((apart - wanted) ** 2) > 0.5


def test_folds_hold_every_row_once_and_no_group_twice():
    for given in (rows(), rows(groups=7), rows(groups=1)):
        folds = folds_of(given, 0)
        assert sorted(np.concatenate(folds).tolist()) == list(range(ROWS))
        assert 2 <= len(folds) <= 10, "a few fits, also where all rows are of one group"
        if len({row.get("group") for row in given}) > 1:
            found = [{given[i]["group"] for i in fold} for fold in folds]
            assert sum(map(len, found)) == len(set().union(*found))


def test_an_unknown_kind_is_an_error():
    with pytest.raises(KeyError):
        fitter("boxes")
