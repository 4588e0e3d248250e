"""Metrics against scikit-learn and against values that are known by hand."""

import math

import numpy as np
import pytest

from budwood.engine import molecule_metrics
from budwood.engine import number_metrics as metrics


@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_are_those_of_scikit_learn(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, 200)
    scores = (random.normal(size=200) + truth).round(1)  # with ties
    assert metrics.roc_auc(scores, truth) == pytest.approx(sklearn.roc_auc_score(truth, scores))
    assert metrics.average_precision(scores, truth) == pytest.approx(sklearn.average_precision_score(truth, scores))
    span = metrics.roc_auc_interval(scores, truth)
    assert span is not None
    low, high = span
    assert low < metrics.roc_auc(scores, truth) < high


def test_delong_intervals_hold_the_true_area_in_95_of_100_samples() -> None:
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], [90, 30])
    true_area = 0.5 * (1 + math.erf(1 / 2))  # two normals whose means differ by 1
    held = 0
    for _ in range(300):
        span = metrics.roc_auc_interval(random.normal(size=120) + truth, truth)
        assert span is not None
        low, high = span
        held += low <= true_area <= high
    assert 0.92 <= held / 300 <= 0.98


def test_one_class_alone_has_no_area() -> None:
    assert math.isnan(metrics.roc_auc([0.1, 0.2], [1, 1]))
    assert metrics.roc_auc_interval([0.1, 0.2], [1, 1]) is None
    assert set(metrics.ranking_metrics([0.1, 0.2], [1, 1])) == {"brier"}
    assert math.isnan(molecule_metrics.enrichment([0.1], [0]))
    assert math.isnan(molecule_metrics.bedroc([0.1], [0]))


def test_no_interval_of_the_area_where_rows_are_too_few_or_say_nothing() -> None:
    truth = np.repeat([0, 1], [20, 9])
    assert metrics.roc_auc_interval(truth + np.random.default_rng(0).normal(size=29), truth) is None, "9 of a class"
    assert metrics.roc_auc_interval([0.1, 0.2, 0.3, 0.8, 0.9], [0, 0, 0, 1, 1]) is None
    truth = np.repeat([0, 1], [10, 10])
    assert metrics.roc_auc_interval(np.full(20, 0.5), truth) is None, "all scores are equal"
    perfect = metrics.roc_auc_interval(truth, truth)
    assert perfect is not None
    assert perfect == pytest.approx((0.05 ** (1 / 10), 1.0)), "the rule of three"
    assert metrics.bootstrap_interval(np.ones((30, 1)), np.zeros((30, 1)), "rmse") is None, "all resamples agree"


def test_enrichment_counts_the_best_hundredth() -> None:
    truth = np.zeros(1000)
    truth[:20] = 1
    scores = -np.arange(1000.0)
    assert molecule_metrics.enrichment(scores, truth) == pytest.approx(50.0)
    assert molecule_metrics.enrichment(-scores, truth) == 0.0
    assert molecule_metrics.enrichment(np.zeros(1000), truth) == pytest.approx(1.0), "ties count as expected"


def test_bedroc_is_1_for_a_perfect_list_0_for_the_worst_and_that_of_rdkit() -> None:
    truth = np.zeros(500)
    truth[:25] = 1
    scores = -np.arange(500.0)
    assert molecule_metrics.bedroc(scores, truth) == pytest.approx(1.0, abs=1e-6)
    assert molecule_metrics.bedroc(-scores, truth) == pytest.approx(0.0, abs=1e-6)
    scoring = pytest.importorskip("rdkit.ML.Scoring.Scoring", reason="molecules need the extra chem")
    order = np.random.default_rng(1).permutation(500)
    expected = scoring.CalcBEDROC([[int(item)] for item in truth[order]], 0, 20.0)
    assert molecule_metrics.bedroc(scores, truth[order]) == pytest.approx(expected, abs=1e-6)


def test_regression_metrics_by_hand() -> None:
    found = metrics.regression_metrics([1.0, 2.0, 4.0], [1.0, 3.0, 4.0])
    assert found["rmse"] == pytest.approx((1 / 3) ** 0.5)
    assert found["mae"] == pytest.approx(1 / 3)
    assert found["spearman"] == pytest.approx(1.0)
    assert found["r2"] == pytest.approx(1 - (1 / 3) / np.var([1, 3, 4]))
    assert set(metrics.regression_metrics([1.0], [2.0])) == {"rmse", "mae"}


def test_intervals_of_several_properties_come_from_resampled_molecules() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((200, 2)) < 0.5).astype(float)
    truth[::3, 1] = np.nan
    scores = np.nan_to_num(truth) + random.normal(0, 1, truth.shape)
    found = metrics.bootstrap_interval(scores, truth, "roc_auc")
    assert found is not None
    known = np.isfinite(truth[:, 1])
    mean = (metrics.roc_auc(scores[:, 0], truth[:, 0]) + metrics.roc_auc(scores[known, 1], truth[known, 1])) / 2
    assert found[0] < mean < found[1]
    assert metrics.bootstrap_interval(scores, np.ones((200, 2)), "roc_auc") is None, "one class only"
    one = metrics.bootstrap_interval(scores[:, :1], truth[:, :1], "rmse")
    assert one is not None
    assert one[0] < np.sqrt(((scores[:, 0] - truth[:, 0]) ** 2).mean()) < one[1]
