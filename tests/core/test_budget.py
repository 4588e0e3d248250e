"""The limits of a budget: what they accept, and what they say when they refuse."""

import math

import pytest

from budwood.core.budget import Budget
from budwood.core.errors import UsageError


@pytest.mark.parametrize("max_drop", [-0.01, 1.0, 5.0, math.nan])
def test_drop_out_of_range_is_refused_with_the_range(max_drop: float) -> None:
    with pytest.raises(UsageError, match="0 <= max_drop < 1") as caught:
        Budget(max_drop=max_drop)
    assert caught.value.where == "--max-drop"


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(("field", "flag"), [("max_p95_ms", "--max-p95-ms"), ("max_mb", "--max-mb")])
def test_limits_are_positive_numbers(field: str, flag: str, value: float) -> None:
    with pytest.raises(UsageError, match="positive number") as caught:
        Budget(**{field: value})
    assert caught.value.where == flag


def test_without_limits_everything_fits() -> None:
    assert Budget().check(p95_ms=1e9, size_mb=1e9) == []


def test_each_limit_that_is_not_met_is_named() -> None:
    budget = Budget(max_p95_ms=5, max_mb=25)
    assert budget.check(p95_ms=5.0, size_mb=25.0) == []
    assert budget.check(p95_ms=5.26, size_mb=24.0) == ["p95 5.3 ms is above 5 ms"]
    assert len(budget.check(p95_ms=6.0, size_mb=91.0)) == 2


def test_an_unmeasured_speed_never_fits() -> None:
    assert Budget(max_p95_ms=5).check(p95_ms=math.nan, size_mb=1.0) != []


def test_a_budget_reads_as_a_sentence() -> None:
    assert str(Budget()) == "drop below 1 point"
    assert str(Budget(0.025, 5, 25)) == "drop below 2.5 points, p95 up to 5 ms, up to 25 MB"
