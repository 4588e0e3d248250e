"""Screening: the right list, the same in one process and in several, whole and resumed."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import compounds
import pytest

from budwood.core.bundle import Bundle
from budwood.core.errors import DataError, NotFoundError, StepError, UsageError

pytest.importorskip("rdkit", reason="molecules need the extra chem")

from budwood.engine import screening
from budwood.engine.library import open_library
from budwood.engine.predictor import Predictor
from budwood.engine.screening import screen
from budwood.engine.screening_pool import Pool
from budwood.engine.screening_worker import Opening


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return compounds.fingerprint_bundle(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "CHUNK", 10)


def library(folder: Path) -> Path:
    """The molecules with one broken line, one other spelling, and a name for some."""
    texts = [row["smiles"] for row in compounds.rows()]
    lines = [f"{text} name {number}" for number, text in enumerate(texts)]
    lines[5:5] = ["C(", "ClCc1ccccc1 benzyl chloride again"]
    path = folder / "library.smi"
    path.write_text("\n".join(lines) + "\n")
    return path


def plain(rows: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(row["row"], row["smiles"]) for row in rows]


def test_the_best_are_those_that_predict_would_put_first(model: Bundle, tmp_path: Path) -> None:
    path = library(tmp_path)
    found = screen(model, open_library(path), top=12, work=tmp_path / "work")
    texts = [line.split()[0] for line in path.read_text().splitlines()]
    predictor = Predictor.open(model)
    valid = [(number, text) for number, text in enumerate(texts, 1) if text != "C("]
    answers = predictor.predict_all([{"smiles": text} for _, text in valid])
    predictor.close()
    ranked = sorted(zip(valid, answers, strict=True), key=lambda item: (-item[1]["scores"]["1"], item[0][0]))
    repeated = 7
    expected = [(number, text) for (number, text), _ in ranked if number != repeated][:12]
    assert plain(found.rows) == expected
    assert [row["rank"] for row in found.rows] == list(range(1, 13))
    assert (found.screened, found.invalid, found.repeated) == (74, 1, 1)
    best = found.rows[0]
    assert best["value"] == pytest.approx(ranked[0][1]["scores"]["1"], abs=1e-6)
    assert {"similarity", "in_domain", "in_training", "uncertainty", "name"} <= set(best)
    assert any(row["in_training"] for row in found.rows)
    assert found.enrichment == {}


def test_repeats_take_no_place_in_the_list(model: Bundle, tmp_path: Path) -> None:
    texts = [row["smiles"] for row in compounds.rows()]
    best = screen(model, open_library(library(tmp_path)), top=3, work=tmp_path / "one").rows
    path = tmp_path / "repeats.smi"
    path.write_text("\n".join([best[0]["smiles"]] * 6 + texts) + "\n")  # a chunk has ten records
    found = screen(model, open_library(path), top=3, work=tmp_path / "two")
    assert [row["smiles"] for row in found.rows] == [row["smiles"] for row in best]
    alone = tmp_path / "alone.smi"
    alone.write_text("\n".join([best[0]["smiles"]] * 5 + [best[1]["smiles"], "C" * 20]) + "\n")
    found = screen(model, open_library(alone), top=3, work=tmp_path / "three")
    assert [row["row"] for row in found.rows] == [1, 6, 7]
    assert found.repeated == 4
    assert all("in_domain" in row for row in found.rows)


def test_processes_find_the_same_list(model: Bundle, tmp_path: Path) -> None:
    path = library(tmp_path)
    alone = screen(model, open_library(path), top=5, work=tmp_path / "one", workers=0)
    several = screen(model, open_library(path), top=5, work=tmp_path / "two", workers=2)
    assert several.rows == alone.rows
    assert several.screened == alone.screened


def test_a_stopped_screen_goes_on_where_it_was(model: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "library.csv"
    rows = [f"{row['smiles']},{row['label']}" for row in compounds.rows()]
    path.write_text("smiles,label\n" + "\n".join(rows) + "\n")
    opened = open_library(path, target="label")
    whole = screen(model, opened, top=9, work=tmp_path / "whole")
    monkeypatch.setattr(screening, "SAVE_SECONDS", 0.0)

    def stop(what: str, done: int, total: int, note: str) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(model, opened, top=9, work=tmp_path / "work", progress=stop)
    state = json.loads((tmp_path / "work" / "screen.json").read_text())
    assert 0 < state["position"] < 72
    with (tmp_path / "work" / "scores.bin").open("ab") as file:
        file.write(b"\1" * 7)  # what was written after the last checkpoint does not count
    resumed = screen(model, opened, top=9, work=tmp_path / "work")
    assert resumed.resumed_at == state["position"]
    assert (resumed.rows, resumed.enrichment) == (whole.rows, whole.enrichment)
    assert resumed.screened == 72
    assert screen(model, opened, top=9, work=tmp_path / "work").rows == whole.rows, "the result can be had again"


def test_another_question_starts_anew(model: Bundle, tmp_path: Path) -> None:
    opened = open_library(library(tmp_path))
    screen(model, opened, top=3, work=tmp_path / "work")
    again = screen(model, opened, top=4, work=tmp_path / "work")
    assert (again.resumed_at, len(again.rows)) == (0, 4)
    worst = screen(model, opened, top=4, ascending=True, work=tmp_path / "work")
    assert worst.resumed_at == 0
    assert worst.rows[0]["value"] < again.rows[0]["value"]
    (tmp_path / "work" / "screen.json").write_text('{"key": ')
    assert screen(model, opened, top=4, work=tmp_path / "work").rows == again.rows


def test_known_labels_give_the_enrichment(model: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "library.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in compounds.rows()))
    found = screen(model, open_library(path, target="label"), top=2, work=tmp_path / "work").enrichment
    actives = sum(row["label"] == "1" for row in compounds.rows())
    assert (found["labelled"], found["actives"]) == (72, actives)
    assert found["roc_auc"] > 0.9
    assert found["ef1"] == pytest.approx(72 / actives, abs=1e-3)
    assert found["bedroc"] > 0.9


def test_a_compressed_table_is_read_as_it_streams(tmp_path: Path) -> None:
    path = tmp_path / "library.csv.gz"
    path.write_bytes(gzip.compress(b'mol_id,smiles\nT1,CCO\n"T,2",CCN\n\nT3,\n'))
    records = list(open_library(path).records())
    assert [(record.smiles, record.name) for record in records] == [("CCO", "T1"), ("CCN", "T,2"), ("", "T3")]


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.csv", "text,label\nhello there,1\n", "no column holds SMILES"),
        ("a.xlsx", "smiles\n", "format of the library is unknown"),
        ("a.smi", "CCO\n" + "C" * 100_001, "longer than 100,000 characters"),
        ("a.smi", b"CCO\n\xff\xfe", "not UTF-8"),
        ("a.smi.gz", b"\x1f\x8b\x08\x00damaged", "damaged"),
        ("a.smi.gz", b"no archive", "damaged"),
    ],
)
def test_what_is_no_library_is_refused(tmp_path: Path, name: str, content: str | bytes, cause: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=cause):
        list(open_library(path).records())


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['"CCO,bad'] + ["CCN,good"] * 300 + ['CCN,"good"'], 2),
        (["CCN,good"] * 60 + ['CCO,"bad'] + ["CCN,good"] * 20_000, 62),
        (["CCN,good"] * 60 + ['CCO,"bad'], 62),
    ],
    ids=("closed much later", "longer than a field may be", "in the last line"),
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_stray_quote_swallows_no_records(tmp_path: Path, rows: list[str], line: int, end: str) -> None:
    path = tmp_path / "library.csv"
    path.write_text("\n".join(["smiles,id", *rows]) + end)
    with pytest.raises(DataError) as caught:
        list(open_library(path).records())
    assert caught.value.where == f"library.csv: line {line}"
    assert "quote" in caught.value.fix


def test_wrong_names_and_numbers_are_refused(model: Bundle, tmp_path: Path) -> None:
    path = library(tmp_path)
    with pytest.raises(NotFoundError):
        open_library(tmp_path / "none.smi")
    with pytest.raises(UsageError, match="--top 0"):
        screen(model, open_library(path), top=0, work=tmp_path / "work")
    with pytest.raises(UsageError, match="no property 'potency'"):
        screen(model, open_library(path), by="potency", work=tmp_path / "work")
    table = tmp_path / "a.csv"
    table.write_text("smiles,label\nCCO,1\n")
    with pytest.raises(DataError, match="no column 'active'"):
        open_library(table, target="active")


def test_a_file_of_the_working_directory_named_like_a_library_does_not_run(model: Bundle, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)\n")
    with Pool(Opening(str(model.path), None, False, 5), 1) as pool:
        assert pool.submit(["CCO"], 0.0)()


def test_a_process_that_dies_is_an_error_that_says_how_to_go_on(model: Bundle) -> None:
    with Pool(Opening(str(model.path), None, False, 5), 1) as pool:
        process = pool.idle.get()
        process.kill()
        process.wait()
        pool.idle.put(process)
        with pytest.raises(StepError, match="ended with status -9") as caught:
            pool.submit(["CCO"], 0.0)()
    assert "goes on" in caught.value.fix
