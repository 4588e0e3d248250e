"""Answers come in chunks: every input is checked first, and no more rows are answered than are asked for."""

import json
from pathlib import Path

import pytest
import tiny

from budwood.core.errors import DataError
from budwood.core.store import Entry
from budwood.engine.predictor import Predictor
from budwood.stages import asking


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    pytest.importorskip("onnx")
    return Entry("t", 1, tiny.bundle(tmp_path / "bundle"))


def table(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_answers_are_made_a_chunk_at_a_time(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    predict_all = Predictor.predict_all

    def counted(self, rows, *given, **named):
        sizes.append(len(rows))
        return predict_all(self, rows, *given, **named)

    monkeypatch.setattr(Predictor, "predict_all", counted)
    monkeypatch.setattr(asking, "CHUNK", 4)
    texts = [f"text {i}" for i in range(10)]
    found = asking.answers(entry, (), table(tmp_path / "t.jsonl", texts), None, 1)
    assert next(found)["text"] == "text 0"
    assert sizes == [4]
    assert [answer["text"] for answer in found] == texts[1:]
    assert sizes == [4, 4, 2]


def test_a_wrong_row_is_named_before_the_first_answer(entry: Entry, tmp_path: Path) -> None:
    data = table(tmp_path / "t.jsonl", ["fine", " ", "fine"])
    with pytest.raises(DataError) as caught:
        asking.answers(entry, (), data, None, 1)
    assert "t.jsonl, row 2" in caught.value.where
