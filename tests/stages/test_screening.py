"""`predict --top` on a molecule model: ranked, with what is known of each molecule, whole after a kill, or refused."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compounds
import pytest
import tiny

from budwood import flow
from budwood.core.errors import BudwoodError, DataError, NotFoundError, UsageError
from budwood.core.store import Store
from budwood.engine import screening
from budwood.stages.screening import Question

pytest.importorskip("rdkit", reason="molecules need the extra chem")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screening")
    found = Store(folder / "models")
    found.publish("active", compounds.fingerprint_bundle(folder / "active"))
    found.publish("carbons", compounds.fingerprint_bundle(folder / "carbons", compounds.numbers()))
    both = [
        {"smiles": row["smiles"], "label": {"chlorine": int(row["label"]), "ring": int("1" in row["smiles"])}}
        for row in compounds.rows()
    ]
    found.publish("both", compounds.fingerprint_bundle(folder / "both", both))
    return folder / "models"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "library.csv"
    lines = [f"{row['smiles']},mol {i},{row['label']}" for i, row in enumerate(compounds.rows())]
    path.write_text("\n".join(["smiles,name,known", *lines, "C(,broken,1"]) + "\n")
    return path


def test_the_best_come_first_with_what_is_known_of_them(store: Path, library: Path) -> None:
    rows = list(flow.predict("active", file=library, top=10, store=store))
    assert [row["rank"] for row in rows] == list(range(1, 11))
    values = [row["value"] for row in rows]
    assert values == sorted(values, reverse=True)
    assert {"row", "smiles", "name", "uncertainty", "similarity", "in_domain", "in_training"} <= set(rows[0])
    assert "Cl" in rows[0]["smiles"]
    assert "label" not in rows[0]
    answers = list(flow.predict("active", [rows[0]["smiles"]], store=store))
    assert answers[0]["scores"]["1"] == pytest.approx(rows[0]["value"], abs=1e-5)


def test_without_a_question_every_row_is_answered_in_its_order(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "library.smi"
    path.write_text("CCO ethanol\nc1ccccc1CCl chloride\n")
    assert [row["smiles"] for row in flow.predict("active", file=path, store=store)] == ["CCO", "c1ccccc1CCl"]


def test_numbers_are_ranked_from_either_end(store: Path, library: Path) -> None:
    large = list(flow.predict("carbons", file=library, top=5, store=store))
    small = list(flow.predict("carbons", file=library, top=5, ascending=True, store=store))
    assert small[0]["value"] < small[-1]["value"] < large[-1]["value"] < large[0]["value"]


def test_a_property_is_chosen_by_its_name(store: Path, library: Path) -> None:
    chlorine, ring = (list(flow.predict("both", file=library, by=name, store=store)) for name in ("chlorine", "ring"))
    assert "Cl" in chlorine[0]["smiles"]
    assert all("1" in row["smiles"] for row in ring[:20])
    assert "1" not in ring[-1]["smiles"]
    (first,) = flow.predict("both", file=library, top=1, store=store)
    assert first == chlorine[0], "the first property is the default"


def test_known_labels_tell_the_enrichment_and_the_checkpoints_go(store: Path, library: Path) -> None:
    made = flow.screening("active", (), library, Question(target="known"), store=store)
    assert made is not None
    with made as found:
        assert len(list((store / ".work").glob("screen-*/screen.json"))) == 1
        assert (found.enrichment["labelled"], found.invalid) == (72, 1)
        assert found.enrichment["roc_auc"] > 0.9
        assert found.rows[0]["label"] == "1"
        assert len(found.rows) == 72, "fewer than the thousand that are listed by default"
    assert list((store / ".work").glob("screen-*/screen.json")) == []


def test_a_caller_that_fails_finds_the_result_again(store: Path, library: Path) -> None:
    rows = flow.predict("active", file=library, top=3, store=store)
    first = next(rows)
    rows.close()  # type: ignore[attr-defined]  # it is a generator
    made = flow.screening("active", (), library, Question(top=3), store=store)
    assert made is not None
    with made as found:
        assert (found.resumed_at, found.rows[0]) == (73, first)


def test_progress_has_the_lines_of_the_file_as_its_total(
    store: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "CHUNK", 20)
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(library.read_bytes()))
    said: list[tuple[int, int]] = []
    list(flow.predict("active", file=packed, top=2, store=store, progress=lambda what, *rest: said.append(rest[:2])))
    assert said == [(0, 0), (20, 75), (40, 75), (60, 75), (73, 75)]


@pytest.mark.parametrize(
    ("asked", "kind", "cause"),
    [
        ({"top": 0}, UsageError, "--top 0 is out of range"),
        ({"top": 3, "by": "potency"}, UsageError, "no property 'potency'"),
        ({"target": "active"}, DataError, "there is no column 'active'"),
        ({"top": 3, "input": "structure"}, DataError, "there is no column 'structure'"),
        ({"top": 3, "inputs": ["CCO"]}, UsageError, "one library is ranked at a time, and 2 inputs are given"),
        ({"top": 3, "file": None}, UsageError, "nothing is given"),
        ({"top": 3, "file": None, "inputs": ["CCO"]}, UsageError, "this is none"),
        ({"top": 3, "file": "."}, UsageError, "this is none"),
        ({"top": 3, "file": "missing.smi"}, NotFoundError, "no such file"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_at_once(
    store: Path, library: Path, asked: dict[str, Any], kind: type[BudwoodError], cause: str
) -> None:
    with pytest.raises(kind, match=cause) as caught:
        flow.predict("active", **({"file": library} | asked), store=store)
    assert caught.value.fix


def test_files_without_molecules_or_columns_or_classes_are_refused(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "library.smi"
    path.write_text("C(\nno-molecule\n")
    with pytest.raises(DataError, match="none of the 2 rows is a molecule"):
        list(flow.predict("active", file=path, top=3, store=store))
    path.write_text("")
    with pytest.raises(DataError, match="the file is empty"):
        list(flow.predict("active", file=path, top=3, store=store))
    with pytest.raises(DataError, match="the file has no columns"):
        flow.predict("active", file=path, target="known", store=store)
    table = tmp_path / "measured.csv"
    table.write_text("smiles,potency\nCCO,0.73\nCCCl,0.21\n")
    with pytest.raises(DataError, match=r"the label '0.73' is no class"):
        list(flow.predict("active", file=table, target="potency", store=store))


@pytest.mark.parametrize("asked", [{"by": "label"}, {"ascending": True}, {"target": "label"}])
def test_models_of_other_tasks_refuse_these_flags(tiny_bundle: Any, tmp_path: Path, asked: dict[str, Any]) -> None:
    Store(tmp_path / "models").publish("tickets", tiny_bundle)
    with pytest.raises(UsageError, match=r"is for ranking molecules, and this is a text_classification model"):
        flow.predict("tickets", [tiny.SENTENCES[0]], **asked, store=tmp_path / "models")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_command_writes_prints_or_gives_json(store: Path, library: Path, command: Callable[..., Any]) -> None:
    asked = ("predict", "active", "--file", library, "--top", 4, "--target", "known", "--store", store)
    code, out, err = command(*asked, "--json")
    rows = lines(out)
    assert (code, err, [row["rank"] for row in rows]) == (0, "", [1, 2, 3, 4])
    code, out, err = command(*asked)
    assert out.splitlines()[0].split() == ["rank", "value", "±", "similarity", "domain", "name", "SMILES"]
    assert rows[0]["smiles"] in out.splitlines()[1]
    assert "left out=1 rows" in err
    assert "enrichment=EF1%" in err
    assert "which flatters the enrichment" in err
    best = library.with_name("best.csv")
    code, out, err = command(*asked, "-o", best, "--json")
    assert (code, json.loads(out)["screened"], json.loads(out)["rows"]) == (0, 73, 4)
    with best.open(newline="") as file:
        assert [row["smiles"] for row in csv.DictReader(file)] == [row["smiles"] for row in rows]


def test_the_command_refuses_a_bad_file_before_it_screens(
    store: Path, library: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "chunks", None)
    asked = ("predict", "active", "--file", library, "--top", 4, "--store", store)
    code, _, err = command(*asked, "-o", library.with_name("best.xls"))
    assert (code, ".csv, .tsv or .jsonl" in err) == (2, True)
    before = library.read_bytes()
    code, _, err = command(*asked, "-o", library)
    assert (code, "overwrite the file that is read" in err, library.read_bytes()) == (2, True, before)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    from budwood import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(item) for item in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
