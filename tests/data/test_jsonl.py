"""JSON lines and JSON lists: strict values, and errors that name the line."""

import json

import pytest

from budwood.core.errors import DataError
from budwood.data.jsonl import Jsonl
from budwood.engine.table import CELL_LIMIT, Table

GOOD = '{"text": "hello", "label": "a"}\n'


def read(text: str, *, skip_bad: bool = False) -> Table:
    return Jsonl().read(text.encode(), "t.jsonl", skip_bad=skip_bad)


def test_lines_with_blank_ones_between_and_windows_line_ends():
    table = read(GOOD.replace("\n", "\r\n") + "\r\n" + '{"text": "bye", "label": ["a", "b"], "n": 1}\r\n')
    assert table.columns == ("text", "label", "n")
    assert table.rows[0] == {"text": "hello", "label": "a", "n": None}
    assert list(table.numbers) == [1, 3]


def test_a_json_list():
    table = read(json.dumps([{"text": "hello", "label": 1}, {"text": "bye", "label": 0.5}], indent=2))
    assert [row["label"] for row in table.rows] == [1, 0.5]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"text": "a", "label": ', "not valid JSON"),
        ('{"text": "a", "label": NaN}', "NaN is not JSON"),
        ('{"text": "a", "label": -Infinity}', "-Infinity is not JSON"),
        ('{"text": "a", "label": 1e999}', "the number 1e999 is too large"),
        ('{"text": "a", "label": %s}' % ("9" * 5000), "Exceeds the limit"),
        ('{"text": "a", "text": "b"}', "the key 'text' occurs twice"),
        ('{"text": {"en": "a"}, "label": "b"}', "the value of 'text' is an object"),
        ('{"text": "a", "label": [["b"]]}', "the value of 'label' is a list of lists or objects"),
        ('{"text": "a", "label": [{"b": 1}]}', "the value of 'label' is a list of lists or objects"),
        ("[" * 100_000, "nested too deeply"),
        ('"just a text"', "expected an object"),
        ('{"text": "%s"}' % ("x" * (2 * CELL_LIMIT)), "2,000,000 characters"),
    ],
)
def test_a_broken_line_is_named_and_can_be_left_out(line, cause):
    text = GOOD * 2 + line + "\n" + GOOD
    with pytest.raises(DataError, match=cause) as caught:
        read(text)
    assert caught.value.where == "t.jsonl: line 3"
    table = read(text, skip_bad=True)
    assert len(table.rows) == 3
    assert [number for number, _ in table.skipped] == [3]


def test_a_broken_list_names_its_line():
    with pytest.raises(DataError, match="not valid JSON") as caught:
        read('[\n{"text": "a"},\n{"text": }\n]')
    assert caught.value.where == "t.jsonl: line 3"


def test_a_list_nested_too_deeply_is_refused():
    with pytest.raises(DataError, match="nested too deeply"):
        read("[" * 100_000)


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
def test_no_rows_is_an_error(text):
    with pytest.raises(DataError, match="the file is empty"):
        read(text)


@pytest.mark.parametrize("name", ["out.jsonl", "out.json"])
def test_what_is_written_is_read_back(name):
    rows = [{"text": "=1+1\nü", "label": ["a", "b"]}, {"text": "[b", "label": []}]
    content = Jsonl().write(Table(("text", "label"), rows, range(1, 3), True), name)
    assert Jsonl().read(content, name).rows == rows


@pytest.mark.parametrize(("content", "sure"), [(b'{"text": 1}', True), (b'[{"text": 1}]', True), (b"[b] text", False)])
def test_sniffing(content, sure):
    assert (Jsonl().sniff(content) > 0.5) is sure
