"""The doctor for molecules: each finding with its rows, and a mended copy that has none of them any more."""

import csv
from pathlib import Path

import pytest

from budwood import flow
from budwood.engine.findings import Finding
from budwood.stages.results import Diagnosed

pytest.importorskip("rdkit", reason="molecules need the extra chem")

HEADER = "id,smiles,active"
GOOD = [f"g{i},{'C' * (i + 1)}O,{i % 2}" for i in range(24)]


def write(path: Path, lines: list[str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def by_kind(result: Diagnosed) -> dict[str, Finding]:
    return {finding.kind: finding for finding in result.findings}


def numbers(finding: Finding) -> list[int]:
    return [place.number for place in finding.rows]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_healthy_table_has_no_findings(tmp_path: Path) -> None:
    assert flow.doctor(write(tmp_path / "a.csv", GOOD)).findings == []


def test_every_fault_is_found_and_mended(tmp_path: Path) -> None:
    faults = [
        "bad,C(,1",  # line 26
        "none,CCN,",
        "again,OCC,1",  # g1 in another spelling, with its label
        "first,c1ccccc1,0",
        "second,C1=CC=CC=C1,1",
        "salt,CCCN.Cl,1",
    ]
    path, mended = write(tmp_path / "a.csv", [*GOOD, *faults]), tmp_path / "mended.csv"
    result = flow.doctor(path, fix=mended)
    found = by_kind(result)
    assert {kind: numbers(finding) for kind, finding in found.items()} == {
        "unparsable_smiles": [26],
        "empty_label": [27],
        "duplicate": [28],
        "conflict": [29, 30],
        "salt": [31],
    }
    assert "'C(' is not SMILES" in found["unparsable_smiles"].message
    assert all(finding.fix and finding.fixable for finding in result.findings)
    assert [finding.severity for finding in result.findings] == [*["warning"] * 4, "info"]
    kept = rows_of(mended)
    assert [row["id"] for row in kept] == [*(f"g{i}" for i in range(24)), "salt"]
    assert kept[-1] == {"id": "salt", "smiles": "CCCN", "active": "1"}
    assert kept[3] == {"id": "g3", "smiles": "CCCCO", "active": "1"}, "what was right is as it was"
    assert flow.doctor(mended).findings == []


def test_numbers_of_one_molecule_are_averaged_and_gaps_filled(tmp_path: Path) -> None:
    lines = [f"g{i},{'C' * (i + 1)}O,{i + 0.5}" for i in range(12)]
    path = write(tmp_path / "a.csv", [*lines, "again,OCC,4.5"])
    result = flow.doctor(path, fix=tmp_path / "mended.csv")
    (conflict,) = result.findings
    assert (conflict.kind, numbers(conflict)) == ("conflict", [3, 14])
    assert [row["active"] for row in rows_of(tmp_path / "mended.csv")][1] == "3.0"
    several = [f"{'C' * (i + 1)}O,{i % 2},{i // 2 % 2}" for i in range(24)]
    path = write(tmp_path / "b.csv", [*several, "CCCl,1,", "ClCC,,0"], "smiles,a,b")
    (repeat,) = flow.doctor(path, fix=tmp_path / "b-mended.csv").findings
    assert (repeat.kind, numbers(repeat)) == ("duplicate", [27])
    assert rows_of(tmp_path / "b-mended.csv")[-1] == {"smiles": "CCCl", "a": "1", "b": "0"}


def test_test_molecules_among_those_to_learn_from_are_an_error(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", GOOD)
    test = write(tmp_path / "test.csv", ["t1,OCC,1", "t2,c1ccccc1,0"])
    result = flow.doctor(train, test=test, fix=tmp_path / "mended.csv")
    (leak,) = result.findings
    assert (leak.kind, leak.severity, numbers(leak)) == ("leakage", "error", [3])
    assert "g1" not in {row["id"] for row in rows_of(tmp_path / "mended.csv")}
    split = [f"{line},{'test' if i >= 20 else 'train'}" for i, line in enumerate(GOOD)]
    whole = write(tmp_path / "whole.csv", [*split, "again,OCC,1,test"], f"{HEADER},split")
    (leak,) = flow.doctor(whole, fix=tmp_path / "whole-mended.csv").findings
    assert (leak.kind, numbers(leak)) == ("leakage", [3])
    kept = [row["id"] for row in rows_of(tmp_path / "whole-mended.csv")]
    assert "g1" not in kept
    assert kept[-1] == "again"


@pytest.mark.parametrize(
    ("labels", "kind", "severity"),
    [
        (["1"] * 24, "unusable_label", "error"),
        (["a", "b", "c"] * 8, "unusable_label", "error"),
        (["0"] * 21 + ["1"] * 3, "rare_class", "warning"),
    ],
)
def test_labels_that_cannot_be_learnt_or_measured_are_named(
    tmp_path: Path, labels: list[str], kind: str, severity: str
) -> None:
    lines = [f"g{i},{'C' * (i + 1)}O,{label}" for i, label in enumerate(labels)]
    found = by_kind(flow.doctor(write(tmp_path / "a.csv", lines), target="active"))
    assert found[kind].severity == severity
    assert found[kind].fix


def test_lopsided_classes_are_mentioned(tmp_path: Path) -> None:
    lines = [f"g{i},{'C' * (i % 60 + 1)}N{'C' * (i // 60)},{int(i < 10)}" for i in range(250)]
    found = by_kind(flow.doctor(write(tmp_path / "a.csv", lines)))
    assert found["imbalance"].severity == "info"
