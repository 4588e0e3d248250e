"""Fingerprints: the same rows give the same one, whatever their order."""

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.dataset import Dataset, Splits, row_hash

rows = st.lists(st.fixed_dictionaries({"text": st.text(st.characters(exclude_categories=["Cs"]))}), max_size=6)


@given(rows, st.randoms())
def test_order_does_not_matter(items: list[dict], random: object) -> None:
    shuffled = [*items]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Dataset.of(items).fingerprint == Dataset.of(shuffled).fingerprint


@pytest.mark.parametrize(
    "other", [[], [{"text": "a"}, {"text": "a"}], [{"text": "b"}], [{"word": "a"}], [{"text": ""}]]
)
def test_content_and_number_matter(other: list[dict]) -> None:
    assert Dataset.of([{"text": "a"}]).fingerprint != Dataset.of(other).fingerprint


def test_rows_are_equal_by_their_input_alone() -> None:
    assert row_hash({"text": "a", "label": "x"}) == row_hash({"text": "a", "label": "y"})
    assert row_hash({"text": "a"}) != row_hash({"text": "b"})
    assert row_hash({"text": "a", "label": "x"}, ("text", "label")) != row_hash({"text": "a"}, ("text", "label"))


def test_splits_count_and_identify_their_rows() -> None:
    splits = tiny.splits(6)
    assert splits.sizes() == {"train": 36, "validation": 9, "test": 9}
    assert splits.fingerprint == tiny.splits(6).fingerprint != tiny.splits(5).fingerprint
    texts = [row["text"] for part in (splits.train, splits.validation, splits.test) for row in part]
    assert len(texts) == len({*texts}) == 54


def test_splits_hold_their_rows_in_an_order_that_depends_on_the_rows_alone():
    every = tiny.rows(4)
    parts = every[:18], every[18:27], every[27:]
    one = Splits(*(Dataset.of(part) for part in parts), seed=0)
    other = Splits(*(Dataset.of(reversed(part)) for part in parts), seed=0)
    assert one == other
    assert one.fingerprint == other.fingerprint
    assert sorted(row["text"] for row in one.train) == sorted(row["text"] for row in parts[0])
    assert Dataset.of(every).rows == tuple(every), "a dataset keeps its order: answers stand beside their rows"
