"""Generators with 8-bit and 4-bit weights: smaller, near their parent, and they write as a server needs it."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language

from budwood.core import registry
from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import StepError, UsageError
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.engine.decoder_rows import CopiedRows
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Decoder, Generator
from budwood.engine.measure import score
from budwood.engine.predictor import Predictor
from budwood.engine.quantization import noise_of
from budwood.tasks.text_generation import TextGeneration

PROMPTS = ("Once upon a time", "The", "In the night the wind sang. Nobody heard")
GREEDY = Sampling(max_tokens=12, temperature=0.0)
STEPS: dict[str, tuple[str, dict[str, int]]] = {
    "int8": ("quantize_dynamic", {}),
    "q8": ("quantize_weights", {"bits": 8}),
    "q4": ("quantize_weights", {}),
}
FORMATS = {"int8": "onnx-int8", "q8": "onnx-int8", "q4": "onnx-q4"}
ROWS = [{"text": text} for text in tiny_language.CORPUS]


def splits() -> Splits:
    parts = [Dataset(tuple(ROWS[start::3])) for start in range(3)]
    return Splits(train=parts[0], validation=parts[1], test=parts[2], seed=0)


def exported(folder: Path, root: Path) -> Bundle:
    """The bundle that `export.onnx` makes of a plain transformers directory."""
    task = {"name": "text_generation", **TextGeneration("documents", 48).to_json()}
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=task, base="tiny")
    plain = Bundle.create(root / "plain", draft, lambda stage: TextGeneration.take_base(folder, stage))
    return registry.get("steps/export", "onnx")().apply(plain, Context(root / "out", root / "work", splits()))


@pytest.fixture(scope="module")
def floats(tmp_path_factory) -> dict[str, Bundle]:
    root = tmp_path_factory.mktemp("writers")
    gpt2 = tiny_language.gpt2(root / "gpt2")
    folders = {"gpt2": gpt2, "llama": tiny_language.llama(root / "llama", gpt2)}
    return {name: exported(folder, root / f"{name}-bundle") for name, folder in folders.items()}


def made(kind: str, parent: Bundle, root: Path, **parameters: int) -> Bundle:
    step, own = STEPS[kind]
    return registry.get("steps/shrink", step)(**own | parameters).apply(
        parent, Context(root / "out", root / "work", splits())
    )


@pytest.fixture(scope="module")
def quantized(floats, tmp_path_factory) -> dict[tuple[str, str], Bundle]:
    return {
        (name, kind): made(kind, parent, tmp_path_factory.mktemp(f"{name}-{kind}"))
        for name, parent in floats.items()
        for kind in STEPS
    }


CASES = [(name, kind) for name in ("gpt2", "llama") for kind in STEPS]
MOST_NOISE = dict.fromkeys(CASES, 0.1) | {("llama", "q4"): 0.45}
"""Of the logits. Random weights as large as this Llama's bear 4 bits badly."""


def logits_after(decoder: Decoder, texts: list[list[int]]) -> np.ndarray:
    rows = decoder.rows(len(texts))
    return np.stack([rows.read(rows.open(), text) for text in texts])


@pytest.mark.parametrize("case", CASES)
def test_the_child_is_smaller_and_near_its_parent(case, floats, quantized):
    child, parent = quantized[case], floats[case[0]]
    assert child.formats == {FORMATS[case[1]]}
    assert child.model_file(FORMATS[case[1]]).stat().st_size < 0.55 * parent.model_file("onnx").stat().st_size
    generators = [Generator.open(item) for item in (child, parent)]
    begun = [generators[0].vocabulary.document(row).ids[: 4 + at] for at, row in enumerate(ROWS[:16])]
    found, expected = (logits_after(generator.decoder, begun) for generator in generators)
    assert 0 < noise_of(found, expected) < MOST_NOISE[case]
    assert 0 < child.manifest.report["noise"] < MOST_NOISE[case]


@pytest.mark.parametrize(("kind", "function"), [("int8", "rounded"), ("q8", "in_blocks"), ("q4", "in_blocks")])
def test_a_graph_that_writes_something_else_is_refused(kind, function, floats, tmp_path, monkeypatch):
    from budwood.engine import causal_quantization, weight_rounding

    right = getattr(weight_rounding, function)
    monkeypatch.setattr(causal_quantization, function, lambda matrix, *others: right(matrix[::-1], *others))
    with pytest.raises(StepError, match="moved") as caught:
        made(kind, floats["gpt2"], tmp_path)
    assert "bits = 8" in caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", CASES)
def test_its_perplexity_is_near_that_of_its_parent(case, floats, quantized):
    before, after = (score(Predictor.open(item), ROWS[:12]) for item in (floats[case[0]], quantized[case]))
    assert after.metrics["perplexity"] == pytest.approx(before.metrics["perplexity"], rel=0.02)
    assert np.abs(after.per_row - before.per_row).max() < 0.05


@pytest.mark.parametrize("case", CASES)
def test_texts_do_not_depend_on_those_beside_them(case, quantized):
    generator = Generator.open(quantized[case])
    together = [item.text for item in generator.complete(PROMPTS, GREEDY)]
    assert together == [generator.complete([prompt], GREEDY)[0].text for prompt in PROMPTS]


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_equal_requests_add_up_to_equal_texts(case, quantized):
    generator = Generator.open(quantized[case])
    pieces = ["", "", ""]
    for piece in generator.stream(PROMPTS, GREEDY):
        pieces[piece.index] += piece.text
    assert pieces == [item.text for item in generator.complete(PROMPTS, GREEDY)]


@pytest.mark.parametrize("case", CASES)
def test_neither_padding_nor_neighbours_change_a_row(case, quantized):
    decoder = Generator.open(quantized[case]).decoder
    assert decoder.in_place is not None
    texts = [list(range(1, 40)), [5, 6, 7]]
    for make in (decoder.rows, lambda count: CopiedRows(decoder.run, decoder.shape)):
        alone = [make(1) for _ in texts]
        expected = []
        for rows, text in zip(alone, texts, strict=True):
            row = rows.open()
            rows.read(row, text)
            expected.append(rows.step([row], [9])[0])
        rows = make(2)
        together = [rows.open() for _ in texts]
        for row, text in zip(together, texts, strict=True):
            rows.read(row, text)
        np.testing.assert_allclose(rows.step(together, [9, 9]), expected, atol=1e-3)


@pytest.mark.shared
@pytest.mark.parametrize(("kind", "rise"), [("int8", 1.02), ("q8", 1.005), ("q4", 1.15)])
def test_a_trained_model_still_tells_its_story(kind, rise, shared_data, tmp_path):
    parent = exported(shared_data / "weights" / "stories260K", tmp_path)
    child = made(kind, parent, tmp_path / "child")
    story = Generator.open(parent).complete([""], Sampling(max_tokens=120, temperature=0.0))[0].text
    before, after = (score(Predictor.open(item), [{"text": story}]).metrics["perplexity"] for item in (parent, child))
    assert after < rise * before
    assert Generator.open(child).complete(["Once upon a time"], GREEDY)[0].text.startswith(", there was a little")


UNREADABLE = Dataset(({"text": 7}, {"text": None}, {}))


@pytest.mark.parametrize("rows", [None, UNREADABLE], ids=["none", "unreadable"])
def test_without_training_rows_each_weight_is_rounded_by_itself(floats, tmp_path, rows):
    parts = rows and Splits(train=rows, validation=rows, test=rows, seed=0)
    step = registry.get("steps/shrink", "quantize_weights")()
    child = step.apply(floats["llama"], Context(tmp_path / "out", tmp_path / "work", parts))
    assert child.manifest.report["calibrated"] == 0


def test_a_row_that_cannot_be_read_is_passed_by(floats, quantized, tmp_path):
    train = Dataset((*UNREADABLE.rows, *ROWS[:3]))
    parts = Splits(train=train, validation=train, test=train, seed=0)
    step = registry.get("steps/shrink", "quantize_weights")()
    report = step.apply(floats["llama"], Context(tmp_path / "out", tmp_path / "work", parts)).manifest.report
    assert 0 < report["calibrated"] == report["products"] - 1  # the vocabulary keeps 8 bits
    assert quantized["llama", "q4"].manifest.report["calibrated"] == report["calibrated"]
    assert quantized["llama", "q8"].manifest.report["calibrated"] == 0


@pytest.mark.parametrize(("parameters", "where"), [({"bits": 3}, "bits"), ({"block": 24}, "block")])
def test_sizes_that_no_kernel_has_are_refused(floats, tmp_path, parameters, where):
    step = registry.get("steps/shrink", "quantize_weights")(**parameters)
    with pytest.raises(UsageError) as caught:
        step.apply(floats["gpt2"], Context(tmp_path / "out", tmp_path / "work"))
    assert where in caught.value.where


@pytest.mark.parametrize("parameters", [{"keep_float": ("layer.0",)}, {"per_channel": False}])
def test_parameters_without_effect_on_writers_are_refused(floats, tmp_path, parameters):
    step = registry.get("steps/shrink", "quantize_dynamic")(**parameters)
    with pytest.raises(UsageError, match="no effect") as caught:
        step.apply(floats["gpt2"], Context(tmp_path / "out", tmp_path / "work"))
    assert caught.value.where.endswith(next(iter(parameters)))


def test_a_quantized_model_is_not_quantized_again(quantized, tmp_path):
    recipe = Recipe((registry.get("steps/shrink", "quantize_weights")(),))
    with pytest.raises(UsageError, match="takes onnx"):
        recipe.check(quantized["gpt2", "int8"])


def test_weights_that_are_no_numbers_are_refused(floats, tmp_path):
    import onnx
    from onnx import numpy_helper

    from budwood.engine.causal_quantization import quantize_decoder

    model = onnx.load(str(floats["gpt2"].model_file("onnx")))
    bad = next(item for item in model.graph.initializer if item.name == "layer.0.up.weight")
    values = numpy_helper.to_array(bad).copy()
    values[0, 0] = np.nan
    bad.CopyFrom(numpy_helper.from_array(values, bad.name))
    onnx.save_model(model, str(tmp_path / "bad.onnx"))
    with pytest.raises(StepError, match=r"layer\.0\.up\.weight"):
        quantize_decoder(tmp_path / "bad.onnx", tmp_path / "out.onnx", "int8")


def test_the_vocabulary_is_stored_once_where_it_is_tied(quantized):
    import onnx

    model = onnx.load(str(quantized["gpt2", "q4"].model_file("onnx-q4")))
    config = json.loads((quantized["gpt2", "q4"].path / "config.json").read_text())
    tables = [item.name for item in model.graph.initializer if item.dims[:1] == [config["vocab_size"]]]
    assert sorted(tables) == ["embedding.weight.numbers", "embedding.weight.scales", "embedding.weight.zeros"]
