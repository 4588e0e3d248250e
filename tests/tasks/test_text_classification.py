"""Text classification: requests are checked, texts encoded, answers decoded, labels turned into targets."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, DataError
from budwood.engine.predictor import Predictor
from budwood.engine.text_task import MAX_CHARACTERS
from budwood.tasks.text_classification import TextClassification

SINGLE = TextClassification(("bad", "good"))
MULTI = TextClassification(("a", "b", "c"), multi_label=True)


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ("plain", "input"),
        ({}, "text"),
        ({"text": 3}, "text"),
        ({"text": None}, "text"),
        ({"text": True}, "text"),
        ({"text": ""}, "text"),
        ({"text": " \n\t"}, "text"),
        ({"text": "x" * (MAX_CHARACTERS + 1)}, "text"),
        ({"text": "lone \ud800"}, "text"),
        ({"text": "fine", "lable": "x"}, "lable"),
    ],
)
def test_a_bad_request_names_its_field(item: object, where: str) -> None:
    with pytest.raises(DataError) as caught:
        SINGLE.parse(item)
    assert caught.value.where == where


@pytest.mark.parametrize("text", ["a", "😀😀", "مرحبا بالعالم", "a\u0000b", "e\u0301" * 50, "x" * MAX_CHARACTERS])
def test_odd_texts_are_accepted(text: str) -> None:
    assert SINGLE.parse({"text": text}) == {"text": text}


def test_probabilities_sum_to_one_and_soften_with_the_temperature() -> None:
    logits = np.asarray([[3.0, 1.0], [-500.0, 500.0]], np.float32)
    sharp, soft = (SINGLE.decode({"logits": logits}, {"temperature": t}, 2)[0] for t in (1.0, 4.0))
    assert sum(sharp["scores"].values()) == pytest.approx(1)
    assert soft["score"] < sharp["score"]
    assert SINGLE.decode({"logits": logits}, {}, 1) == [
        {"label": "bad", "score": pytest.approx(0.880797), "scores": {"bad": pytest.approx(0.880797)}},
        {"label": "good", "score": 1.0, "scores": {"good": 1.0}},
    ]


def test_several_labels_are_given_above_the_threshold() -> None:
    (answer,) = MULTI.decode({"logits": np.asarray([[2.0, -2.0, 0.1]], np.float32)}, {}, 2)
    assert answer["labels"] == ["a", "c"]
    assert list(answer["scores"]) == ["a", "c"]


def test_targets_and_scores_of_one_label() -> None:
    rows = [{"text": "x", "label": "good"}, {"text": "y", "label": "bad"}]
    assert SINGLE.targets(rows).tolist() == [1, 0]
    assert SINGLE.row_scores([{"label": "good"}, {"label": "good"}], rows).tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="'Good' is unknown") as caught:
        SINGLE.targets([*rows, {"text": "z", "label": "Good"}])
    assert caught.value.where == "row 3"


def test_targets_and_scores_of_label_sets() -> None:
    rows = [{"text": "x", "label": ["a", "c"]}, {"text": "y", "label": []}]
    assert MULTI.targets(rows).tolist() == [[1, 0, 1], [0, 0, 0]]
    scores = MULTI.row_scores([{"labels": ["a"]}, {"labels": []}], rows)
    np.testing.assert_allclose(scores, [2 / 3, 1.0])
    assert MULTI.metric == "samples_f1"
    assert SINGLE.metric == "accuracy"


def test_the_task_is_read_from_the_rows() -> None:
    assert TextClassification.from_rows([{"text": "x", "label": "b"}, {"text": "y", "label": "a"}]).labels == ("a", "b")
    assert TextClassification.from_rows([{"text": "x", "label": ["b", "a"]}]).multi_label
    with pytest.raises(DataError, match="the same label 'b'"):
        TextClassification.from_rows([{"text": "x", "label": "b"}])


@pytest.mark.parametrize(
    "fields", [{}, {"labels": []}, {"labels": [1]}, {"labels": ["a"], "max_tokens": 0}, {"labels": ["a"], "x": 1}]
)
def test_damaged_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        TextClassification.from_json(fields)


def test_a_long_text_is_cut_and_the_answer_says_so(tiny_bundle: Bundle) -> None:
    predictor = Predictor.open(tiny_bundle)
    task = TextClassification(predictor.task.to_json()["labels"], max_tokens=4)
    encoded = task.encoder(tiny_bundle.path)([{"text": "Please refund the second payment on my card."}, {"text": "I"}])
    assert encoded.notes == [{"truncated": True}, {}]
    assert encoded.inputs["input_ids"].shape[1] == 4
    assert encoded.inputs["attention_mask"][1].sum() < 4


def test_padding_does_not_change_an_answer(tiny_bundle: Bundle) -> None:
    predictor = Predictor.open(tiny_bundle)
    rows = tiny.rows(2)
    together = predictor.outputs(rows)["logits"]
    alone = np.concatenate([predictor.outputs([row])["logits"] for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_an_unreadable_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        SINGLE.encoder(tmp_path)


def test_the_schema_takes_the_texts_that_are_not_empty() -> None:
    """Space is what `str.strip` takes away, in the schema too."""
    pattern = re.compile(TextClassification.request_schema()["properties"]["text"]["pattern"])
    differing = [
        code for code in range(sys.maxunicode + 1) if bool(pattern.search(chr(code))) != bool(chr(code).strip())
    ]
    assert not differing
