"""`generate`: options, prompts as training had them, and files."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language

from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.errors import UsageError
from budwood.engine.causal_graph import export_causal_graph
from budwood.engine.decoding import Sampling
from budwood.stages.writing import generate_texts, prepared, stream_texts, write_texts
from budwood.tasks.text_generation import TextGeneration

OPTIONS = Sampling(max_tokens=12, seed=4)


@pytest.fixture(scope="module")
def entry(tmp_path_factory) -> Any:
    root = tmp_path_factory.mktemp("writer")
    plain = tiny_language.gpt2(root / "plain")

    def write(stage):
        TextGeneration.take_base(plain, stage)
        (stage / "onnx").mkdir()
        export_causal_graph(plain, stage / "onnx" / "model.onnx")

    task = {"name": "text_generation", **TextGeneration().to_json()}
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=task, base="tiny")
    return SimpleNamespace(name="writer", bundle=Bundle.create(root / "bundle", draft, write))


def test_texts_carry_what_makes_them_again(entry):
    found = generate_texts(entry, "Once", OPTIONS, n=3, batch_size=2)
    assert [item.sample for item in found] == [0, 1, 2]
    assert all(item.text.startswith("Once") and item.seed == 4 for item in found)
    assert found == generate_texts(entry, "Once", OPTIONS, n=3)
    alone = generate_texts(entry, "Once", OPTIONS, include_prefix=False)
    assert found[0].text == "Once" + alone[0].text
    assert "".join(piece.text for piece in stream_texts(entry, "Once", OPTIONS)) == alone[0].text
    assert found[0].to_json()["finish_reason"] in ("stop", "length")


def test_texts_go_into_one_file_or_into_many(entry, tmp_path):
    texts = generate_texts(entry, "Once", OPTIONS, n=2)
    (path,) = write_texts(texts, tmp_path / "all.txt", delimiter="--\n")
    assert path.read_text(encoding="utf-8") == f"{texts[0].text}\n--\n{texts[1].text}\n"
    paths = write_texts(texts, tmp_path / "many")
    assert [item.read_text(encoding="utf-8") for item in paths] == [f"{item.text}\n" for item in texts]
    with pytest.raises(UsageError, match="exists already"):
        write_texts(texts, tmp_path / "many")


def test_a_prompt_gets_the_separator_of_training(entry):
    task = {"name": "text_generation", "kind": "completions", "max_tokens": 64}
    manifest = entry.bundle.manifest.model_copy(update={"task": task})
    answering = SimpleNamespace(name="a", bundle=Bundle(entry.bundle.path, manifest))
    assert prepared(answering, "Where is it?") == "Where is it?\n"
    assert prepared(entry, "Where is it?") == "Where is it?"


def test_other_models_and_senseless_numbers_are_refused(entry, tiny_bundle):
    with pytest.raises(UsageError, match="writes no texts"):
        generate_texts(SimpleNamespace(name="labels", bundle=tiny_bundle), "Once", OPTIONS)
    with pytest.raises(UsageError, match="n is 0"):
        generate_texts(entry, "Once", OPTIONS, n=0)
