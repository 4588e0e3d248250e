"""The null runtime: what tests and load tests may rely on."""

import json
from pathlib import Path

import numpy as np
import pytest
import served
import tiny

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.engine.predictor import Predictor
from budwood.runtimes.null import NullRuntime


def test_a_row_gives_the_same_in_any_batch() -> None:
    runtime = NullRuntime(labels=5)
    random = np.random.default_rng(0)
    ids = random.integers(1, 30000, (16, 12))
    together = runtime.run({"input_ids": ids})["logits"]
    assert together.shape == (16, 5)
    assert together.dtype == np.float32
    assert np.abs(together).max() < 4.001
    assert len(np.unique(together.round(4), axis=0)) == 16
    padded = np.pad(ids, ((0, 0), (0, 7)))
    for i in range(16):
        np.testing.assert_array_equal(runtime.run({"input_ids": padded[i : i + 1]})["logits"][0], together[i])


def test_only_the_marked_rows_are_not_a_number() -> None:
    logits = NullRuntime(labels=2, nan_id=7).run({"input_ids": np.array([[1, 2], [7, 2], [3, 4]])})["logits"]
    assert np.isnan(logits).all(axis=1).tolist() == [False, True, False]


def test_failing_rows_raise() -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        NullRuntime(labels=2, fail_id=7).run({"input_ids": np.array([[1, 7]])})


def test_it_opens_any_bundle(tmp_path: Path) -> None:
    bundle = served.null_bundle(tmp_path / "b", labels=("a", "b", "c", "d"))
    predictor = Predictor.open(bundle, "null")
    assert set(predictor.predict([{"text": "parcel"}], top=9)[0]["scores"]) == {"a", "b", "c", "d"}
    predictor.close()


def test_an_odd_setting_is_named(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        tiny.write_files(folder)
        (folder / "null.json").write_text(json.dumps({"speed": 3}))

    with pytest.raises(BundleError, match="speed"):
        Predictor.open(Bundle.create(tmp_path / "b", tiny.draft(), write), "null")
