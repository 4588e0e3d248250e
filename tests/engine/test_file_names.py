"""Names of files made from labels and paths: no way out of the folder, none twice, none too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from budwood.engine.file_names import FileNames, file_name


@pytest.mark.parametrize(
    ("text", "name"),
    [("cat", "cat"), ("..", "-"), (".", "-"), ("", "-"), (".git", "-git"), ("../x", "--x"), ("a\x00b", "a-b")],
)
def test_what_leads_elsewhere_is_replaced(text: str, name: str) -> None:
    assert file_name(text) == name


@given(some.text(max_size=300))
def test_any_text_is_the_name_of_one_visible_file(text: str) -> None:
    name = file_name(text)
    assert 0 < len(name.encode()) <= 120
    assert not name.startswith(".")
    assert not set(name) & set("/\\\x00\n")


def test_no_name_is_given_twice() -> None:
    names = FileNames()
    assert [names.unused(stem, ".png") for stem in ("a", "a", "a-2", "A", "a" * 300, "a" * 301)] == [
        "a.png",
        "a-2.png",
        "a-2-2.png",
        "A-3.png",
        "a" * 120 + ".png",
        "a" * 120 + "-2.png",
    ]
