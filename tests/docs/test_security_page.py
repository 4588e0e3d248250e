"""docs/security.md names tests: each of them is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = sorted(set(re.findall(r"`([a-z]+/test_\w+\.py(?:::\w+)?)`", (ROOT / "docs" / "security.md").read_text())))


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_page_names_is_there(name: str) -> None:
    file, _, function = name.partition("::")
    text = (ROOT / "tests" / file).read_text()
    assert not function or f"def {function}(" in text


def test_every_row_names_one() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    heads = {"| Threat", "| Request"}
    assert len(NAMED) > 30
    assert [row for row in rows if "/test_" not in row and row.split(" |")[0] not in heads] == []
