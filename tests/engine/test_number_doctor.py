"""Labels that are numbers: healthy ones are left in peace, and each fault is found by its rows."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest

from budwood import flow
from budwood.engine.number_doctor import diagnose_numbers
from budwood.engine.risk_labels import are_amounts
from budwood.engine.table import Place


def rows(labels: list[Any]) -> tuple[list[dict[str, Any]], list[Place]]:
    return [{"image": str(i), "label": label} for i, label in enumerate(labels)], [
        Place("table.csv", i + 2) for i in range(len(labels))
    ]


def kinds(labels: list[Any]) -> dict[str, list[int]]:
    return {found.kind: [place.number for place in found.rows] for found in diagnose_numbers(*rows(labels))}


def prices(count: int = 200) -> list[str]:
    return [f"{value:.0f}" for value in np.exp(np.random.default_rng(0).normal(12, 0.7, count))]


DIGITS = [str(number) for number in range(10)]


@pytest.mark.parametrize(
    "labels",
    [
        prices(),
        [*prices(), "unknown"],
        [f"{value:.0f}" for value in np.random.default_rng(0).normal(50, 18, 400)],
        [f"{value:.1f}" for value in np.linspace(0, 2, 50)],
        [{"days": "3", "died": "1"}],
    ],
)
def test_amounts_are_told(labels: list[Any]):
    assert are_amounts(rows(labels)[0])


@pytest.mark.parametrize(
    "labels",
    [
        ["1", "2", "3", "4", "5"] * 40,
        [str(number) for number in range(100)] * 500,
        [str(number) for number in range(100)] * 5,
        DIGITS * 5,
        DIGITS * 8,
        ["cat", "dog"] * 30,
        [],
    ],
)
def test_classes_called_by_numbers_are_no_amounts(labels: list[Any]):
    assert not are_amounts(rows(labels)[0])


def test_names_of_folders_are_classes_whatever_they_are_called():
    made: list[Any] = [{"image": f"/data/{place:.1f}/{place}.png", "label": f"{place:.1f}"} for place in range(60)]
    assert not are_amounts(made)
    assert are_amounts([row | {"image": "/data/images/1.png"} for row in made])


def test_healthy_numbers_have_no_findings():
    assert kinds(prices()) == {}
    assert kinds([str(value) for value in np.random.default_rng(1).normal(20, 3, 300)]) == {}


@pytest.mark.parametrize(
    ("label", "kind"),
    [("unknown", "not_a_number"), ("-5", "impossible_value"), ("0", "impossible_value"), ("9e9", "outlier")],
)
def test_a_fault_is_found_by_its_row(label: str, kind: str):
    labels = prices()
    labels[7] = label
    assert kinds(labels) == {kind: [9]}


def test_a_number_that_stands_for_nothing_is_found_where_it_repeats():
    labels = prices()
    labels[3] = labels[30] = labels[60] = "-1"
    assert kinds(labels)["placeholder"] == [5, 32, 62]


def test_times_without_events_are_said():
    labels = [{"days": str(10 + i), "died": "1" if i < 2 else "0"} for i in range(50)]
    assert set(kinds(labels)) == {"few_events"}
    labels[4], labels[9] = {"days": "-3", "died": "0"}, {"days": "soon", "died": "1"}
    assert kinds(labels) == {"bad_time": [6, 11]}


def test_doctor_reads_a_table_of_photos_and_writes_a_mended_one(tmp_path: Path):
    data = pictures.greys(tmp_path / "greys", 60)
    found = flow.doctor(data, target="bright")
    assert [finding.kind for finding in found.findings] == []
    table = data / "table.csv"
    lines = table.read_text().splitlines()
    lines[5] = f"{lines[5].split(',')[0]},about 12"
    table.write_text("\n".join(lines) + "\n")
    mended = flow.doctor(data, target="bright", fix=tmp_path / "mended")
    assert [finding.kind for finding in mended.findings] == ["not_a_number"]
    with (tmp_path / "mended" / "table.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 59
    assert all((tmp_path / "mended" / row["image"]).exists() for row in written)
    assert not flow.doctor(tmp_path / "mended", target="bright").findings
