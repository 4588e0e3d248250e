"""The rules of the search: who is left out, who is tested, when it ends, which class is below its floor."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from budwood.core.budget import Budget
from budwood.core.errors import UsageError
from budwood.core.report import Speed
from budwood.engine import search
from budwood.engine.search import Made, Trial

SPEED = Speed(
    p50_ms=4.0,
    p95_ms=5.0,
    items_per_s=100.0,
    size_mb=20.0,
    memory_mb=None,
    memory_growth_mb=None,
    samples=40,
    ratio=2.0,
    ratio_ci=(1.9, 2.1),
    batch_ratio=2.0,
    batch_ratio_ci=(1.9, 2.1),
    noise=0.05,
    batch_noise=0.05,
    threads=1,
    batch_size=32,
)
SLOWER = replace(SPEED, ratio=0.8, ratio_ci=(0.7, 0.85))


def made(name: str, lost: int = 0, rows: int = 400, **speed: Any) -> Made:
    """A candidate that lost so many of the parent's validation rows."""
    parent = np.ones(rows)
    child = np.where(np.arange(rows) < lost, 0.0, 1.0)
    bundle = cast(Any, SimpleNamespace(id=name))
    screened = search.screen(parent - child, Budget(0.02))
    return Made(Trial(name, 2, ()), bundle, replace(SPEED, **speed), screened)


def test_the_search_stops_only_at_a_target_that_is_kept_and_likely_to_be_proven() -> None:
    found = [made("int8", size_mb=10.0)]

    def first(items: list[Made], budget: Budget, n_test: int = 400) -> str | None:
        item = search.first_enough(items, budget, n_test)
        return None if item is None else item.name

    assert first(found, Budget(0.02)) is None, "without a target there is no point to stop at"
    assert first(found, Budget(0.02, max_mb=15)) == "int8"
    assert first(found, Budget(0.02, max_mb=5)) is None
    assert first(found, Budget(0.02, max_p95_ms=1)) is None
    assert first([made("int8", lost=12, size_mb=10.0)], Budget(0.02, max_mb=15)) is None
    assert first([made("int8", lost=7, size_mb=10.0)], Budget(0.02, max_mb=15)) is None, "the test would be undecided"
    assert first([made("int8", lost=4, size_mb=10.0)], Budget(0.02, max_mb=15), 100) is None, "with so few rows"
    assert first([made("int8", lost=4, rows=2000, size_mb=10.0)], Budget(0.02, max_mb=15), 2000) == "int8"
    assert first([replace(found[0], speed=SLOWER)], Budget(0.02, max_mb=50)) is None
    assert first([made("big", size_mb=90.0), *found], Budget(0.02, max_mb=15)) == "int8"


def test_finalists_are_the_cheapest_and_the_safest_and_no_one_who_failed_or_is_slower() -> None:
    cheap = made("cheap", lost=6, p50_ms=1.0, size_mb=5.0)
    safe = made("safe", lost=0, p50_ms=3.0, size_mb=10.0)
    middle = made("middle", lost=4, p50_ms=2.0, size_mb=10.0)
    other = made("other", lost=4, p50_ms=2.5, size_mb=10.0)
    broken = made("broken", lost=60, p50_ms=0.1, size_mb=1.0)
    slow = made("slow", p50_ms=0.1, size_mb=1.0, ratio=0.5, ratio_ci=(0.4, 0.6))
    lossy = made("lossy", lost=9, p50_ms=0.5, size_mb=1.0)
    found = [other, safe, broken, slow, middle, cheap, lossy]
    assert [item.name for item in search.finalists(found, Budget(0.02))] == ["cheap", "middle", "safe"]
    assert [item.name for item in search.finalists([broken, slow], Budget(0.02))] == []
    assert search.finalists([lossy, broken], Budget(0.02)) == [lossy], "the only hope is tested"
    assert len(search.finalists(found, Budget(0.02))) <= search.MAX_FINALISTS


def test_a_limit_of_time_or_size_leaves_a_candidate_out_with_the_reason() -> None:
    budget = Budget(0.02, max_p95_ms=4, max_mb=10)
    assert search.misses(SPEED, budget) == ["p95 5.0 ms is above 4 ms", "20.0 MB is above 10 MB"]
    assert search.misses(SLOWER, Budget()) == ["slower than the parent: 0.80x its speed"]
    assert search.misses(SPEED, Budget()) == []


def test_validation_rows_are_drawn_once_and_in_order() -> None:
    assert search.screen_rows(50, 0).tolist() == list(range(50))
    many = search.screen_rows(5000, 3)
    assert len(set(many.tolist())) == search.SCREEN_ROWS == len(many)
    assert many.tolist() == sorted(many.tolist()) == search.screen_rows(5000, 3).tolist()
    assert many.tolist() != search.screen_rows(5000, 4).tolist()


def test_a_class_that_pays_for_the_others_is_found_with_correction() -> None:
    labels = ["a"] * 100 + ["b"] * 100 + ["c"] * 3
    parent = np.ones(203)
    child = parent.copy()
    child[100:130] = 0
    changes = search.class_changes(labels, parent, child)
    assert [item.label for item in changes] == ["b", "a"], "three rows tell nothing of a class"
    assert changes[0].drop == pytest.approx(0.3)
    assert changes[0].p < 1e-6
    assert changes[1].p == 1.0
    (lost,) = search.lost_classes(changes, Budget(0.2))
    assert lost.startswith("class 'b' lost 30.0 points on 100 rows (p=")
    assert search.lost_classes(changes, Budget(0.2, max_class_drop=0.35)) == []
    child[100:130] = 1
    child[[0, 1]] = 0
    few = search.class_changes(["a"] * 10 + ["b"] * 193, parent, child)
    assert few[0].drop == pytest.approx(0.2)
    assert search.lost_classes(few, Budget(0.2)) == [], "two rows of ten may be chance"


def test_rows_without_classes_have_no_floor() -> None:
    assert search.class_changes([1.5, 2.0], np.ones(2), np.zeros(2)) == ()
    assert search.class_changes([None, None], np.ones(2), np.zeros(2)) == ()


def test_the_screen_fails_only_with_confidence() -> None:
    assert made("x", lost=60).screened.verdict == "FAIL"  # type: ignore[union-attr]
    assert made("x", lost=9).screened.verdict == "UNDECIDED"  # type: ignore[union-attr]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_the_floor_of_a_class_is_a_share(share: float) -> None:
    with pytest.raises(UsageError, match="max_class_drop"):
        Budget(max_class_drop=share)
