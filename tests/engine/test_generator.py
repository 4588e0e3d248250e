"""Writing over ONNX Runtime: token for token what torch writes, alone or in a batch, and beyond the window."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language  # noqa: E402

from budwood.core.errors import BundleError, DataError  # noqa: E402
from budwood.engine.causal_graph import export_causal_graph  # noqa: E402
from budwood.engine.decoding import Sampling  # noqa: E402
from budwood.engine.generator import Decoder, Generator, Shape, fresh_seed  # noqa: E402
from budwood.engine.language_model import load_language_model  # noqa: E402
from budwood.engine.vocabulary import Vocabulary  # noqa: E402
from budwood.runtimes.onnxruntime import OnnxRuntime  # noqa: E402

PROMPTS = ("Once upon a time", "The", "In the night the wind sang. Nobody heard")
GREEDY = Sampling(max_tokens=20, temperature=0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("language")
    gpt2 = tiny_language.gpt2(root / "gpt2")
    return {"gpt2": gpt2, "llama": tiny_language.llama(root / "llama", gpt2)}


def opened(folder: Path, graph: Path) -> Generator:
    export_causal_graph(folder, graph)
    runtime = OnnxRuntime(graph.read_bytes(), 1)
    return Generator(Decoder(runtime.run, Shape.read(folder)), Vocabulary.open(folder), runtime)


@pytest.fixture(scope="module")
def generators(folders, tmp_path_factory) -> dict[str, Generator]:
    graphs = tmp_path_factory.mktemp("graphs")
    return {name: opened(folder, graphs / f"{name}.onnx") for name, folder in folders.items()}


def by_torch(folder: Path, prompt: str, tokens: int) -> str:
    """Greedy text of transformers itself."""
    vocabulary, model = Vocabulary.open(folder), load_language_model(folder).whole[0]
    ids = torch.tensor([vocabulary.encode_prompt(prompt)])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return vocabulary.decode(found[0].tolist()).removeprefix(prompt)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_greedy_text_is_that_of_transformers(name, folders, generators):
    found = generators[name].complete(PROMPTS, GREEDY)
    assert [item.text for item in found] == [by_torch(folders[name], prompt, 20) for prompt in PROMPTS]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["babyllama", "stories260K"])
def test_greedy_text_of_trained_models_is_that_of_transformers(name, shared_data, tmp_path):
    folder = shared_data / "weights" / name
    found = opened(folder, tmp_path / "model.onnx").complete(PROMPTS, replace(GREEDY, max_tokens=60))
    assert [item.text for item in found] == [by_torch(folder, prompt, 60) for prompt in PROMPTS]


def test_the_graph_has_the_names_that_other_tools_look_for(generators):
    session = generators["llama"].runtime._ort_session
    names = {item.name: item.shape for item in session.get_inputs()}
    assert names["input_ids"] == ["batch_size", "sequence_length"]
    assert names["past_key_values.1.value"] == ["batch_size", 2, "past_sequence_length", 8]
    assert {"attention_mask", "position_ids", "past_key_values.0.key"} <= set(names)
    assert [item.name for item in session.get_outputs()][:3] == ["logits", "present.0.key", "present.0.value"]


def test_a_text_does_not_depend_on_those_beside_it(generators):
    options = Sampling(max_tokens=90, temperature=1.0, seed=3)  # past the window of 64
    together = [item.text for item in generators["llama"].complete(PROMPTS, options)]
    assert together == [generators["llama"].complete([prompt], options)[0].text for prompt in PROMPTS]
    assert together == [item.text for item in generators["llama"].complete(PROMPTS, options, batch_size=2)]


def test_equal_seeds_give_equal_texts_and_samples_differ(generators):
    options = Sampling(max_tokens=15, temperature=1.0, seed=1)
    first = [item.text for item in generators["gpt2"].complete(["The"], options, n=3)]
    assert first == [item.text for item in generators["gpt2"].complete(["The"], options, n=3)]
    assert first[:2] == [item.text for item in generators["gpt2"].complete(["The"], options, n=2)]
    assert len(set(first)) == 3
    assert first[0] != generators["gpt2"].complete(["The"], replace(options, seed=2))[0].text


def test_pieces_add_up_to_the_finished_text(generators):
    options = Sampling(max_tokens=30, temperature=1.0, stop=("e",))
    texts, ends = {}, {}
    for piece in generators["gpt2"].stream(PROMPTS, options):
        texts[piece.index] = texts.get(piece.index, "") + piece.text
        ends.setdefault(piece.index, piece.finish) if piece.finish is None else ends.update({piece.index: piece.finish})
    done = generators["gpt2"].complete(PROMPTS, options)
    assert [texts[i] for i in range(3)] == [item.text for item in done]
    assert [ends[i] for i in range(3)] == [item.finish for item in done]
    assert not any("e" in item.text for item in done)


def test_a_text_longer_than_the_window_slides(generators):
    (found,) = generators["llama"].complete(["The"], Sampling(max_tokens=150, min_tokens=150, temperature=1.0))
    assert (found.tokens, found.finish, found.cut) == (150, "length", False)
    (cut,) = generators["llama"].complete(["The wind sang. " * 40], Sampling(max_tokens=3, min_tokens=3))
    assert cut.cut
    assert cut.tokens == 3


def test_the_end_token_ends_a_text(generators):
    generator = generators["gpt2"]
    end = generator.vocabulary.ends[0]

    def always_end(inputs):
        outputs = generator.runtime.run(inputs)
        logits = np.zeros_like(outputs["logits"])
        logits[..., end] = 50.0
        return outputs | {"logits": logits}

    ending = Generator(Decoder(always_end, generator.decoder.shape), generator.vocabulary)
    (found,) = ending.complete(["The"], Sampling())
    assert (found.text, found.tokens, found.finish) == ("", 0, "stop")


def test_a_caller_can_stop_and_time_can_run_out(generators):
    count = 0

    def tired() -> bool:
        nonlocal count
        count += 1
        return count > 5

    (found,) = generators["gpt2"].complete(["The"], GREEDY, cancelled=tired)
    assert (found.tokens, found.finish) == (5, "cancelled")
    (found,) = generators["gpt2"].complete(["The"], GREEDY, seconds=0.0)
    assert (found.text, found.finish) == ("", "deadline")


def test_truncate_and_include_prefix(generators):
    whole = generators["gpt2"].complete(["The"], GREEDY)[0].text
    letter = next(character for character in whole if character.isalpha())
    (found,) = generators["gpt2"].complete(["The"], GREEDY, truncate=letter, include_prefix=True)
    assert found.text == "The" + whole.split(letter)[0]


def test_the_torch_module_writes_what_the_graph_writes(folders, generators):
    model = load_language_model(folders["llama"])

    def run(inputs):
        with torch.inference_mode():
            outputs = model(**{name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    by_module = Generator(Decoder(run, Shape.read(folders["llama"])), Vocabulary.open(folders["llama"]))
    assert by_module.complete(PROMPTS, GREEDY) == generators["llama"].complete(PROMPTS, GREEDY)


def test_a_prompt_that_is_no_unicode_is_refused(generators):
    with pytest.raises(DataError, match="lone surrogate"):
        generators["gpt2"].complete(["\ud800"], GREEDY)


def test_a_model_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(BundleError, match="not that of a language model"):
        Shape.read(tmp_path)


def test_fresh_seeds_differ():
    assert len({fresh_seed() for _ in range(20)}) > 15
