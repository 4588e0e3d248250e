"""`evaluate` and `compare` count the rows that a model has learnt from."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from budwood import flow
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.store import Store
from budwood.engine.graft import data_record


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A model whose training rows are kept, and a child of it that learnt from other rows."""
    pytest.importorskip("onnx")
    home = Store(tmp_path / "models")
    every = [Dataset.of(tiny.rows(8)[start : start + 9], "tiny.csv") for start in range(0, 54, 9)]
    first, second = Splits(*every[:3], seed=0), Splits(*every[3:], seed=0)
    home.save_splits(first)
    home.save_splits(second)
    parent = home.publish("t", tiny.bundle(tmp_path / "a", data=data_record(first))).bundle
    draft = parent.draft("adapt.head", data=data_record(second))
    home.publish("child", Bundle.create(tmp_path / "b", draft, tiny.write_files))
    return home


def test_rows_of_the_training_are_counted_whatever_their_case_and_spaces(store: Store, tmp_path: Path) -> None:
    splits = store.load_splits(store.resolve("t").bundle.manifest.data.fingerprint)
    rows = [
        {**row, "text": f" {row['text'].upper()}  "} for row in (*splits.train.rows[:3], *splits.validation.rows[:2])
    ]
    data = table(tmp_path / "rows.jsonl", [*rows, *splits.test.rows])
    found = flow.evaluate("t", data, store=store.root)
    assert found.metrics["rows_seen_in_training"] == 5
    assert (
        flow.evaluate("t", table(tmp_path / "new.jsonl", tiny.rows(30)[-9:]), store=store.root).metrics[
            "rows_seen_in_training"
        ]
        == 0
    )
    same = flow.compare("t", "child", data, store=store.root)
    assert same.rows_seen_in_training == {"a": 5, "b": 5}, "a child has seen what its parent has"


def test_nothing_is_said_where_the_rows_are_not_kept(store: Store, tmp_path: Path) -> None:
    data = table(tmp_path / "rows.jsonl", tiny.rows(2))
    folder = str(store.root / "t" / "1")
    found = flow.evaluate(folder, data, store=tmp_path / "elsewhere")
    assert "rows_seen_in_training" not in found.metrics
    assert flow.compare(folder, folder, data, store=tmp_path / "elsewhere").rows_seen_in_training == {}
