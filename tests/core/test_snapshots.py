"""Stored rows come back exactly, or not at all."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, NotFoundError
from budwood.core.snapshots import load_splits, save_splits

FILES = ("train.jsonl", "validation.jsonl", "test.jsonl", "meta.json")


def test_rows_order_seed_sources_and_notes_come_back(tmp_path: Path) -> None:
    splits = replace(tiny.splits(seed=7), notes=("3 duplicates were removed",))
    save_splits(tmp_path, splits)
    assert load_splits(tmp_path, splits.fingerprint) == splits
    assert sorted(os.listdir(tmp_path / splits.fingerprint)) == sorted(FILES)


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.fixed_dictionaries({"text": texts, "label": texts | st.lists(texts, max_size=3)}), max_size=5))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    data = Dataset.of(rows, "a.csv")
    splits = Splits(data, Dataset.of([]), data, 0)
    folder = tmp_path_factory.mktemp("snapshots")
    save_splits(folder, splits)
    assert load_splits(folder, splits.fingerprint) == splits


@pytest.mark.parametrize("value", [float("nan"), b"bytes", {1, 2}, object(), (1, 2), "\ud800"])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    data = Dataset.of([{"text": value, "label": "a"}])
    splits = Splits(data, data, data, 0)
    if isinstance(value, tuple):  # a list with the same fingerprint
        save_splits(tmp_path, splits)
        assert load_splits(tmp_path, splits.fingerprint).train.rows[0]["text"] == [1, 2]
        return
    with pytest.raises(DataError, match="stored"):
        save_splits(tmp_path, splits)
    assert not os.listdir(tmp_path)


def test_saving_twice_changes_nothing(tmp_path: Path) -> None:
    splits = tiny.splits()
    save_splits(tmp_path, splits)
    before = (tmp_path / splits.fingerprint / "meta.json").stat().st_mtime_ns
    save_splits(tmp_path, splits)
    assert (tmp_path / splits.fingerprint / "meta.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damage_is_found_and_mended_by_saving_again(tmp_path: Path, name: str, damage: str) -> None:
    splits = tiny.splits()
    save_splits(tmp_path, splits)
    path = tmp_path / splits.fingerprint / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        flipped = content.replace(b"a", b"b", 1)
        path.write_bytes({"flip": flipped, "truncate": content[:-20], "empty": b""}[damage])
    with pytest.raises(BundleError, match="stored data is damaged") as caught:
        load_splits(tmp_path, splits.fingerprint)
    assert caught.value.fix == "give the data again: --data DATA"
    save_splits(tmp_path, splits)
    assert load_splits(tmp_path, splits.fingerprint) == splits


def test_other_rows_with_right_hashes_are_found(tmp_path: Path) -> None:
    first, second = tiny.splits(3), tiny.splits(4)
    save_splits(tmp_path, first)
    save_splits(tmp_path, second)
    other = tmp_path / first.fingerprint
    for path in other.iterdir():
        path.write_bytes((tmp_path / second.fingerprint / path.name).read_bytes())
    with pytest.raises(BundleError, match="do not match its fingerprint"):
        load_splits(tmp_path, first.fingerprint)


def test_a_newer_schema(tmp_path: Path) -> None:
    splits = tiny.splits()
    save_splits(tmp_path, splits)
    path = tmp_path / splits.fingerprint / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
    with pytest.raises(BundleError, match="schema version 2"):
        load_splits(tmp_path, splits.fingerprint)


@pytest.mark.parametrize("fingerprint", ["", "0" * 64, "..", "../x", "a/b", "."])
def test_rows_that_are_not_kept(tmp_path: Path, fingerprint: str) -> None:
    with pytest.raises(NotFoundError, match="not kept here") as caught:
        load_splits(tmp_path, fingerprint)
    assert "--data" in caught.value.fix
