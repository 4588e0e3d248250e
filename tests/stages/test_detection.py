"""Which of the two detectors ships, and what is said of it."""

from typing import Any

import numpy as np
import pytest

from budwood.cli.options import Method
from budwood.engine.measure import Scores
from budwood.stages.detection import guarded


def scores(value: float) -> Any:
    per_row = np.clip(value + np.random.default_rng(0).normal(0, 0.05, 60), 0, 1)
    return Scores("f1", per_row, value, (0, 1), {}, (), 0.0)


@pytest.mark.parametrize(
    ("full", "asked", "ships"), [(0.9, "auto", "full"), (0.2, "auto", "head"), (0.2, "full", "full")]
)
def test_what_is_surely_worse_on_test_images_is_not_shipped_unless_asked_for(
    full: float, asked: str, ships: str
) -> None:
    method, why = guarded("better on held-out rows", scores(0.5), scores(full), asked)
    assert method == ships
    assert "test images" in why
    assert ("flatters the score" in why) == (asked == "auto" and ships == "full")


def test_only_methods_that_can_be_asked_for_are_offered() -> None:
    offered = Method.__metadata__[0].metavar.split("|")
    assert "head" in offered
    assert not {"detector", "language"} & set(offered)
