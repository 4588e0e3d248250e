"""The step that learns to write: its child writes over ONNX as torch does, and a new model needs no base weights."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language

from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import StepError, UsageError
from budwood.core.step import Context
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Generator
from budwood.steps.adapt.language import Language
from budwood.tasks.text_generation import TextGeneration

ROWS = [{"text": text} for text in tiny_language.CORPUS]
SPLITS = Splits(*(Dataset.of(part) for part in (ROWS[16:], ROWS[:8], ROWS[8:16])), seed=0)


def base(path: Path, weights: bool) -> Bundle:
    def write(stage: Path) -> None:
        if weights:
            TextGeneration.take_base(tiny_language.gpt2(path.parent / "plain"), stage)
        else:
            (stage / "config.json").write_text('{"model_type": "gpt2"}')

    return Bundle.create(path, Draft(parent=None, history=(StepRecord(name="base"),), task=None, base="tiny"), write)


def context(root: Path) -> Context:
    return Context(root / "out", root / "work", SPLITS, TextGeneration.from_rows(ROWS))


@pytest.fixture(scope="module")
def child(tmp_path_factory) -> Bundle:
    root = tmp_path_factory.mktemp("language")
    return Language(epochs=4, batch_size=4).apply(base(root / "base", weights=False), context(root))


def test_a_new_model_is_learnt_without_any_base(child):
    report = child.manifest.report
    assert report["new"] is True
    assert report["perplexity"]["unigram_ratio"] < 0.8
    assert report["perplexity"]["ratio"] < 0.5
    assert len(report["samples"]) == 4
    assert child.formats == {"torch", "onnx"}
    assert child.manifest.task == {"name": "text_generation", "kind": "documents", "max_tokens": 256}
    assert report["conformance"]["difference"] < 1e-3


def test_it_writes_over_the_graph_and_opens_in_transformers(child):
    generator = Generator.open(Bundle.open(child.path))
    texts = [item.text for item in generator.complete(["Story 3."], Sampling(max_tokens=20, seed=1), n=2)]
    assert all(texts)
    assert texts == [item.text for item in generator.complete(["Story 3."], Sampling(max_tokens=20, seed=1), n=2)]
    torch_texts = [
        item.text
        for item in Generator.open(child, "torch").complete(["Story 3."], Sampling(max_tokens=20, seed=1), n=2)
    ]
    assert texts == torch_texts
    generator.close()
    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    assert transformers.AutoModelForCausalLM.from_pretrained(child.path).config.model_type == "gpt2"
    assert transformers.AutoTokenizer.from_pretrained(child.path).eos_token == "<|endoftext|>"


def test_low_rank_updates_start_from_given_weights(tmp_path):
    found = Language(method="lora", epochs=1, rank=4).apply(base(tmp_path / "base", weights=True), context(tmp_path))
    report = found.manifest.report
    assert (report["way"], report["new"]) == ("lora", False)
    assert report["perplexity"]["adapted"] < report["perplexity"]["base"]
    assert report["writing"]["longest_copied_words"] >= 0


def test_what_cannot_be_learnt_is_refused_at_once(tmp_path):
    parent = base(tmp_path / "base", weights=False)
    with pytest.raises(StepError, match="needs data"):
        Language().apply(parent, Context(tmp_path / "out", tmp_path / "work"))
    with pytest.raises(UsageError, match="no method 'head'"):
        Language(method="head").apply(parent, context(tmp_path))
