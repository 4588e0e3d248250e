"""The rows of a training are found again: in the store, or from the files with what `bundle.json` says of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from budwood.core.budget import Budget
from budwood.core.bundle import Bundle, DataRecord
from budwood.core.dataset import ReadOptions
from budwood.core.errors import DataError, NotFoundError, UsageError
from budwood.core.step import silent
from budwood.core.store import Entry, Store
from budwood.engine.graft import data_record
from budwood.stages import adapting, shrink_rows, shrinking


def table(path: Path, count: int = 90, start: int = 0) -> Path:
    """Two columns that may be the label, two that may be the text, and one of groups."""
    rows = [
        {
            "topic": "abc"[i % 3],
            "mood": "xy"[i % 2],
            "title": f"title {i} of a ticket",
            "body": f"body {i} of a ticket",
            "customer": f"c{i // 3}",
        }
        for i in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def adapted(path: Path, **options: Any) -> tuple[Bundle, Any]:
    """A model that names its data, and the rows that `adapt` made of them."""
    given = {"target": "topic", "input": "title,body", "group": None, "test": None, "shots": None} | options
    job = adapting.Job(
        path / "t.jsonl", "auto", "auto", None, method="head", seed=3, max_minutes=None, fresh=False, **given
    )
    splits, _ = adapting.read(job, silent)
    return tiny.small_bundle(path / "bundle", data=data_record(splits)), splits


def asked(bundle: Bundle, data: Path | None, test: Path | None = None) -> shrinking.Job:
    return shrinking.Job(Entry("t", 1, bundle), Budget(), None, data, test, None, 0)


@pytest.mark.parametrize("options", [{}, {"target": "mood"}, {"input": "body"}, {"group": "customer"}, {"shots": 8}])
def test_the_files_give_the_rows_of_the_training_again_in_a_store_that_has_none(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    data = table(tmp_path / "t.jsonl")
    bundle, splits = adapted(tmp_path, **options)
    again = Bundle.open(bundle.path)
    found = shrink_rows.rows_of(asked(again, data), Store(tmp_path / "empty"), silent)
    assert (found.fingerprint, found.options) == (splits.fingerprint, splits.options)
    assert data_record(found) == again.manifest.data, "a shrunk model can be shrunk from the files, too"
    assert str(tmp_path) not in (bundle.path / "bundle.json").read_text()


def test_a_test_file_is_named_asked_for_and_taken(tmp_path: Path) -> None:
    data, test = table(tmp_path / "t.jsonl"), table(tmp_path / "held.jsonl", 30, 90)
    bundle, splits = adapted(tmp_path, test=test)
    assert bundle.manifest.data is not None
    ((name, sha256),) = bundle.manifest.data.options.test
    store = Store(tmp_path / "empty")
    assert shrink_rows.rows_of(asked(bundle, data, test), store, silent).fingerprint == splits.fingerprint
    with pytest.raises(UsageError) as caught:
        shrink_rows.rows_of(asked(bundle, data), store, silent)
    assert caught.value.fix == f"pass --data t.jsonl --test held.jsonl (SHA-256 {sha256[:12]}…)"
    with pytest.raises(NotFoundError) as missing:
        shrink_rows.rows_of(asked(bundle, None), store, silent)
    assert missing.value.fix == caught.value.fix
    with pytest.raises(UsageError, match="not the rows"):
        shrink_rows.rows_of(asked(bundle, data, table(tmp_path / "else.jsonl", 30, 200)), store, silent)
    with pytest.raises(UsageError, match="not enough"):
        shrinking.check(asked(bundle, None, test))
    store.save_splits(splits)
    assert shrink_rows.rows_of(asked(bundle, data), store, silent) == splits
    assert name == "held.jsonl"


def test_a_table_without_the_columns_of_the_training_is_refused(tmp_path: Path) -> None:
    table(tmp_path / "t.jsonl")
    bundle, _ = adapted(tmp_path)
    (tmp_path / "other.csv").write_text("text,label\na,b\nc,d\n")
    with pytest.raises(DataError) as caught:
        shrink_rows.rows_of(asked(bundle, tmp_path / "other.csv"), Store(tmp_path / "empty"), silent)
    assert "given to adapt" in caught.value.fix


def test_a_manifest_without_options_keeps_its_bytes(tmp_path: Path) -> None:
    record = DataRecord(fingerprint="ab" * 32, sources=("t.csv",), seed=0, rows={"train": 3})
    assert "options" not in record.model_dump(mode="json")
    bundle = tiny.small_bundle(tmp_path / "b", data=record)
    assert "options" not in json.loads((bundle.path / "bundle.json").read_text())["data"]
    assert Bundle.open(bundle.path).manifest.data == record
    splits = replace(tiny.splits(), options=ReadOptions(shots=8))
    assert tiny.small_bundle(tmp_path / "c", data=data_record(splits)).manifest.data == data_record(splits)
