"""`predict` reads texts, files, tables and standard input in their order, and writes files whole or not at all."""

import csv
import json

import pytest

from budwood import flow


@pytest.fixture
def model(tiny_bundle):
    flow.models().publish("tickets", tiny_bundle)
    return "tickets"


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_one_json_object_for_each_text(run, model):
    ran = run("predict", model, "Where is my parcel?", "I want my money back.", "--top", "2", "--json")
    rows = rows_of(ran.out)
    assert [row["text"] for row in rows] == ["Where is my parcel?", "I want my money back."]
    assert all(row["label"] in row["scores"] and len(row["scores"]) == 2 for row in rows)
    assert ran.err == ""


def test_a_person_sees_the_label_first(run, model):
    (answer,) = rows_of(run("predict", model, "Where is my parcel?", "--json").out)
    ran = run("predict", model, "Where is my parcel?")
    assert ran.out.startswith(answer["label"])
    assert ran.out.endswith("Where is my parcel?\n")


def test_arguments_files_and_standard_input_keep_their_order(run, model, tmp_path):
    (tmp_path / "some.txt").write_text("line one\r\n\nline two\n", encoding="utf-8")
    (tmp_path / "table.csv").write_text('text,label\n"from, the table",delivery\n', encoding="utf-8")
    (tmp_path / "more.jsonl").write_text('{"text": "from jsonl"}\n', encoding="utf-8")
    line = ("predict", model, "first", "some.txt", "table.csv", "-", "last", "--file", "more.jsonl", "--json")
    ran = run(*line, stdin="\ufeffpiped\n".encode())
    texts = ["first", "line one", "line two", "from, the table", "piped", "last", "from jsonl"]
    assert [row["text"] for row in rows_of(ran.out)] == texts


def test_empty_lines_are_left_out_and_counted(run, model, tmp_path):
    (tmp_path / "some.txt").write_text("a\n\n \nb\n", encoding="utf-8")
    ran = run("predict", model, "--file", "some.txt")
    assert len(ran.out.splitlines()) == 2
    assert "some.txt: 2 empty lines are left out" in ran.err


def test_a_text_that_is_no_possible_path_is_a_text(run, model):
    assert len(rows_of(run("predict", model, "x" * 5000, "a\nb", "--json").out)) == 2


def test_a_text_file_that_is_not_utf8_names_its_line(run, model, tmp_path):
    (tmp_path / "some.txt").write_bytes(b"fine\ncaf\xe9\n")
    ran = run("predict", model, "some.txt")
    assert ran.code == 3
    assert "where: some.txt: line 2" in ran.err


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_out_writes_a_file_and_prints_no_data(run, model, tmp_path, suffix):
    ran = run("predict", model, "one, two", 'quo"te\nline', "-o", f"out.{suffix}")
    assert (ran.code, ran.out) == (0, "")
    assert f"wrote 2 answers to out.{suffix}" in ran.err
    with (tmp_path / f"out.{suffix}").open(encoding="utf-8", newline="") as file:
        if suffix == "jsonl":
            found = [json.loads(line) for line in file]
        else:
            found = list(csv.DictReader(file, delimiter="\t" if suffix == "tsv" else ","))
            assert all(json.loads(row["scores"]) for row in found)
    assert [row["text"] for row in found] == ["one, two", 'quo"te\nline']


def test_a_failed_run_leaves_the_old_file(run, model, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    out.write_text("old")

    def answers(*arguments, **parameters):
        yield {"label": "a"}
        raise RuntimeError("halfway")

    monkeypatch.setattr(flow, "predict", answers)
    assert run("predict", model, "text", "-o", out).code == 1
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".staging")] == []


def test_out_of_an_unknown_kind_is_refused_before_any_work(run, model):
    ran = run("predict", model, "text", "-o", "out.xls")
    assert ran.code == 2
    assert ".csv, .tsv or .jsonl" in ran.err


def test_an_unknown_model_suggests(run, model):
    ran = run("predict", "tickts", "text", "--json")
    assert (ran.code, ran.error["fix"]) == (4, "did you mean tickets?")


def test_a_missing_table_is_not_found(run, model):
    assert run("predict", model, "--file", "missing.csv").code == 4


def test_an_empty_text_names_the_input(run, model):
    ran = run("predict", model, "fine", " ")
    assert ran.code == 3
    assert "input 2" in ran.err


def test_one_input_need_not_stand_in_a_list(model):
    (answer,) = flow.predict(model, "Where is my parcel?")
    assert answer["text"] == "Where is my parcel?"


def test_what_cannot_be_answered_is_counted_and_nothing_answered_is_a_failure(run, model, monkeypatch):
    broken = {"error": "the image is damaged"}
    monkeypatch.setattr(flow, "predict", lambda *given, **more: iter([broken, {"label": "a"}]))
    ran = run("predict", model, "x")
    assert ran.code == 0
    assert "1 of 2 inputs could not be answered" in ran.err
    monkeypatch.setattr(flow, "predict", lambda *given, **more: iter([broken]))
    ran = run("predict", model, "x", "--json")
    assert ran.code == 3
    assert rows_of(ran.out) == [broken]
    assert "no input could be answered" in ran.err
