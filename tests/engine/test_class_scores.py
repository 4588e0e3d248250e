"""What tasks with one label a row share: answers, metrics, and selective prediction."""

import numpy as np
import pytest

from budwood.core.errors import DataError
from budwood.engine.class_scores import best_labels, class_metrics, class_names, class_numbers, selective


def test_answers_are_ordered_and_rounded():
    (answer,) = best_labels(("a", "b", "c"), np.asarray([[0.2, 0.5000004, 0.2999996]]), top=2)
    assert answer == {"label": "b", "score": 0.5, "scores": {"b": 0.5, "c": 0.3}}
    assert list(answer["scores"]) == ["b", "c"]


def test_macro_f1_and_worst_recall_count_the_labels_that_occur():
    given = [{"a"}, {"a"}, {"b"}, {"c"}]
    actual = [{"a"}, {"b"}, {"b"}, {"a"}]
    found = class_metrics(("a", "b", "c", "d"), given, actual)
    assert found == {"macro_f1": pytest.approx((0.5 + 2 / 3) / 2), "worst_class_recall": 0.5}
    assert class_metrics(("a",), [], []) == {}


def test_the_surest_answers_are_the_most_accurate():
    confidence = np.linspace(1.0, 0.01, 100)
    right = np.asarray([1.0] * 60 + [0.0] * 40)
    found = selective(confidence, right)
    assert found["accuracy_at_80_coverage"] == 60 / 80
    assert found["coverage_at_95_accuracy"] == pytest.approx(63 / 100)
    assert found["threshold_for_95_accuracy"] == confidence[62]


def test_a_threshold_keeps_equal_confidences_together():
    found = selective([0.9] * 30 + [0.5] * 10, np.asarray([1.0] * 30 + [0.0] * 10))
    assert found["threshold_for_95_accuracy"] == 0.9
    assert found["coverage_at_95_accuracy"] == 0.75


def test_no_threshold_where_none_is_reached_or_rows_are_few():
    assert set(selective([0.9] * 40, np.zeros(40))) == {"accuracy_at_80_coverage"}
    assert set(selective([0.9] * 5, np.ones(5))) == {"accuracy_at_80_coverage"}
    assert selective([], np.zeros(0)) == {}


def test_labels_come_from_the_rows():
    rows = [{"label": "b"}, {"label": "a"}, {"label": "b"}]
    assert class_names(rows) == ("a", "b")
    assert class_numbers(("a", "b"), rows).tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="the same label"):
        class_names(rows[:1])
    with pytest.raises(DataError, match="no label or several"):
        class_names([{"label": ["a"]}])
    with pytest.raises(DataError, match="unknown") as caught:
        class_numbers(("b",), rows)
    assert caught.value.where == "row 2"
