"""A shorter vocabulary: the same answers where all tokens are kept, and no word that was known becomes unknown."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import teachers
import tiny

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, StepError
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.engine.predictor import Predictor, task_of
from budwood.steps.export.onnx import Onnx
from budwood.steps.shrink.trim_vocabulary import TrimVocabulary


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Bundle:
    return teachers.texts(tmp_path_factory.mktemp("teacher"), tiny_bert)


def vocabulary(bundle: Bundle) -> dict[str, int]:
    found: dict[str, int] = json.loads(bundle.file("tokenizer.json").read_text())["model"]["vocab"]
    return found


def test_texts_of_kept_tokens_get_the_same_answers_and_others_are_spelled(parent: Bundle, tmp_path: Path) -> None:
    splits = tiny.splits()
    few = tuple(row for row in splits.train.rows if row["label"] != "praise")
    few_splits = type(splits)(type(splits.train).of(few), splits.validation, splits.test, seed=0)
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=few_splits)
    child = Recipe((TrimVocabulary(tokens=1), Onnx())).run(parent, context, tmp_path / "steps")
    assert child.manifest.report["tokens"] == len(vocabulary(child)) < len(vocabulary(parent))
    assert "wonderful" not in vocabulary(child)
    assert "happy" in vocabulary(parent)
    assert "happy" not in vocabulary(child)
    assert json.loads(child.file("config.json").read_text())["vocab_size"] == len(vocabulary(child))
    long, short = Predictor.open(parent), Predictor.open(child)
    np.testing.assert_allclose(short.outputs(few)["logits"], long.outputs(few)["logits"], atol=1e-5)
    ids = short.encoder([{"text": "I am happy"}]).inputs["input_ids"][0]
    assert vocabulary(child)["[UNK]"] not in ids
    assert len(ids) > len(long.encoder([{"text": "I am happy"}]).inputs["input_ids"][0])
    for predictor in (long, short):
        predictor.close()


def test_labels_in_another_order_stay_with_their_answers(parent: Bundle, tmp_path: Path) -> None:
    own = task_of(parent)
    turned = replace(own, labels=tuple(reversed(own.labels)))  # type: ignore[type-var, attr-defined]
    splits = tiny.splits()
    few = tuple(row for row in splits.train.rows if row["label"] != "praise")
    few_splits = type(splits)(type(splits.train).of(few), splits.validation, splits.test, seed=0)
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=few_splits, task=turned)
    child = Recipe((TrimVocabulary(tokens=1), Onnx())).run(parent, context, tmp_path / "steps")
    assert task_of(child).to_json()["labels"] == list(reversed(own.to_json()["labels"]))
    with closing(Predictor.open(parent)) as before, closing(Predictor.open(child)) as after:
        expected = before.outputs(few)["logits"][:, ::-1]
        np.testing.assert_allclose(after.outputs(few)["logits"], expected, atol=1e-5)


def test_where_nothing_can_be_left_out_it_says_so(parent: Bundle, tmp_path: Path) -> None:
    context = Context(out=tmp_path / "out", work=tmp_path / "w", splits=tiny.splits())
    with pytest.raises(StepError, match="entries would be kept"):
        TrimVocabulary().apply(parent, context)


def test_another_kind_of_vocabulary_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for file in tiny_bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    parent = teachers.adapted(tmp_path, folder, "text_classification", tiny.splits())
    content = json.loads(parent.file("tokenizer.json").read_text())
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "[UNK]"}

    def write(stage: Path) -> None:
        for name in parent.names:
            (stage / name).write_bytes(parent.file(name).read_bytes())
        (stage / "tokenizer.json").write_text(json.dumps(content))

    other = Bundle.create(tmp_path / "other", parent.draft("adapt.head"), write)
    context = Context(out=tmp_path / "out", work=tmp_path / "w", splits=tiny.splits())
    with pytest.raises(StepError, match="WordLevel, not WordPiece"):
        TrimVocabulary(tokens=1).apply(other, context)


def test_a_tokenizer_that_changed_since_the_parent_was_opened_is_not_cut(parent: Bundle, tmp_path: Path) -> None:
    copy = parent.copy(tmp_path / "copy")
    with copy.file("tokenizer.json").open("a") as file:
        file.write(" ")
    context = Context(out=tmp_path / "out", work=tmp_path / "w", splits=tiny.splits())
    with pytest.raises(BundleError, match="changed since"):
        TrimVocabulary(tokens=1).apply(copy, context)
