"""Text generation as a task: requests, the likelihood of texts, and answers through one path."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import tiny_language

from budwood.core.errors import BundleError, DataError
from budwood.engine.causal_graph import export_causal_graph
from budwood.engine.language_model import likelihood, load_language_model
from budwood.engine.vocabulary import Vocabulary
from budwood.runtimes.onnxruntime import OnnxRuntime
from budwood.tasks.text_generation import TextGeneration

ROWS: list[dict[str, Any]] = [
    {"text": tiny_language.CORPUS[0]},
    {"text": "It was raining. She stayed.", "prompt": "It was raining.", "completion": " She stayed."},
    {"text": "the middle of a text", "starts": False, "ends": False},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_language.gpt2(tmp_path_factory.mktemp("gpt2") / "model")


@pytest.fixture(scope="module")
def runtime(folder, tmp_path_factory) -> OnnxRuntime:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_causal_graph(folder, path)
    return OnnxRuntime(path.read_bytes(), 1)


def test_a_text_is_as_likely_over_the_graph_as_in_training(folder, runtime):
    task = TextGeneration().fit_to(folder)
    answers = task.answer(ROWS, task.encoder(folder), runtime.run, {}, 1)
    documents = [Vocabulary.open(folder).document(row) for row in ROWS]
    expected = likelihood(load_language_model(folder), documents, 256)
    assert [answer["tokens"] for answer in answers] == expected.tokens.tolist()
    np.testing.assert_allclose([answer["perplexity"] for answer in answers], expected.per_document, rtol=1e-4)
    scores = task.row_scores(answers, ROWS)
    np.testing.assert_allclose(scores, 1 / expected.per_document, rtol=1e-4)
    assert task.metrics(answers, ROWS)["perplexity"] == pytest.approx(expected.perplexity, rel=1e-4)


def test_prompts_and_texts_to_measure_are_answered_in_one_batch(folder, runtime):
    task = TextGeneration().fit_to(folder)
    items = [{"text": "Once upon", "max_tokens": 5, "stop": "zzz", "seed": 2}, task.item(ROWS[1]), {"text": ""}]
    rows = [task.parse(item) for item in items]
    answers = task.answer(rows, task.encoder(folder), runtime.run, {}, 1)
    assert answers[0]["tokens"] == 5
    assert answers[0]["finish_reason"] == "length"
    assert "perplexity" in answers[1]
    assert answers[2]["tokens"] > 5
    again = task.answer(rows[:1], task.encoder(folder), runtime.run, {}, 1)
    assert again[0] == answers[0]
    chat = task.parse({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "min_tokens": 3})
    assert task.answer([chat], task.encoder(folder), runtime.run, {}, 1)[0]["tokens"] == 3


def test_speed_is_measured_by_writing(folder, runtime):
    task = TextGeneration().fit_to(folder)
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    asked = task.asked([{"text": "long " * 100}, ROWS[1], {"text": "Hi Hello", **chat}])
    assert [len(row.get("text", "")) for row in asked] == [120, len(ROWS[1]["prompt"]), 0]
    assert asked[2]["messages"] == chat["messages"][:1]
    answers = task.answer(asked, task.encoder(folder), runtime.run, {}, 1)
    assert {answer["tokens"] for answer in answers} == {20}


def test_long_texts_are_cut_and_say_so(folder, runtime):
    task = TextGeneration(max_tokens=8)
    (answer,) = task.answer(ROWS[:1], task.encoder(folder), runtime.run, {}, 1)
    assert answer["tokens"] == 8
    assert answer["truncated"] is True


@pytest.mark.parametrize(
    ("item", "where"),
    [
        (["text"], "input"),
        ({}, "text"),
        ({"text": 1}, "text"),
        ({"text": "x", "colour": 1}, "colour"),
        ({"text": "x", "temperature": -1}, "temperature"),
        ({"text": "x", "top_p": "much"}, "top_p"),
        ({"text": "x", "stop": 3}, "stop"),
        ({"text": "x", "stop": [""]}, "stop"),
        ({"text": "\ud800"}, "text"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"measure": True}, "text"),
        ({"measure": True, "text": "a", "prompt": "b"}, "completion"),
        ({"measure": True, "text": "a", "seed": 3}, "seed"),
    ],
)
def test_a_wrong_request_names_its_field(item, where):
    with pytest.raises(DataError) as caught:
        TextGeneration().parse(item)
    assert caught.value.where == where


def test_the_kind_is_told_by_the_rows():
    assert TextGeneration.from_rows(ROWS[:1]).kind == "documents"
    assert TextGeneration.from_rows(ROWS[1:2]).kind == "completions"
    assert TextGeneration.from_rows([{"text": "x", "messages": []}]).kind == "chats"
    assert TextGeneration.suits(ROWS) > 0.5 > TextGeneration.suits([{"text": "x", "label": "a"}])
    with pytest.raises(BundleError):
        TextGeneration.from_json({"kind": "poems"})


def test_a_base_is_taken_whole(folder, tmp_path):
    TextGeneration.take_base(folder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert TextGeneration().build(tmp_path).parameter_count == load_language_model(folder).parameter_count


def test_the_serving_half_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, budwood.tasks.text_generation, budwood.engine.generator;"
        "sys.exit(bool({'torch', 'transformers', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
