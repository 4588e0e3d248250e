"""Generators in 8 and 4 bits go all the ways that their parent goes: generate, predict, evaluate and serve."""

import json
import urllib.request
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language
from served import QUICK

from budwood import flow
from budwood.core import registry
from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.dataset import Dataset, Splits
from budwood.core.step import Context
from budwood.core.store import Store
from budwood.serving.model import Served
from budwood.serving.server import start
from budwood.tasks.text_generation import TextGeneration

STEPS: dict[str, str] = {"int8": "quantize_dynamic", "q4": "quantize_weights"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A store with the float model and its two quantized children."""
    root = tmp_path_factory.mktemp("store")
    found = Store.default(root / "models")
    folder = tiny_language.gpt2(root / "gpt2")
    rows = Dataset(tuple({"text": text} for text in tiny_language.CORPUS[:30]))
    splits = Splits(train=rows, validation=rows, test=rows, seed=0)
    task = {"name": "text_generation", **TextGeneration("documents", 48).to_json()}
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=task, base="tiny")
    plain = Bundle.create(root / "plain", draft, lambda stage: TextGeneration.take_base(folder, stage))
    parent = registry.get("steps/export", "onnx")().apply(plain, Context(root / "float", root / "work", splits))
    found.publish("float", parent)
    for name, step in STEPS.items():
        context = Context(root / name, root / "work", splits)
        found.publish(name, registry.get("steps/shrink", step)().apply(parent, context))
    return found


@pytest.mark.parametrize("name", STEPS)
def test_it_generates_and_streams_the_same_text(name, store):
    first, second = flow.generate(name, "Story 3.", n=2, seed=5, max_tokens=12, store=store.root)
    assert first.text.startswith("Story 3.")
    assert first.text != second.text
    again = flow.generate(name, "Story 3.", n=2, seed=5, max_tokens=12, batch_size=2, store=store.root)
    assert [item.text for item in again] == [first.text, second.text]


@pytest.mark.parametrize("name", STEPS)
def test_its_perplexity_is_evaluated_and_near_that_of_its_parent(name, store, tmp_path):
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_language.CORPUS[30:40]))
    own, parent = (flow.evaluate(item, data, store=store.root).metrics["perplexity"] for item in (name, "float"))
    assert own == pytest.approx(parent, rel=0.02)


@pytest.mark.parametrize("name", STEPS)
def test_it_answers_requests_and_completions_over_http(name, store):
    with start([Served(name, "1", store.resolve(name).bundle)], limits=QUICK) as handle:
        options: dict[str, Any] = {"max_tokens": 6, "min_tokens": 6, "temperature": 0}
        one = ask(f"{handle.url}/predict", {"inputs": [{"text": "The old man", **options}]})
        body = {"model": name, "prompt": "The old man", "max_tokens": 6, "temperature": 0}
        other = ask(f"{handle.url}/v1/completions", body)
    assert one["outputs"][0]["tokens"] == 6
    assert other["choices"][0]["text"] == one["outputs"][0]["text"]


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)
