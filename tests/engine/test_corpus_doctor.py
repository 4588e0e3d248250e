"""The doctor of texts without labels: repeats, leaks, wrong encodings, leftovers, and too little text."""

from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest

from budwood import flow
from budwood.core.errors import DataError, UsageError
from budwood.engine.corpus_doctor import diagnose_corpus
from budwood.engine.reading import read_dataset

STORY = "The old man had a red boat, and every day he rowed it over the lake number {} and came back at night. "


def corpus(path: Path, texts: list[str]) -> Path:
    path.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    return path


def kinds(path: Path) -> dict[str, list[int]]:
    return {item.kind: [place.number for place in item.rows] for item in flow.doctor(path).findings}


def varied(number: int) -> str:
    """A text of 150 words that no other has."""
    random = np.random.default_rng(number)
    return " ".join("".join(random.choice(list(ascii_lowercase), 6)) for _ in range(150))


def test_healthy_texts_have_no_finding(tmp_path: Path) -> None:
    assert kinds(corpus(tmp_path / "good.txt", [varied(i) for i in range(60)])) == {}


def test_each_fault_is_found(tmp_path: Path) -> None:
    texts = [varied(i) for i in range(60)]
    texts += [varied(3), "Short.", "It was cafÃ© time " + varied(70), "a\x07bell " + varied(71), f"<p>{varied(72)}</p>"]
    texts += [varied(80) + " end one", varied(80) + " end two"]
    found = flow.doctor(corpus(tmp_path / "bad.txt", texts)).findings
    messages = {item.kind: item.message for item in found}
    assert set(messages) == {"duplicate", "too_short", "mojibake", "control", "markup", "near_duplicate"}
    assert "1 texts repeat an earlier one" in messages["duplicate"]
    assert "'Ã©'" in messages["mojibake"]
    assert all(item.fix for item in found)
    assert [item.severity for item in found][:1] == ["warning"]


def test_rare_markup_is_no_finding_and_little_text_is(tmp_path: Path) -> None:
    assert kinds(corpus(tmp_path / "few.txt", [STORY.format(i) for i in range(3)]))["little_text"] == []
    many = [varied(i) for i in range(150)]
    assert "markup" not in kinds(corpus(tmp_path / "one.txt", [*many, f"<p>{varied(200)}</p>"]))


def test_texts_of_test_among_those_to_learn_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    train = [varied(i) for i in range(60)]
    corpus(tmp_path / "data" / "train.txt", train)
    corpus(tmp_path / "data" / "test.txt", [train[0], varied(500), train[9] + " and more"])
    reading = read_dataset(tmp_path / "data")
    found = {item.kind: item for item in diagnose_corpus(reading)}
    assert found["leakage"].severity == "error"
    assert "1 of 3 texts of test" in found["leakage"].message
    assert "near_leakage" in found
    apart = read_dataset(corpus(tmp_path / "other.txt", [train[1], varied(900)]))
    assert "leakage" in {item.kind for item in diagnose_corpus(read_dataset(tmp_path / "data" / "train.txt"), apart)}


def test_a_table_without_labels_is_read_as_texts_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "stories.csv"
    path.write_text("id,text\n" + "".join(f"{i},{varied(i)}\n" for i in range(60)))
    found = flow.doctor(path)
    assert found.notes[0] == "task=text_generation  # no column looks like the label"
    assert found.findings == []
    with pytest.raises(UsageError, match="texts without labels are not mended"):
        flow.doctor(path, fix=tmp_path / "out.csv")
    with pytest.raises(DataError, match="there is no column 'lable'"):
        flow.doctor(path, target="lable")


def test_adapt_of_a_table_without_labels_names_both_ways_on(tmp_path: Path) -> None:
    path = tmp_path / "stories.csv"
    path.write_text("text\n" + "".join(f"{varied(i)}\n" for i in range(30)))
    with pytest.raises(DataError, match="no column looks like the label") as caught:
        read_dataset(path)
    assert "--target COLUMN" in caught.value.fix
    assert "--task text_generation" in caught.value.fix
