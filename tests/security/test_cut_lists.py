"""The list of cut channels of a bundle is data like any other: what is not such a list is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from budwood.core.bundle import Bundle
from budwood.core.cut_list import load_cuts
from budwood.core.errors import BundleError
from budwood.core.opening import check_content

GOOD = {"version": 1, "cuts": {"stem.conv": {"outputs": [0, 2, 5]}, "head": {"inputs": [1]}}}


def broken(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


BROKEN = {
    "a list": [],
    "another version": broken(version=2),
    "no version": {"cuts": GOOD["cuts"]},
    "one key more": broken(code="print()"),
    "cuts as a list": broken(cuts=[[0, 1]]),
    "a module as a list": broken(cuts={"a": [0, 1]}),
    "an unknown side": broken(cuts={"a": {"weights": [0]}}),
    "nothing left": broken(cuts={"a": {"outputs": []}}),
    "negative": broken(cuts={"a": {"outputs": [-1, 0]}}),
    "falling": broken(cuts={"a": {"outputs": [2, 1]}}),
    "twice": broken(cuts={"a": {"outputs": [1, 1]}}),
    "a fraction": broken(cuts={"a": {"outputs": [0.5]}}),
    "true": broken(cuts={"a": {"outputs": [True]}}),
    "text": broken(cuts={"a": {"outputs": "012"}}),
    "a huge number": broken(cuts={"a": {"outputs": [1 << 40]}}),
    "null": broken(cuts={"a": {"outputs": None}}),
}


def test_a_list_of_rising_numbers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cuts.json"
    path.write_text(json.dumps(GOOD))
    check_content(path, "cuts.json")
    assert load_cuts(path, "cuts.json") == GOOD["cuts"]


@pytest.mark.parametrize("kind", BROKEN)
def test_anything_else_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cuts.json"
    path.write_text(json.dumps(BROKEN[kind]))
    with pytest.raises(BundleError, match=r"cuts\.json") as caught:
        check_content(path, "cuts.json")
    assert caught.value.where == str(path)


def test_a_list_larger_than_any_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cuts.json"
    path.write_text(json.dumps(GOOD) + " " * (5 << 20))
    with pytest.raises(BundleError, match="larger than 4 MiB"):
        check_content(path, "cuts.json")


def test_a_bundle_with_a_broken_list_is_neither_made_nor_opened(tmp_path: Path) -> None:
    def write(folder: Path, cuts: Any) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "cuts.json").write_text(json.dumps(cuts))

    with pytest.raises(BundleError, match=r"cuts\.json"):
        Bundle.create(tmp_path / "made", tiny.draft(), lambda folder: write(folder, BROKEN["negative"]))
    bundle = Bundle.create(tmp_path / "good", tiny.draft(), lambda folder: write(folder, GOOD))
    path = bundle.path / "cuts.json"
    path.write_text(path.read_text().replace("5", "9"))
    with pytest.raises(BundleError, match=r"cuts\.json is damaged"):
        Bundle.open(bundle.path)
