"""Texts to learn writing from: which files they are, what a document is, and what a part of one is."""

import pytest

from budwood.core.errors import DataError, UsageError
from budwood.data.text import Text

PROSE = "It was a dark night, and\nnobody slept.\n\nThe wind sang.\n"


def test_prose_is_claimed_and_tables_are_not(tmp_path):
    (tmp_path / "book.txt").write_text(PROSE)
    assert Text().claims(tmp_path)
    assert Text().claims(tmp_path / "book.txt")
    (tmp_path / "table.txt").write_text("good\tfine work\nbad\tit broke\n")
    assert not Text().claims(tmp_path / "table.txt")
    assert not Text().claims(tmp_path)
    (tmp_path / "table.txt").unlink()
    (tmp_path / "picture.jpg").touch()
    assert not Text().claims(tmp_path)
    assert not Text().claims(tmp_path / "missing.txt")


def test_documents_end_at_their_mark(tmp_path):
    (tmp_path / "a.txt").write_text(
        "<|startoftext|>one\n\nmore<|endoftext|>\n<|startoftext|>two\n<|endoftext|>\n\n", encoding="utf-8"
    )
    found = Text().read(tmp_path / "a.txt")
    assert list(found.dataset) == [{"text": "one\n\nmore"}, {"text": "two"}]
    assert [place.number for place in found.places] == [1, 4]
    assert any("split at <|endoftext|>" in note for note in found.notes)


def test_each_file_is_a_document_and_may_name_its_split(tmp_path):
    for name, text in (("train.txt", "one"), ("test.txt", "two"), (".hidden", "no")):
        (tmp_path / name).write_text(text)
    found = Text().read(tmp_path)
    assert {row["text"]: row["split"] for row in found.dataset} == {"one": "train", "two": "test"}
    assert found.facts["rows"] == 2
    assert len(found.facts["sources"]) == 2


def test_a_long_text_is_cut_at_blank_lines_and_adds_up_again(tmp_path):
    text = "\n\n".join(f"Paragraph {i}. " + "word " * 60 for i in range(100))
    (tmp_path / "book.txt").write_text(text)
    rows = list(Text().read(tmp_path / "book.txt").dataset)
    assert len(rows) > 8
    assert "".join(row["text"] for row in rows) == text
    assert all(row["text"].startswith("Paragraph") for row in rows)
    assert "starts" not in rows[0]
    assert rows[0]["ends"] is False
    assert "ends" not in rows[-1]
    assert all(row["starts"] is row["ends"] is False for row in rows[1:-1])


def test_western_windows_text_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("\u201cIt\u2019s a caf\u00e9,\u201d he said.".encode("cp1252"))
    found = Text().read(tmp_path / "a.txt")
    assert found.dataset.rows[0]["text"] == "\u201cIt\u2019s a café,\u201d he said."
    assert any("cp1252" in note for note in found.notes)


def test_nothing_to_learn_and_columns_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n<|endoftext|>\n")
    with pytest.raises(DataError, match="there is no text"):
        Text().read(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="no columns"):
        Text().read(tmp_path / "a.txt", target="label")


def test_lines_are_inputs(tmp_path):
    (tmp_path / "a.txt").write_text("Where is my parcel?\n\nIt came today\n")
    assert Text().inputs(tmp_path / "a.txt") == [{"text": "Where is my parcel?"}, {"text": "It came today"}]


@pytest.mark.shared
def test_the_real_corpora(shared_data):
    generation = shared_data / "generation"
    adventures = Text().read(generation / "text_adventures" / "text_adventures.txt")
    assert len(adventures.dataset) == 192
    assert any("cp1252" in note for note in adventures.notes)
    plays = Text().read(generation / "tinyshakespeare" / "input.txt")
    assert sum(len(row["text"]) for row in plays.dataset) == pytest.approx(1_115_394, abs=2)
