"""Which column is the text and which the label, and what label cells become."""

import pytest

from budwood.core.errors import DataError
from budwood.engine.columns import choose_columns
from budwood.engine.label_cells import to_labels
from budwood.engine.table import Table

TEXTS = [f"this is the long text number {index}, with words" for index in range(40)]
LABELS = ["a", "b"] * 20
NUMBERS = list(range(40))


def table(**columns) -> Table:
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return Table(tuple(columns), rows, range(2, len(rows) + 2), True)


def choose(data: Table, **options):
    return choose_columns(data, "t.csv", **options)


@pytest.mark.parametrize(
    "text", ["text", "Sentence", "review", "Message", "body", "ticketText", "question", "Review Text"]
)
@pytest.mark.parametrize("label", ["label", "Category", "intent", "class", "target", "tag", "topic", "label_name"])
def test_columns_are_found_by_name(text, label):
    chosen = choose(table(**{"id": NUMBERS, label: LABELS, text: TEXTS}))
    assert (chosen.inputs, chosen.target) == ((text,), label)


def test_columns_are_found_by_content():
    chosen = choose(table(column_1=LABELS, column_2=TEXTS))
    assert (chosen.inputs, chosen.target) == (("column_2",), "column_1")
    assert all("#" in line for line in chosen.notes)


def test_a_list_column_is_a_label_column():
    assert choose(table(x=TEXTS, y=[["a"], ["a", "b"]] * 20)).target == "y"


def test_two_rows_are_enough_for_two_columns_of_unlike_length():
    chosen = choose(table(one=["good", "bad"], two=["I liked it very much", "never again, it broke"]))
    assert (chosen.inputs, chosen.target) == (("two",), "one")


def test_flags_win():
    data = table(text=TEXTS, label=LABELS, other=[label * 2 for label in LABELS], title=TEXTS)
    chosen = choose(data, target="other", input="title,text", group="label")
    assert (chosen.inputs, chosen.target, chosen.group) == (("title", "text"), "other", "label")


def test_a_column_whose_name_has_a_comma_can_be_named():
    assert choose(table(**{"text, long": TEXTS, "label": LABELS}), input="text, long").inputs == ("text, long",)


@pytest.mark.parametrize("flag", ["target", "input", "group"])
def test_a_wrong_name_lists_the_columns_and_the_nearest(flag):
    with pytest.raises(DataError, match="there is no column 'lable'") as caught:
        choose(table(text=TEXTS, label=LABELS), **{flag: "lable"})
    assert caught.value.where == "t.csv: columns text, label"
    assert caught.value.fix == f"--{flag} label"


def test_several_label_columns_are_asked_about():
    with pytest.raises(DataError, match="several columns may be the label: topic, tag") as caught:
        choose(table(text=TEXTS, topic=LABELS, tag=LABELS))
    assert caught.value.fix == "--target topic or --target tag"


def test_several_text_columns_are_asked_about():
    with pytest.raises(DataError, match="several columns may be the text: column_2, column_3") as caught:
        choose(table(column_1=LABELS, column_2=TEXTS, column_3=TEXTS))
    assert caught.value.fix == "--input column_2 or --input column_3, or join them: --input column_2,column_3"


def test_a_surer_name_wins_and_the_other_text_is_mentioned():
    chosen = choose(table(subject=TEXTS, body=TEXTS, queue=LABELS))
    assert (chosen.inputs, chosen.target) == (("body",), "queue")
    assert any("--input body,subject" in line for line in chosen.notes)


def test_no_label_column_is_an_error_unless_none_is_needed():
    data = table(id=NUMBERS, text=TEXTS)
    with pytest.raises(DataError, match="no column looks like the label"):
        choose(data)
    assert choose(data, labelled=False).target is None
    assert choose(table(anything=["x", "y"]), labelled=False).inputs == ("anything",)


def test_one_column_cannot_be_text_and_label():
    with pytest.raises(DataError, match="'label' has two roles"):
        choose(table(text=TEXTS, label=LABELS), input="label", target="label")


@pytest.mark.parametrize(
    ("cells", "labels", "noted"),
    [
        (["cat", " cat ", "cat\n"], ["cat"] * 3, "label white space=2 rows"),
        ([1, "1", 1.0, "1.0", " 1 "], ["1"] * 5, "label numbers=1 rows"),
        (["1.0", "2.0", "beta"], ["1.0", "2.0", "beta"], None),
        ([0.5, True, False], ["0.5", "true", "false"], "label types=bool, float"),
        ([None, "", "  ", float("nan"), "NaN"], [None] * 5, None),
        (['["a", "b"]', "['c']", "[]", "d", ""], [["a", "b"], ["c"], [], ["d"], None], "labels=several a row"),
        ([["a", "a", 1], []], [["a", "1"], []], "labels=several a row"),
        (["[a]", "b"], ["[a]", "b"], None),
        (['["' + "[" * 5000, "b"], ['["' + "[" * 5000, "b"], None),
        (["-1", "1", "+1"], ["-1", "1", "+1"], None),
    ],
)
def test_label_cells(cells, labels, noted):
    found, notes = to_labels(cells)
    assert found == labels
    assert noted is None or any(line.startswith(noted) for line in notes)


def test_only_whole_numbers_lose_their_zeros() -> None:
    labels, notes = to_labels(["9.00", "98.09", "1.05", "7", "-3.0", "0.001", None])
    assert labels == ["9", "98.09", "1.05", "7", "-3", "0.001", None]
    assert notes == ("label numbers=2 rows  # 1.0 and 1 are one label",)
