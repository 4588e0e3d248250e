"""What a report tells of the answers: counted by hand, and right in expectation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny

from budwood.engine.card import ClassFacts
from budwood.engine.images import plain_png
from budwood.engine.measure import Scores
from budwood.engine.report_facts import (
    MOST_DISTANT,
    MOST_MISTAKES,
    Outcome,
    macro_f1_interval,
    outcome_of,
    reliability,
    shortened,
)
from budwood.tasks.image_regression import ImageRegression
from budwood.tasks.text_classification import TextClassification

ROWS: list[dict[str, Any]] = [
    {"text": "one", "label": "a"},
    {"text": "two", "label": "a"},
    {"text": "three\n\tof <b>them</b>", "label": "b"},
    {"text": "four", "label": "b"},
]
LOGITS = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9]]))


def scored(task: TextClassification, rows: list[dict[str, Any]], logits: Any, calibration: dict[str, float]) -> Scores:
    answers = task.decode({"logits": logits}, calibration, 3)
    per_row = task.row_scores(answers, rows)
    metrics = task.metrics(answers, rows)
    return Scores(task.metric, per_row, float(per_row.mean()), (0.0, 1.0), metrics, answers, 0.0, logits)


def told(task: TextClassification, rows: list[dict[str, Any]], logits: Any, **calibration: float) -> Outcome:
    return outcome_of(task, rows, scored(task, rows, logits, calibration), calibration)


def test_one_label_a_row() -> None:
    outcome = told(TextClassification(("a", "b")), ROWS, LOGITS)
    assert outcome.confusion is not None
    assert outcome.confusion.tolist() == [[1, 1], [1, 1]]
    assert outcome.classes == (ClassFacts("a", 0.5, 0.5, 2), ClassFacts("b", 0.5, 0.5, 2))
    assert [(item.text, item.label, item.answer) for item in outcome.mistakes] == [
        ("three of <b>them</b>", "b", "a"),
        ("two", "a", "b"),
    ]
    assert [item.confidence for item in outcome.mistakes] == pytest.approx([0.9, 0.6])
    assert outcome.after is not None
    assert outcome.after == outcome.before
    assert outcome.after.confidence == pytest.approx([0.6, 0.8, 0.9])
    assert outcome.after.accuracy == pytest.approx([0.0, 1.0, 0.5])
    assert outcome.after.rows == (1, 1, 2)
    assert outcome.after.ece == pytest.approx((0.6 + 0.2 + 2 * 0.4) / 4)
    assert outcome.after.brier == pytest.approx(2 * (0.2**2 + 0.6**2 + 0.9**2 + 0.1**2) / 4)


def test_the_temperature_tells_before_from_after() -> None:
    outcome = told(TextClassification(("a", "b")), ROWS, LOGITS, temperature=2.0)
    assert outcome.before is not None
    assert outcome.after is not None
    assert max(outcome.before.confidence) > max(outcome.after.confidence)
    assert outcome.mistakes[0].confidence == pytest.approx(0.75)  # (1 + sqrt(1/9))**-1


def test_several_labels_a_row() -> None:
    rows = [{"text": "one", "label": ["a", "b"]}, {"text": "two", "label": []}, {"text": "three", "label": ["b"]}]
    logits = np.array([[2.0, -3.0], [-1.0, -1.0], [-2.0, 2.0]])
    outcome = told(TextClassification(("a", "b"), multi_label=True), rows, logits)
    assert outcome.multi_label
    assert outcome.confusion is None
    assert outcome.classes == (ClassFacts("b", 0.5, 1.0, 2), ClassFacts("a", 1.0, 1.0, 1))
    (mistake,) = outcome.mistakes
    assert (mistake.label, mistake.answer) == ("a, b", "a")
    assert mistake.confidence == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert outcome.after is not None
    assert sum(outcome.after.rows) == 6


def test_labels_that_are_numbers() -> None:
    rows = [{"text": str(number), "label": float(number)} for number in range(5)]
    answers = [{"value": number + (0.5 if number == 3 else 0.0)} for number in range(5)]
    per_row = np.array([1.0, 1.0, 1.0, 0.9, 1.0])
    scores = Scores("score", per_row, 0.98, (0.9, 1.0), {}, answers, 0.0)
    outcome = outcome_of(TextClassification(("a", "b")), rows, scores, {})
    assert outcome.numbers is not None
    assert outcome.numbers[3].tolist() == [3.0, 3.5]
    assert [(item.label, item.answer, item.confidence) for item in outcome.mistakes] == [("3", "3.5", None)]
    assert outcome.classes == ()


def test_rows_without_labels_tell_nothing() -> None:
    scores = Scores("score", np.array([0.5]), 0.5, (0.1, 0.9), {}, [{"text": "x"}], 0.0)
    assert outcome_of(TextClassification(("a", "b")), [{"text": "x"}], scores, {}) == Outcome()


def test_no_more_than_so_many_rows_are_told() -> None:
    rows = [{"text": f"{number}" * 400, "label": "a"} for number in range(40)]
    outcome = told(TextClassification(("a", "b")), rows, np.tile([0.0, 1.0], (40, 1)))
    assert len(outcome.mistakes) == MOST_MISTAKES
    assert all(len(item.text) <= 300 and item.text.endswith("…") for item in outcome.mistakes)
    assert shortened("a\u202eb\x07") == "a�b�"


def test_images_are_told_by_small_copies() -> None:
    from io import BytesIO

    from PIL import Image

    from budwood.engine.report_facts import thumbnail

    stream = BytesIO()
    Image.new("RGB", (640, 480), "red").save(stream, "PNG")
    small = Image.open(BytesIO(thumbnail(stream.getvalue())))
    assert (small.format, small.size) == ("JPEG", (112, 84))


def test_honest_confidence_has_no_error_and_a_boast_has() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 20_000)
    targets = (random.uniform(size=20_000) > sure).astype(int)
    honest = reliability(np.stack([sure, 1 - sure], axis=1), targets)
    boast = reliability(np.stack([np.full_like(sure, 0.99), np.full_like(sure, 0.01)], axis=1), targets)
    assert honest.ece < 0.02 < 0.2 < boast.ece
    assert honest.brier < boast.brier


def test_the_interval_of_macro_f1_holds_it_and_shrinks_with_the_rows() -> None:
    random = np.random.default_rng(0)
    widths = []
    for n in (200, 5000):
        truth = random.integers(0, 3, n)
        given = np.where(random.uniform(size=n) < 0.8, truth, random.integers(0, 3, n))
        span = macro_f1_interval(np.eye(3, dtype=bool)[truth], np.eye(3, dtype=bool)[given])
        assert span is not None
        low, high = span
        assert low < 0.8 + 0.2 / 3 < high  # what is right by chance, too
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


def test_resamples_that_all_agree_give_no_interval() -> None:
    right = np.eye(3, dtype=bool)[[0, 1, 2] * 3]
    assert macro_f1_interval(right, right) is None
    task = TextClassification(("a", "b"))
    perfect = np.where([[True, False], [True, False], [False, True], [False, True]], 2.0, -2.0)
    assert "macro_f1" not in told(task, ROWS, perfect).intervals


def images(labels: list[Any]) -> list[dict[str, Any]]:
    picture = plain_png((90, 80, 70))
    return [{"image": picture, "sha256": str(number), "label": label} for number, label in enumerate(labels)]


def of_values(task: ImageRegression, rows: list[dict[str, Any]], answers: list[dict[str, Any]]) -> Outcome:
    per_row = task.row_scores(answers, rows)
    return outcome_of(task, rows, Scores(task.metric, per_row, float(per_row.mean()), (0, 1), {}, answers, 0.0), {})


def test_risks_are_told_by_their_distance_from_the_truth() -> None:
    rows = images(["yes", "no"] * 10)
    values = [0.9931, 0.0099] * 8 + [0.2, 0.3, 0.6, 0.4]
    outcome = of_values(ImageRegression.from_rows(rows), rows, [{"value": value} for value in values])
    assert outcome.graded
    assert [(item.label, item.answer) for item in outcome.mistakes[:4]] == [
        ("yes", "risk of yes: 0.2"),
        ("yes", "risk of yes: 0.6"),
        ("no", "risk of yes: 0.4"),
        ("no", "risk of yes: 0.3"),
    ]
    assert not any("0.9931" in item.answer for item in outcome.mistakes), "errors below the median are none"


def test_no_more_than_twelve_numbers_are_told_and_none_where_all_errors_are_alike() -> None:
    rows = images([str(number) for number in range(100)])
    task = ImageRegression.from_rows(rows)
    outcome = of_values(task, rows, [{"value": number + number / 20} for number in range(100)])
    assert [item.label for item in outcome.mistakes] == [str(number) for number in range(99, 87, -1)]
    assert outcome.mistakes[0].answer == "104"
    assert (outcome.graded, outcome.logarithmic) == (True, False)
    assert of_values(replace(task, log=True), rows[1:], [{"value": 1.0}] * 99).logarithmic
    alike = of_values(task, rows, [{"value": number + 0.5} for number in range(100)])
    assert len(alike.mistakes) <= MOST_DISTANT


def test_a_risk_by_a_time_says_by_when() -> None:
    rows = images([{"days": str(10 + number), "died": "yes" if number % 2 else "no"} for number in range(60)])
    task = ImageRegression.from_rows(rows)
    logits = np.random.default_rng(0).normal(size=(60, len(task.periods)))
    outcome = of_values(task, rows, task.decode({"logits": logits}, {}, 3))
    assert outcome.mistakes
    assert all(item.answer.startswith(f"risk by {task.horizon:g}: 0.") for item in outcome.mistakes)
    assert all(item.label.startswith("days: ") for item in outcome.mistakes)


def test_it_is_made_of_one_pass(tiny_bundle: Any) -> None:
    from budwood.engine.measure import score
    from budwood.engine.predictor import Predictor

    rows = tiny.rows(2)
    predictor = Predictor.open(tiny_bundle)
    scores = score(predictor, rows, keep_logits=True)
    assert scores.logits is not None
    np.testing.assert_allclose(scores.logits, predictor.outputs(rows)["logits"], atol=1e-6)
    assert scores.answers == predictor.predict_all(rows)
