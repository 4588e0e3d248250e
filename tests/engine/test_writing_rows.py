"""Tables as rows for text generation: prompts with completions, chats and texts."""

import json

import pytest

from budwood.core.errors import DataError
from budwood.engine.table import Table
from budwood.engine.writing_rows import joined, writing_rows

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def table(*rows: dict) -> Table:
    return Table(tuple(rows[0]), rows, range(2, len(rows) + 2), True)


def test_prompts_and_completions_are_told_by_name_and_kept_apart():
    found = writing_rows(table({"Instruction": "Say hi", "input": "loudly", "output": "HI"}), "t.csv")
    assert found.rows == [{"text": "Say hi\nloudly\nHI", "prompt": "Say hi\nloudly\n", "completion": "HI"}]
    assert found.numbers == [2]
    named = writing_rows(table({"a": "x", "b": " y", "prompt": "no"}), "t.csv", input="a", target="b")
    assert named.rows == [{"text": "x y", "prompt": "x", "completion": " y"}]
    assert [joined("x"), joined("x\n"), joined("x", " y")] == ["x\n", "x\n", "x"]


def test_chats_come_as_lists_or_as_json():
    for cell in (CHAT, json.dumps(CHAT)):
        found = writing_rows(table({"messages": cell}), "t.jsonl")
        assert found.rows == [{"text": "user: Hi\nassistant: Hello", "messages": CHAT}]


def test_texts_are_whole_documents_and_empty_ones_are_counted():
    found = writing_rows(table({"id": 1, "text": "one"}, {"id": 2, "text": " "}), "t.csv")
    assert found.rows == [{"text": "one"}]
    assert "1 empty" in found.notes[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "completion": ""}, "completion is empty"),
        ({"prompt": None, "completion": "x"}, "prompt is empty"),
        ({"messages": "no json"}, "not JSON"),
        ({"messages": CHAT[:1]}, "no answer"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role and content"),
        ({"one": "x", "two": "y"}, "no column is called text"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(row, message):
    with pytest.raises(DataError, match=message) as caught:
        writing_rows(table(row), "t.csv")
    assert "t.csv" in caught.value.where


def test_a_named_column_must_exist():
    with pytest.raises(DataError, match="no column 'c'"):
        writing_rows(table({"a": "x", "b": "y"}), "t.csv", input="c")
