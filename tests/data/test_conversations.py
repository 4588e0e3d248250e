"""Tables of prompts with completions and of chats: which they are, and what their rows become."""

import json

import pytest

from budwood.core.errors import DataError
from budwood.data.conversations import Conversations
from budwood.engine.reading import read_dataset, read_inputs

PAIR = {"prompt": "Where is it?", "completion": "On the table."}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_tables_are_claimed_by_their_columns(tmp_path):
    claims = Conversations().claims
    assert claims(write(tmp_path / "a.jsonl", PAIR))
    assert claims(write(tmp_path / "b.jsonl", CHAT))
    assert claims(write(tmp_path / "long.jsonl", {"messages": [{"role": "user", "content": "x" * 100_000}]}))
    (tmp_path / "c.csv").write_text("Instruction,input,output\na,b,c\n")
    assert claims(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("prompt,completion,label\na,b,c\n")
    assert not claims(tmp_path / "d.csv")
    assert not claims(write(tmp_path / "e.jsonl", {"text": "a", "label": "b"}))
    assert not claims(tmp_path / "missing.csv")


def test_rows_of_pairs_and_chats(tmp_path):
    found = read_dataset(write(tmp_path / "a.jsonl", PAIR, {"prompt": "And now?\n", "completion": "Gone."}))
    assert found.dataset.rows[0] == {
        "text": "Where is it?\nOn the table.",
        "prompt": "Where is it?\n",
        "completion": "On the table.",
    }
    assert [place.number for place in found.places] == [1, 2]
    (row,) = read_dataset(write(tmp_path / "b.jsonl", CHAT)).dataset
    assert row == {"text": "user: Hi\nassistant: Hello", **CHAT}


def test_a_folder_names_its_splits_and_a_column_its_groups(tmp_path):
    write(tmp_path / "train.jsonl", PAIR | {"who": "a"})
    write(tmp_path / "test.jsonl", PAIR | {"who": "b"})
    rows = read_dataset(tmp_path, group="who").dataset.rows
    assert {(row["split"], row["group"]) for row in rows} == {("train", "a"), ("test", "b")}


def test_a_column_names_the_splits(tmp_path):
    pairs = [PAIR | {"who": who, "split": split} for who, split in (("a", "train"), ("b", "Test"), (None, "dev"))]
    rows = read_dataset(write(tmp_path / "a.jsonl", *pairs), group="who").dataset.rows
    assert [(row.get("group"), row["split"]) for row in rows] == [("a", "train"), ("b", "test"), (None, "validation")]
    reading = read_dataset(write(tmp_path / "b.jsonl", CHAT | {"split": "test"}))
    assert [row["split"] for row in reading.dataset] == ["test"]
    assert any(line.startswith("split=split") for line in reading.notes)


@pytest.mark.parametrize(("flag", "column"), [("group", "nope"), ("target", "nope"), ("group", "prompt")])
def test_columns_that_are_not_there_or_taken_are_refused(tmp_path, flag, column):
    path = write(tmp_path / "a.jsonl", PAIR | {"who": "a"})
    with pytest.raises(DataError, match=f"{column!r}"):
        read_dataset(path, **{"input": "prompt", flag: column})


def test_prompts_to_answer(tmp_path):
    assert read_inputs(write(tmp_path / "a.jsonl", PAIR)) == [{"text": "Where is it?\n"}]
    assert read_inputs(write(tmp_path / "b.jsonl", CHAT)) == [{"text": "", "messages": CHAT["messages"][:1]}]


def test_a_broken_row_is_named(tmp_path):
    with pytest.raises(DataError, match="completion is empty") as caught:
        read_dataset(write(tmp_path / "a.jsonl", PAIR, {"prompt": "x", "completion": ""}))
    assert "a.jsonl: row at line 2" in caught.value.where
