"""What a report tells of risks: tenths whose shares add up, and pairs of numbers however labels are written."""

import numpy as np
import pytest

from budwood.engine.report_facts import of_chances
from budwood.engine.risk_facts import number_pairs, tenth_rows, tenths_of


def chances(rows: int) -> np.ndarray:
    random = np.random.default_rng(0)
    risk = random.random(rows)
    return np.stack([risk, random.random(rows) < risk], axis=1)


def test_tenths_hold_all_rows_and_agree_where_risks_are_honest():
    found = tenths_of(chances(2000))
    assert [item.n for item in found] == [200] * 10
    assert all(item.low <= item.foretold <= item.high for item in found)
    assert all(item.came == pytest.approx(item.foretold, abs=0.08) for item in found)
    assert sum(item.ci[0] <= item.foretold <= item.ci[1] for item in found) >= 8
    headers, cells = tenth_rows(found)
    assert len(cells) == 10
    assert {len(row) for row in cells} == {len(headers)}


def test_few_rows_have_no_tenths():
    assert tenths_of(chances(49)) == ()


def test_calibration_is_that_of_the_risk_itself():
    honest = of_chances(chances(4000))
    assert honest.ece < 0.03
    always = of_chances(np.stack([np.full(100, 0.9), np.zeros(100)], axis=1))
    assert always.ece == pytest.approx(0.9)
    assert always.brier == pytest.approx(0.81)


def test_pairs_of_numbers():
    rows = [{"label": "1.5"}, {"label": 2}]
    assert number_pairs(rows, [{"value": 1.0}, {"value": 3.0}]).tolist() == [[1.5, 1.0], [2.0, 3.0]]
    assert number_pairs(rows, [{"label": "a"}, {"label": "b"}]) is None
    assert number_pairs([{"label": "a"}], [{"value": 1.0}]) is None
    assert number_pairs([{"text": "a"}], [{"value": 1.0}]) is None
    assert number_pairs([], []) is None
