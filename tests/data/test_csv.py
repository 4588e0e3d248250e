"""Text tables: delimiter, quoting, header and encoding by evidence, and errors that name the line."""

import csv as standard

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.errors import DataError
from budwood.data.csv import Csv
from budwood.engine.table import CELL_LIMIT, Table


def read(text: str | bytes, name: str = "t.csv", *, skip_bad: bool = False) -> Table:
    return Csv().read(text if isinstance(text, bytes) else text.encode(), name, skip_bad=skip_bad)


def cells(table: Table) -> list[list[object]]:
    return [list(row.values()) for row in table.rows]


@pytest.mark.parametrize(("delimiter", "shown"), [(",", ","), ("\t", "tab"), (";", ";"), ("|", "|")])
def test_the_delimiter_is_found_and_noted(delimiter, shown):
    table = read(f"text{delimiter}label\ngood day{delimiter}greeting\nsee you{delimiter}farewell\n", "data")
    assert table.columns == ("text", "label")
    assert any(line.startswith(f"delimiter={shown} ") for line in table.notes)


def test_semicolons_win_over_commas_inside_the_texts():
    table = read("text;label\nwell, yes;a\nno, sir;b\nyes, madam;a\n")
    assert cells(table) == [["well, yes", "a"], ["no, sir", "b"], ["yes, madam", "a"]]


def test_a_quoted_cell_may_span_lines_and_rows_keep_their_first_line_number():
    table = read('text,label\n"two\nlines, ""quoted""",a\nplain,b\n')
    assert cells(table) == [['two\nlines, "quoted"', "a"], ["plain", "b"]]
    assert list(table.numbers) == [2, 4]


def test_windows_line_ends_blank_lines_and_a_missing_last_line_end():
    table = read("text,label\r\n\r\ngood day,a\r\nsee you,b")
    assert cells(table) == [["good day", "a"], ["see you", "b"]]
    assert list(table.numbers) == [3, 4]


def test_unbalanced_quotes_in_a_tab_table_are_text():
    table = read('ham\t"Hello there\nspam\twin a 5" pipe\nham\tend"\n')
    assert cells(table) == [["ham", '"Hello there'], ["spam", 'win a 5" pipe'], ["ham", 'end"']]
    assert any(line.startswith("quoting=off") for line in table.notes)


def test_a_quote_that_would_swallow_whole_lines_of_a_tab_table_is_text():
    table = read('"Hello\ta\nmiddle\tb\nend"\tc\n')
    assert len(table.rows) == 3


def test_balanced_quotes_in_a_tab_table_are_quoting():
    table = read('text\tlabel\n"a\ttab"\tx\n"two\nlines"\ty\n', "t.tsv")
    assert cells(table) == [["a\ttab", "x"], ["two\nlines", "y"]]


def test_odd_separators_inside_a_text_do_not_end_the_line():
    table = read("ham\tnext\x85line and\x0bmore\nspam\tfine\n")
    assert cells(table) == [["ham", "next\x85line and\x0bmore"], ["spam", "fine"]]


def test_spaces_before_quoted_cells_are_skipped():
    table = read('text, label\n"hello, there", "a"\n"bye, now", "b"\n')
    assert cells(table) == [["hello, there", "a"], ["bye, now", "b"]]


def test_one_text_a_line():
    table = read("Where is my parcel, please?\nIt came today\nI want it, all of it, back, now\n", "texts.txt")
    assert not table.header
    assert len(table.rows) == 3
    assert table.columns == ("column_1",)


def test_one_column_with_a_header_and_quotes():
    table = read('text\n"Hello, you"\nplain\n')
    assert cells(table) == [["Hello, you"], ["plain"]]


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("sentence\tlabel\nso good\t1\nso bad\t0\n", True),
        ("0\tso bad\n1\tso good\n0\tnot good\n", False),
        ("ham\tsee you\nspam\twin now\nham\thello\n", False),
        ("utterance_x,kind_of\nplease tell me where my parcel is,a\nI would like to have it back,b\n", True),
        (",text,label\n0,good day,a\n1,see you,b\n", True),
        ("remark,toxic\nfine day,0\nbad day,1\n", True),
        ("good day,greeting\n", False),
        ("good,pos\nbad,neg\n", False),
    ],
)
def test_header_or_not(text, header):
    assert read(text).header is header


def test_an_unnamed_first_column_gets_a_name():
    assert read(",text,label\n0,good day,a\n").columns == ("column_1", "text", "label")


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"text,label\n", b"\xef\xbb\xbf"])
def test_an_empty_file_or_a_lone_header_is_refused(content):
    with pytest.raises(DataError, match=r"the file is empty|a header and no rows"):
        read(content)


def test_a_ragged_line_is_named_with_its_columns():
    with pytest.raises(DataError, match="the line has 3 columns, expected 2") as caught:
        read("text,label\na,b\nc,d\ne,f,g\nh,i\nj,k\n")
    assert caught.value.where == "t.csv: line 4"


def test_ragged_lines_can_be_left_out_and_are_listed():
    table = read("text,label\na,b\nc,d\ne,f,g\nh,i\nj,k\n", skip_bad=True)
    assert len(table.rows) == 4
    assert table.skipped == ((4, "the line has 3 columns, expected 2"),)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('text,label\na,b\nc,d\ne,f\n"never closed,g\nh,i\n', 5),
        ('text,label\na,b\nc,d\n"x" y,f\ng,h\n', 4),
        ('text,label\na,b\nc,d\ne,f\n"open,g\n"shut",h\n', 5),
    ],
)
def test_a_broken_quote_names_the_line_on_which_it_opens(text, line):
    with pytest.raises(DataError, match="quote") as caught:
        read(text)
    assert caught.value.where == f"t.csv: line {line}"


@pytest.mark.parametrize("quote", ['"', ""])
def test_a_cell_of_two_megabytes_is_refused_with_its_line(quote):
    before = standard.field_size_limit()
    with pytest.raises(DataError, match="a cell is longer than 1,000,000 characters") as caught:
        read(f"text,label\na,b\n{quote}{'x' * (2 * CELL_LIMIT)}{quote},c\n")
    assert caught.value.where == "t.csv: line 3"
    assert standard.field_size_limit() == before


def test_a_long_cell_below_the_limit_is_read():
    table = read(f"text,label\n{'x ' * 200_000},c\nb,d\n")
    assert len(str(table.rows[0]["text"])) == 400_000


def test_a_column_name_that_occurs_twice_is_refused():
    with pytest.raises(DataError, match="'text' occurs twice"):
        read("text,text,label\na,b,c\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding):
    content = "text,label\nCafé – où êtes-vous?,naïve\n“Straße”,groß\n".encode(encoding)
    table = read(content)
    assert cells(table) == [["Café – où êtes-vous?", "naïve"], ["“Straße”", "groß"]]
    assert table.notes[0].startswith(f"encoding={encoding} ")


@pytest.mark.parametrize(
    ("content", "byte"),
    [
        ("text,label\nпривет как дела,a\n".encode("cp1251"), 11),
        ("text,label\nzażółć gęślą,a\n".encode("cp1250"), 13),
        ("text,label\n今日は,a\n".encode("shift_jis"), 11),
        ("text,label\ncafé ".encode() + b"\xff,a\n", 17),
        (b"text,label\nab\x00c,a\n", 13),
        ("text,label\nab,a\n".encode("utf-16-le"), 1),
        ("text,label\nab,a\n".encode("utf-16") + b"x", 34),
    ],
)
def test_bytes_that_are_no_text_are_named_and_never_guessed(content, byte):
    with pytest.raises(DataError) as caught:
        read(content)
    assert caught.value.where == f"t.csv: byte {byte}"


@pytest.mark.parametrize("prefix", ["=", "+", "-", "@", "\t"])
@pytest.mark.parametrize("name", ["out.csv", "out.tsv"])
def test_cells_that_spreadsheets_would_run_are_written_verbatim(prefix, name):
    rows = [{"text": f"{prefix}cmd()", "label": "a"}, {"text": "plain text", "label": "b"}]
    table = Table(("text", "label"), rows, range(1, 3), True)
    content = Csv().write(table, name)
    assert f"{prefix}cmd()".encode() in content
    assert Csv().read(content, name).rows == rows


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@given(st.lists(st.tuples(words, st.sampled_from(["a", "b, c", 'd "e"', "f\ng"])), min_size=1, max_size=8))
@pytest.mark.parametrize("name", ["out.csv", "out.tsv"])
def test_what_is_written_is_read_back(name, pairs):
    rows = [{"text": text, "label": label} for text, label in pairs]
    content = Csv().write(Table(("text", "label"), rows, range(1, len(rows) + 1), True), name)
    assert list(Csv().read(content, name).rows) == rows
