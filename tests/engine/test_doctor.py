"""The data doctor: each finding with its rows, each safe fix, and files written whole and never over another."""

import json
from pathlib import Path

import numpy as np
import pytest

from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, UsageError
from budwood.engine import doctor, similarity
from budwood.engine.doctor import diagnose
from budwood.engine.findings import Finding, as_text
from budwood.engine.label_check import label_errors, similar_names, spelling_variants
from budwood.engine.mending import mend, mended_table, write_table
from budwood.engine.reading import Reading, read_dataset
from budwood.engine.similarity import nearest, nearest_before, ngram_vectors, normalise
from budwood.engine.table import Place

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "text"
TOPICS = ("the parcel with my shoes", "a refund for order", "my password for account", "the invoice of customer")


def healthy(count: int = 24, offset: int = 0) -> list[tuple[str, str]]:
    verbs = ("lost", "found", "wanted", "never got", "complained about", "sent back")
    pairs = []
    for index in range(offset, offset + count):
        words = np.random.default_rng(index).integers(97, 123, (6, 7), dtype=np.uint8)
        noise = " ".join(bytes(word).decode() for word in words)
        pairs.append(
            (f"{verbs[index % 6]} {TOPICS[index % 4]} {noise}", ("parcel", "refund", "login", "bill")[index % 4])
        )
    return pairs


def reading(pairs, source: str = "t.csv", split: str | None = None) -> Reading:
    rows = [{"text": text, "label": label} | ({"split": split} if split else {}) for text, label in pairs]
    return Reading(Dataset.of(rows, source), tuple(Place(source, i) for i in range(2, len(rows) + 2)), ())


def by_kind(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings}


def lines(finding: Finding) -> list[int]:
    return [place.number for place in finding.rows]


def test_healthy_data_has_no_findings():
    assert diagnose(reading(healthy()), reading(healthy(12, 100), "test.csv")) == []
    assert as_text([]) == "No findings: the data looks healthy."


def test_empty_cells():
    data = reading([*healthy(), ("  ", "bill"), ("hello there", "")])
    found = by_kind(diagnose(data))
    assert (lines(found["empty_text"]), lines(found["empty_label"])) == ([26], [27])
    assert found["empty_text"].severity == "error"
    assert len(mend(data, found.values())) == 24


def test_broken_lines_are_listed_and_left_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in healthy()) + "one,two,three\n")
    data = read_dataset(path, keep_empty=True)
    found = by_kind(diagnose(data))
    assert found["broken_line"].rows == (Place("t.csv", 26),)
    assert "has 3 columns, expected 2" in found["broken_line"].message
    assert len(mend(data, found.values())) == 24


def test_duplicates_keep_the_first():
    pairs = healthy()
    data = reading([*pairs, pairs[0], pairs[3], pairs[0]])
    found = by_kind(diagnose(data))
    assert lines(found["duplicate"]) == [26, 27, 28]
    assert mend(data, found.values()).rows == data.dataset.rows[:24]


def test_near_duplicates_inside_the_rows_are_found_and_left_alone(monkeypatch):
    pairs = healthy()
    data = reading([*pairs, (pairs[5][0] + "!", pairs[5][1]), (pairs[9][0] + " now", "bill"), pairs[0]])
    found = by_kind(diagnose(data))
    assert lines(found["near_duplicate"]) == [7, 11, 26, 27]
    assert "2 texts nearly repeat an earlier one" in found["near_duplicate"].message
    assert "1 of them under another label" in found["near_duplicate"].message
    assert (found["near_duplicate"].severity, found["near_duplicate"].fixable) == ("warning", False)
    assert len(mend(data, found.values())) == 26
    monkeypatch.setattr(doctor, "NEAR_ROWS", 25)
    found = by_kind(diagnose(data))
    assert lines(found["near_duplicate"]) == [7, 26]
    assert "only the first 25 of 26 texts were compared" in found["near_duplicate"].message


def test_the_nearest_earlier_row_is_found_across_blocks(monkeypatch):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, 16)).astype(np.float32)
    vectors[31] = vectors[4] + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = np.tril(vectors @ vectors.T, -1)
    expected = [(i, int(similar[i].argmax())) for i in range(40) if similar[i].max() >= 0.5]
    for block in (1, 7, 64):
        monkeypatch.setattr(similarity, "BLOCK", block)
        assert [pair[:2] for pair in nearest_before(vectors, 0.5)] == expected
    assert (31, 4) in expected


def test_conflicts_list_all_rows_of_the_text_and_are_dropped():
    pairs = healthy()
    data = reading([*pairs, (f"  {pairs[1][0].upper()} ", "bill")])
    found = by_kind(diagnose(data))
    assert lines(found["conflict"]) == [3, 26]
    assert len(mend(data, found.values())) == 23


def test_spellings_are_merged_by_majority_before_conflicts_are_judged():
    pairs = [*healthy(), ("first new text", "Parcel"), ("second new text", "parcel"), ("first new text", "parcel")]
    data = reading(pairs)
    found = by_kind(diagnose(data))
    assert found["label_spelling"].rename == {"Parcel": "parcel"}
    assert lines(found["label_spelling"]) == [26]
    assert "conflict" not in found
    assert lines(found["duplicate"]) == [28]
    mended = mend(data, found.values())
    assert {row["label"] for row in mended} == {"parcel", "refund", "login", "bill"}
    assert len(mended) == 26


def test_spellings_inside_lists_of_labels_are_merged():
    rows = [{"text": text, "label": [label]} for text, label in healthy()]
    rows.append({"text": "another text", "label": ["Parcel", "parcel", "bill"]})
    data = Reading(Dataset.of(rows), tuple(Place("t.jsonl", i) for i in range(1, 26)), ())
    assert mend(data, diagnose(data)).rows[-1]["label"] == ["parcel", "bill"]


def test_look_alike_names_are_proposed_and_not_merged():
    data = reading([*healthy(), *((f"some other text {i * 7919}", "refunds") for i in range(5))])
    found = by_kind(diagnose(data))
    assert not found["similar_labels"].fixable
    assert "replace 'refunds' by 'refund'" in found["similar_labels"].fix
    assert "refunds" in {row["label"] for row in mend(data, found.values())}


def test_rare_classes_and_imbalance():
    rows = [*healthy(120), ("one of a kind", "alone")]
    found = by_kind(diagnose(reading(rows)))
    assert "it stays in train and cannot be measured" in found["rare_class"].message
    assert lines(found["rare_class"]) == [122]
    assert found["imbalance"].severity == "info"


def test_one_class_only():
    found = by_kind(diagnose(reading([(text, "same") for text, _ in healthy()])))
    assert found["single_class"].severity == "error"
    assert "1 class in 24 rows" in found["single_class"].message


@pytest.mark.parametrize("own", [True, False])
def test_leakage_by_equal_text_is_found_and_dropped_from_train(own):
    pairs = healthy()
    leaked = [(pairs[2][0].upper(), pairs[2][1]), *healthy(8, 200)]
    data, test = reading(pairs), reading(leaked, "test.csv")
    if own:
        rows = (*reading(pairs, split="train").dataset, *reading(leaked, split="test").dataset)
        data, test = Reading(Dataset(rows), (*data.places, *test.places), ()), None
    findings = diagnose(data, test)
    found = by_kind(findings)
    assert found["leakage"].rows == (Place("t.csv", 4),)
    assert found["leakage"].severity == "error"
    mended = mend(data, findings)
    assert len(mended) == len(data.dataset) - 1
    assert pairs[2][0] not in {row["text"] for row in mended if row.get("split") != "test"}


def test_few_leaks_are_a_warning():
    pairs = healthy(300)
    found = by_kind(diagnose(reading(pairs), reading([pairs[0], *healthy(150, 1000)], "test.csv")))
    assert found["leakage"].severity == "warning"


def test_near_duplicates_by_ngrams_and_by_an_encoder():
    pairs = healthy()
    test = reading([(pairs[5][0] + "!", pairs[5][1]), *healthy(8, 200)], "test.csv")
    found = by_kind(diagnose(reading(pairs), test))["near_leakage"]
    assert found.rows == (Place("t.csv", 7), Place("test.csv", 2))
    assert "by character n-grams" in found.message
    assert not found.fixable

    def embed(texts):
        return np.array([[1.0, 0.0] if text.startswith(pairs[5][0]) else [0.0, i] for i, text in enumerate(texts)])

    found = by_kind(diagnose(reading(pairs), reading([(pairs[5][0] + "?", "bill")], "test.csv"), embed))["near_leakage"]
    assert found.rows == (Place("t.csv", 7), Place("test.csv", 2))
    assert found.severity == "error"


def test_classes_of_test_that_train_lacks():
    found = by_kind(diagnose(reading(healthy()), reading([("quite another thing", "new")], "test.csv")))
    assert found["unknown_class"].rows == (Place("test.csv", 2),)


def test_long_texts_are_counted_or_estimated():
    data = reading([*healthy(), ("word " * 300, "bill")])
    assert lines(by_kind(diagnose(data))["too_long"]) == [26]
    assert "too_long" not in by_kind(diagnose(data, count_tokens=lambda text: 256))
    assert "estimated" not in by_kind(diagnose(data, count_tokens=lambda text: len(text.split())))["too_long"].message


def test_label_errors_by_out_of_sample_probabilities():
    pairs = healthy(80)
    classes = ["bill", "login", "parcel", "refund"]
    truth = np.array([classes.index(label) for _, label in pairs])
    probabilities = np.full((80, 4), 0.05)
    probabilities[np.arange(80), truth] = 0.85
    wrong = [(text, "bill" if index in (2, 7) else label) for index, (text, label) in enumerate(pairs)]
    truth_of = {2: pairs[2][1], 7: pairs[7][1]}
    found = by_kind(diagnose(reading(wrong), probabilities=(classes, probabilities)))["label_error"]
    expected = sorted(index + 2 for index, label in truth_of.items() if label != "bill")
    assert sorted(lines(found)) == expected
    assert not found.fixable


def test_confident_learning_spares_rows_that_are_merely_uncertain():
    given = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.45, 0.55], [0.52, 0.48]])
    assert label_errors(given, probabilities) == [(2, 1)]
    assert label_errors(np.array([], dtype=np.int64), np.zeros((0, 2))) == []


def test_a_finding_lists_few_rows_as_text_and_all_as_json():
    pairs = healthy()
    finding = by_kind(diagnose(reading([*pairs, *pairs])))["duplicate"]
    shown = as_text([finding], limit=3)
    assert "t.csv:26, t.csv:27, t.csv:28, and 21 more" in shown
    assert "(done by --fix)" in shown
    assert len(json.loads(json.dumps(finding.to_json()))["rows"]) == 24


def test_the_gravest_findings_come_first():
    severities = [finding.severity for finding in diagnose(reading([*healthy(120), ("", "bill"), ("x", "alone")]))]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)


@pytest.mark.parametrize(
    ("labels", "variants"),
    [
        ({"Cat": 1, "cat": 5, "CAT.": 2}, {"Cat": "cat", "CAT.": "cat"}),
        ({"top_up": 3, "Top Up": 1, "top-up": 1}, {"Top Up": "top_up", "top-up": "top_up"}),
        ({"-1": 3, "1": 3, "1.5": 1, "1-5": 1}, {}),
        ({"C": 1, "C++": 1, "C#": 1}, {}),
        ({"Sci/Tech": 2, "sci tech": 1}, {"sci tech": "Sci/Tech"}),
    ],
)
def test_spelling_variants(labels, variants):
    assert spelling_variants(labels) == variants


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("cat", "cats", True),
        ("refund", "refnud", True),
        ("delivery", "delivry", True),
        ("delivery", "dalivery", True),
        ("cat", "car", False),
        ("level_1", "level_2", False),
        ("level_1", "level_11", False),
        ("lost_card", "stolen_card", False),
    ],
)
def test_similar_names(first, second, alike):
    assert bool(similar_names([first, second])) is alike


def test_normalised_texts_are_equal_whatever_case_width_and_white_space():
    assert normalise("  Ｓtraße\tＡ\n") == normalise("STRASSE a")


def test_ngram_vectors_have_unit_length_and_see_small_edits_only():
    texts = [
        "the parcel has not arrived yet",
        "the parcel has not arrived yet!",
        "please refund the second payment",
        "",
    ]
    vectors = ngram_vectors(texts)
    assert vectors.shape == (4, 1024)
    np.testing.assert_allclose(np.linalg.norm(vectors[:3], axis=1), 1, atol=1e-5)
    assert nearest(vectors[:1], vectors[1:], 0.8)[0][:2] == (0, 0)
    assert not nearest(vectors[2:3], vectors[:2], 0.5)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_mended_table_is_read_back_as_it_was(tmp_path, suffix):
    rows = [
        {"text": '=SUM(A1), "quoted"\nand\ttabbed', "label": "a", "group": "1", "split": "train"},
        {"text": "@home ünï 🌱", "label": "b", "group": "2", "split": "test"},
    ]
    path = tmp_path / f"mended.{suffix}"
    write_table(Dataset.of(rows), path)
    assert list(read_dataset(path, group="group").dataset) == rows


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_lists_of_labels_are_read_back(tmp_path, suffix):
    rows = [{"text": "one text here", "label": ["a", "b"]}, {"text": "another text here", "label": []}]
    write_table(Dataset.of(rows), tmp_path / f"lists.{suffix}")
    assert list(read_dataset(tmp_path / f"lists.{suffix}").dataset) == rows


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_mended_copy_has_all_columns_of_its_source_under_their_own_names(tmp_path, suffix):
    rows = [
        {"id": i, "Ticket Text": text, "queue": label, "agent": f"a{i % 5}", "tags": ["x", "y"][: i % 3]}
        for i, (text, label) in enumerate([*healthy(), ("one more text", "Bill")])
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[3]]))
    options = {"target": "queue", "input": "Ticket Text"}
    data = read_dataset(path, **options, keep_empty=True)
    findings = diagnose(data)
    out = tmp_path / f"mended.{suffix}"
    write_table(mended_table(data, findings), out)
    again = read_dataset(out, **options, keep_empty=True)
    assert again.dataset.rows == mend(data, findings).rows
    ((table, _),) = again.tables
    assert table.columns == ("id", "Ticket Text", "queue", "agent", "tags")
    assert [str(row["id"]) for row in table.rows] == [str(i) for i in range(25)]
    assert {row["agent"] for row in table.rows} == {f"a{i}" for i in range(5)}
    assert table.rows[-1]["queue"] == "bill"


def test_a_folder_without_common_names_is_mended_into_standard_columns(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, column, start in (("train", "intent", 0), ("test", "label", 100)):
        lines = [f"{text},{label},{i},s\n" for i, (text, label) in enumerate(healthy(offset=start))]
        (folder / f"{name}.csv").write_text(f"text,{column},id,split\n" + "".join(lines))
    data = read_dataset(folder, keep_empty=True)
    write_table(mended_table(data, []), tmp_path / "out.csv")
    again = read_dataset(tmp_path / "out.csv", keep_empty=True)
    assert again.tables[0][0].columns == ("text", "label", "split", "id")
    assert again.dataset.rows == data.dataset.rows


def test_types_that_parquet_cannot_mix_become_texts(tmp_path):
    rows = [
        {"text": f"text {i}", "label": "ab"[i % 2], "extra": extra} for i, extra in enumerate([1, "one", None, [2]])
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_table(mended_table(read_dataset(path, keep_empty=True), []), tmp_path / "out.parquet")
    ((table, _),) = read_dataset(tmp_path / "out.parquet", keep_empty=True).tables
    assert [row["extra"] for row in table.rows] == ["1", "one", None, "[2]"]


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        write_table(Dataset.of([{"text": "a", "label": "b"}]), path)
    assert path.read_text() == "mine"
    with pytest.raises(DataError, match="format of the file is unknown"):
        write_table(Dataset.of([{"text": "a", "label": "b"}]), tmp_path / "t.docx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared text sets are not on this machine")
def test_a_public_set_leaks_seven_texts_and_near_copies():
    train, test = (read_dataset(SHARED / "banking77" / f"{name}.csv", keep_empty=True) for name in ("train", "test"))
    found = by_kind(diagnose(train, test))
    assert len(found["leakage"].rows) == 7
    assert len(found["near_leakage"].rows) > 100
    assert len(mend(train, found.values())) == 10003 - len({*found["leakage"].rows, *found["duplicate"].rows})
