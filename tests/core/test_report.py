"""What was measured survives JSON, and shows itself in a notebook without running or loading anything."""

import json
import math
from dataclasses import replace

import pytest

from budwood.core.budget import Budget
from budwood.core.errors import BundleError
from budwood.core.report import Candidate, ShrinkReport, Speed, outcome

PARENT = Candidate("parent", score=0.9, ci=(0.88, 0.92), p50_ms=10.0, p95_ms=12.0, size_mb=90.0, within_budget=True)
INT8 = Candidate(
    "int8", score=0.895, ci=(0.87, 0.91), drop=0.005, drop_ci=(-0.001, 0.008), p50_ms=4.0, p95_ms=5.0,
    items_per_s=700.0, size_mb=23.0, memory_mb=120.0, within_budget=True, verdict="PASS", ratio=2.5,
    ratio_ci=(2.4, 2.6),
)  # fmt: skip
BROKEN = Candidate("<script>alert(1)</script>", why="export differs from torch by 0.3")
REPORT = ShrinkReport(PARENT, (INT8, BROKEN), "int8", Budget(max_mb=25), "accuracy", 3080, machine={"cpu": "x"})

CONTRACT = ("recipe", "score", "ci", "drop", "drop_ci", "p50_ms", "p95_ms", "items_per_s", "size_mb", "memory_mb",
            "within_budget", "why")  # fmt: skip


def test_json_has_the_keys_of_the_contract_and_comes_back_equal() -> None:
    text = json.dumps(REPORT.to_json(), allow_nan=False)
    values = json.loads(text)
    assert {"chosen", "within_budget", "reference", "candidates"} <= set(values)
    for candidate in (values["reference"], *values["candidates"]):
        assert set(CONTRACT) <= set(candidate)
    assert ShrinkReport.from_json(values | {"name": "tickets", "path": "elsewhere"}) == REPORT


def test_a_number_that_is_not_finite_becomes_null() -> None:
    values = replace(INT8, memory_mb=math.nan, drop_ci=(-math.inf, 0.1)).to_json()
    assert values["memory_mb"] is None
    assert values["drop_ci"] == [None, 0.1]


@pytest.mark.parametrize("change", [{"candidates": 3}, {"budget": {"max_drop": 7}}, {"reference": {}}])
def test_a_foreign_report_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="not the report of a shrink"):
        ShrinkReport.from_json(REPORT.to_json() | change)


def test_within_budget_is_that_of_the_chosen_one() -> None:
    assert REPORT.within_budget
    assert not replace(REPORT, chosen=None).within_budget
    assert not replace(REPORT, chosen=BROKEN.recipe).within_budget


def test_notebook_view_is_escaped_and_names_every_candidate() -> None:
    html = REPORT._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<circle") == 2
    assert "chosen" in html
    assert "-0.10, 0.80" in html
    assert REPORT._repr_mimebundle_()["text/html"] == html


def test_notebook_view_without_any_measurement_has_no_picture() -> None:
    empty = ShrinkReport(Candidate("parent"), (), None, Budget(), "accuracy", 0)
    assert "<svg" not in empty._repr_html_()


@pytest.mark.parametrize(
    ("ratio", "ci", "rank"),
    [
        (2.0, (1.9, 2.1), "faster"),
        (1.04, (1.02, 1.06), "equal"),
        (1.5, (0.9, 2.1), "equal"),
        (0.7, (0.6, 0.8), "slower"),
    ],
)
def test_no_difference_below_the_noise_is_ranked(ratio: float, ci: tuple[float, float], rank: str) -> None:
    speed = Speed(4.0, 5.0, 700.0, 23.0, None, None, 100, ratio, ci, 1.0, (1.0, 1.0), 0.05, 0.05, 1, 32)
    assert speed.rank == rank


def test_the_result_of_a_candidate_in_one_word() -> None:
    assert outcome(BROKEN) == BROKEN.why
    assert outcome(INT8) == "PASS"
    assert outcome(replace(INT8, rank="slower")) == "PASS, slower"
    refused = replace(INT8, within_budget=False, why="class 'a' lost 20 points; drop +0.1 points")
    assert outcome(refused) == "class 'a' lost 20 points"
    assert outcome(replace(INT8, within_budget=False, verdict="UNDECIDED")) == "UNDECIDED"
