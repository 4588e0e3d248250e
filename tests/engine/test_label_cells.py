"""Numbers in cells: decimal commas and percent signs where they are certain, and nothing guessed where they are not."""

import pytest

from budwood.engine.label_cells import plain_numbers


@pytest.mark.parametrize(
    ("cells", "plain"),
    [
        (["12,5", "3", "1,25"], ["12.5", "3", "1.25"]),
        (["1,200", "0,5"], ["1.200", "0.5"]),
        (["0,200", "0,300"], ["0.200", "0.300"]),
        (["10%", "12.5%"], ["10", "12.5"]),
        (["12,5%", "3%"], ["12.5", "3"]),
        (["-1,5", None, "2"], ["-1.5", None, "2"]),
        ([*["1,5"] * 9, "unknown"], [*["1.5"] * 9, "unknown"]),
    ],
)
def test_what_is_certain_is_written_with_points(cells: list[str | None], plain: list[str | None]):
    assert plain_numbers(cells)[0] == plain
    assert plain_numbers(cells)[1], "and it is said"


@pytest.mark.parametrize(
    "cells",
    [
        ["1,200", "950", "12,000"],
        ["12,5", "12.5"],
        ["10%", "10"],
        ["red", "green", "1,5"],
        ["1", "2.5"],
        [["1,5"], ["2,5"]],
        [None, None],
        [],
    ],
)
def test_what_may_be_two_things_stays_as_it_is(cells: list[str | None]):
    assert plain_numbers(cells) == (cells, ())
