"""Parquet: plain columns only, nothing unpickled, damage reported."""

import pickle

import pyarrow as arrow
import pytest
from pyarrow import parquet

from budwood.core.errors import DataError
from budwood.data.parquet import Parquet
from budwood.engine.table import Table


def file_of(table: arrow.Table) -> bytes:
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_texts_numbers_lists_and_missing_values():
    columns = {"text": ["a", None], "label": [["x", "y"], []], "score": [1.5, float("nan")], "extra": [{"k": 1}, None]}
    table = Parquet().read(file_of(arrow.table(columns)), "t.parquet")
    assert table.columns == ("text", "label", "score")
    assert table.rows == [{"text": "a", "label": ["x", "y"], "score": 1.5}, {"text": None, "label": [], "score": None}]
    assert any("left out=extra" in line for line in table.notes)


def test_dictionary_columns_are_read_as_their_texts():
    labels = arrow.array(["a", "b", "a"]).dictionary_encode()
    table = Parquet().read(file_of(arrow.table({"text": ["x", "y", "z"], "label": labels})), "t.parquet")
    assert [row["label"] for row in table.rows] == ["a", "b", "a"]


class Trap(arrow.ExtensionType):
    """As pickled extension types do it: rebuilding the type from the file runs what the file holds."""

    sprung: list[bytes] = []  # noqa: RUF012  # the trap's record of being sprung

    def __init__(self):
        super().__init__(arrow.string(), "test.pickle")

    def __arrow_ext_serialize__(self):
        return pickle.dumps("harmless here")

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        cls.sprung.append(serialized)
        return cls()


def test_an_extension_type_is_refused_before_it_is_rebuilt():
    arrow.register_extension_type(Trap())
    try:
        column = arrow.ExtensionArray.from_storage(Trap(), arrow.array(["a", "b"]))
        content = file_of(arrow.table({"text": column, "label": ["x", "y"]}))
        Trap.sprung.clear()
        with pytest.raises(DataError, match="extension type"):
            Parquet().read(content, "t.parquet")
        assert Trap.sprung == []
    finally:
        arrow.unregister_extension_type("test.pickle")


@pytest.mark.parametrize("keep", [0, 4, 11, 100, -1, -9])
def test_a_truncated_file_is_refused(keep):
    content = file_of(arrow.table({"text": ["a", "b"], "label": ["x", "y"]}))[:keep]
    with pytest.raises(DataError, match="damaged"):
        Parquet().read(content, "t.parquet")


def test_damage_inside_is_refused_or_reported_as_data_error():
    content = file_of(arrow.table({"text": ["a" * 50, "b" * 50], "label": ["x", "y"]}))
    refused = 0
    for position in range(4, len(content) - 8, 7):
        broken = content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
        try:
            Parquet().read(broken, "t.parquet")
        except DataError:
            refused += 1
    assert refused, "some bytes matter"


def test_a_table_without_rows_is_refused():
    with pytest.raises(DataError, match="no rows"):
        Parquet().read(file_of(arrow.table({"text": arrow.array([], arrow.string())})), "t.parquet")


def test_what_is_written_is_read_back():
    rows = [{"text": "=1", "label": ["a", "b"]}, {"text": "ü", "label": ["c"]}]
    content = Parquet().write(Table(("text", "label"), rows, range(1, 3), True), "t.parquet")
    assert Parquet().read(content, "t.parquet").rows == rows


def test_a_column_name_that_occurs_twice_is_refused():
    twins = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], names=["text", "text"])
    with pytest.raises(DataError, match="'text' occurs twice"):
        Parquet().read(file_of(twins), "t.parquet")


def test_a_small_file_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr("budwood.data.parquet.MAX_BYTES", 10_000_000)
    content = file_of(arrow.table({"text": ["x" * 100_000] * 2000, "label": ["a"] * 2000}))
    assert len(content) < 300_000
    with pytest.raises(DataError, match="too large"):
        Parquet().read(content, "t.parquet")
