"""Rows that are written in place: what they take is what they remember, and a failure leaves them usable."""

from typing import Any

import numpy as np
import pytest

from budwood.core.task import Arrays
from budwood.engine import decoder_rows
from budwood.engine.decoder_rows import SharedRows
from budwood.engine.generator import Shape

SHAPE = Shape(layers=1, heads=2, width=64, window=4096)


def ones(inputs: Arrays, cache: Arrays) -> Arrays:
    """A model that writes ones into its cache, and has it checked that they have a place there."""
    rows, columns = inputs["attention_mask"].shape
    for array in cache.values():
        assert array.shape[2] >= columns
        array[:, :, :columns] += inputs["attention_mask"][:, None, :, None]
    return {"logits": np.zeros((rows, 1, 4), np.float32)}


def pages(rows: SharedRows, at: int) -> bool:
    """Whether a row has memory with something in it: pages that were given back are zeros."""
    return any(bool(array[at].any()) for array in rows.arrays.values())


def test_growing_without_memory_fails_and_the_next_text_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(sizes: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(decoder_rows, "CAPACITY", 16)
    rows = SharedRows(ones, SHAPE, 3)
    row = rows.open()
    rows.read(row, [1] * 10)
    with monkeypatch.context() as context:
        context.setattr(decoder_rows, "Block", none)
        with pytest.raises(MemoryError):
            rows.read(row, [1] * 10)
    assert rows.capacity == next(iter(rows.arrays.values())).shape[2] == 16
    rows.read(row, [1] * 10)  # beyond the block it would write into memory of others
    assert len(row.ids) == 20


def test_a_row_that_changes_its_place_leaves_no_memory_behind() -> None:
    rows = SharedRows(ones, SHAPE, 3)
    first, short, long = rows.open(), rows.open(), rows.open()
    rows.read(short, [1] * 10)
    rows.read(long, [1] * 500)
    rows.close(first)
    rows.step([long], [1])
    assert (long.at, pages(rows, 2)) == (0, False)
    rows.step([short], [1])  # it changes places with the long one
    assert (short.at, long.at) == (0, 1)
    for name, array in rows.arrays.items():
        assert array[0, :, 64:].sum() == 0, name
        # Whatever was read is there: a step reads all rows up to the longest of its own.
        assert (array[1, :, :501] >= 1).all(), name
        assert (array[0, :, :11] >= 1).all(), name
