"""The decisions of `adapt`: what is held out to compare methods on, and what is said of the outcome."""

from dataclasses import replace

import numpy as np
import pytest

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import DataError, NotFoundError
from budwood.engine import linear_head
from budwood.stages.choosing import decide, folds, of_one_group, task_for


def splits(rows: list[dict[str, str]]) -> Splits:
    return Splits(Dataset.of(rows, "t"), Dataset.of([], "t"), Dataset.of([], "t"), seed=0)


@pytest.mark.parametrize("shared", ["group", "text"])
def test_rows_that_belong_together_are_held_out_together(shared: str) -> None:
    rows = [
        {"text": f"text {i}", "group": f"group {i}", "label": "ab"[i % 2]} | {shared: f"shared {i // 4}"}
        for i in range(40)
    ]
    for fold in folds(splits(rows)):
        learnt = {row[shared] for row in fold.train}
        held = {row[shared] for row in fold.validation}
        assert held
        assert not learnt & held


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_fold_of_a_few_rows_holds_some_out(count: int) -> None:
    made = folds(splits([{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(count)]))
    assert all(len(fold.train) and len(fold.validation) for fold in made)
    assert sum(len(fold.validation) for fold in made) == count


@pytest.mark.parametrize(("learn", "held", "times"), [(240, 40, 4), (240, 60, 1), (100, 90, 4), (2100, 40, 1)])
def test_few_held_out_rows_are_multiplied_while_that_is_cheap(learn: int, held: int, times: int) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(learn + held)]
    made = folds(replace(splits(rows[:learn]), validation=Dataset.of(rows[learn:], "t")))
    assert len(made) == times


@pytest.mark.parametrize(("shared", "fix"), [("group", "--group"), ("text", "other rows")])
def test_rows_of_one_group_are_refused_before_any_work(shared: str, fix: str) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} | {shared: "one"} for i in range(400)]
    with pytest.raises(DataError, match=f"all 400 rows to learn from are of one {'group' if fix[0] == '-' else 'in'}"):
        folds(splits(rows))


def test_a_single_group_to_learn_from_is_told() -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2], "group": f"{i // 200}"} for i in range(400)]
    plain = splits([{"text": row["text"], "label": row["label"]} for row in rows])
    assert [of_one_group([item]) for item in (splits(rows), splits(rows[:200]), plain)] == [False, True, False]


def test_a_method_that_was_asked_for_is_kept_and_the_verdict_says_so() -> None:
    good, bad = np.ones(400), np.zeros(400)
    assert decide("full", good, bad).method == "head"
    kept = decide("full", good, bad, asked=True)
    assert kept.method == "full"
    assert "asked for" in kept.why
    assert "baseline is kept" not in kept.why


def test_a_difference_says_of_what_it_is_where_that_is_not_the_headline_metric() -> None:
    head, adapted = np.linspace(0.4, 0.6, 45), np.linspace(0.5, 0.9, 45)
    assert "+20.0 points [" in decide("few_shot", head, adapted).why
    assert "+20.0 points of Brier score [" in decide("few_shot", head, adapted, of="Brier score").why


def test_a_draw_of_few_rows_goes_to_the_baseline_where_a_task_needs_a_gain() -> None:
    head, adapted = np.ones(30), np.ones(30)
    assert decide("full", head, adapted).method == "full"
    assert decide("full", head, adapted, needs_gain=True).method == "head"
    adapted[0] = 0.0
    assert decide("full", head, adapted).method == "full"
    assert decide("full", head, adapted, needs_gain=True).method == "head"
    assert decide("full", adapted, head, needs_gain=True).method == "head", "one row of 30 is no gain"
    assert decide("full", np.zeros(30), head, needs_gain=True).method == "full"
    assert decide("full", head, adapted, needs_gain=True, asked=True).method == "full"


def test_one_row_is_enough_for_a_head() -> None:
    embeddings, targets = np.ones((1, 4)), np.array([1])
    penalty = linear_head.choose_penalty(embeddings, targets, 3, 0, (1.0, 3.0, 10.0))
    weight, bias = linear_head.fit(embeddings, targets, 3, penalty)
    assert (embeddings @ weight.T + bias).argmax() == 1


def test_the_task_is_told_by_the_fields_of_the_rows() -> None:
    rows = [{"text": "fine", "label": "good"}]
    assert task_for("auto", rows) is task_for("text_classification", rows)
    with pytest.raises(DataError, match="no task reads rows of label, sound"):
        task_for("auto", [{"sound": "x.wav", "label": "good"}])
    with pytest.raises(DataError, match="text_classification learns from text, and the data has sound"):
        task_for("text_classification", [{"sound": "x.wav", "label": "good"}])
    with pytest.raises(NotFoundError, match="no tasks named 'text_clasification'"):
        task_for("text_clasification", rows)
