"""A generator of fewer layers learns to write as the long one does, and writes over its graph as over torch."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language  # noqa: E402

from budwood.core.bundle import Bundle, Draft, StepRecord  # noqa: E402
from budwood.core.dataset import Dataset, Splits  # noqa: E402
from budwood.core.errors import BundleError, StepError, UsageError  # noqa: E402
from budwood.core.step import Context  # noqa: E402
from budwood.engine.decoding import Sampling  # noqa: E402
from budwood.engine.distilling import Distilling  # noqa: E402
from budwood.engine.generator import Generator  # noqa: E402
from budwood.engine.language_distilling import guided_loss  # noqa: E402
from budwood.engine.language_model import load_language_model, packed_loss  # noqa: E402
from budwood.engine.packing import pack, segments  # noqa: E402
from budwood.engine.vocabulary import Vocabulary  # noqa: E402
from budwood.steps.adapt.language import Language  # noqa: E402
from budwood.steps.shrink.drop_layers import DropLayers  # noqa: E402
from budwood.steps.shrink.drop_layers_language import DropLayersLanguage  # noqa: E402
from budwood.tasks.text_generation import TextGeneration  # noqa: E402

ROWS = [{"text": text} for text in tiny_language.CORPUS]
SPLITS = Splits(*(Dataset.of(part) for part in (ROWS[16:], ROWS[:8], ROWS[8:16])), seed=0)


def context(root: Path) -> Context:
    return Context(root / "out", root / "work", SPLITS)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A GPT-2 of three layers that has learnt the corpus."""
    root = tmp_path_factory.mktemp("teacher")
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=None, base="tiny")
    base = Bundle.create(root / "base", draft, TextGeneration.new_base)
    task = TextGeneration.from_rows(ROWS)
    return Language(epochs=8, batch_size=4).apply(base, replace(context(root), task=task))


def test_the_student_recovers_what_the_cut_has_cost(parent: Bundle, tmp_path: Path) -> None:
    cut = DropLayersLanguage(layers=1, epochs=0).apply(parent, context(tmp_path / "cut")).manifest.report
    child = DropLayersLanguage(layers=1, epochs=6, batch_size=4).apply(parent, context(tmp_path / "learnt"))
    report = child.manifest.report
    assert cut["steps"] == 0
    assert cut["kept_layers"] == report["kept_layers"] == [0]
    assert cut["perplexity"]["teacher"] == report["perplexity"]["teacher"]
    assert report["perplexity"]["ratio"] < 0.7 * cut["perplexity"]["ratio"]
    assert report["parameters"] < report["teacher_parameters"]
    assert report["conformance"]["difference"] < 1e-3
    assert child.formats == {"torch", "onnx"}
    assert child.manifest.task == parent.manifest.task
    asked = Sampling(max_tokens=12, seed=1)
    texts = []
    for runtime in ("onnxruntime", "torch"):
        generator = Generator.open(child, runtime)
        texts.append([item.text for item in generator.complete(["Story 3."], asked, n=2)])
        generator.close()
    assert texts[0] == texts[1]


def test_a_tokenizer_that_changed_since_the_parent_was_opened_is_not_taken_over(parent: Bundle, tmp_path: Path) -> None:
    copy = parent.copy(tmp_path / "copy")
    with copy.file("tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleError, match="changed since"):
        DropLayersLanguage(layers=1, epochs=0).apply(copy, context(tmp_path))


def test_half_of_a_llama_is_kept_by_default(tmp_path: Path) -> None:
    folder = tiny_language.llama(tmp_path / "llama", tiny_language.gpt2(tmp_path / "gpt2"))
    task = {"name": "text_generation", **TextGeneration("documents", 64).to_json()}
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=task, base="tiny")
    parent = Bundle.create(tmp_path / "parent", draft, lambda stage: TextGeneration.take_base(folder, stage))
    report = DropLayersLanguage(epochs=1, batch_size=8).apply(parent, context(tmp_path)).manifest.report
    assert report["kept_layers"] == [0]
    assert report["steps"] > 0


def test_the_loss_is_that_of_the_texts_where_the_teacher_has_no_say(parent: Bundle) -> None:
    model = load_language_model(parent.path)
    documents = [Vocabulary.open(parent.path).document(row) for row in ROWS[:4]]
    blocks = pack(segments(documents, 32), 32)
    alone = Distilling(hard=1.0, direction=0.0)
    assert guided_loss(model, model, blocks, alone) == packed_loss(model, blocks)
    own = guided_loss(model, model, blocks, Distilling(hard=0.0))
    assert float(own.detach()) == pytest.approx(0.0, abs=1e-4), "a model agrees with itself"


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"batch_size": 0}, "batch_size is 0"), ({"learning_rate": -1.0}, "learning_rate is -1"), ({"hard": 2.0}, "hard")],
)
def test_settings_that_make_no_sense_are_refused(
    parent: Bundle, tmp_path: Path, wrong: dict[str, float], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        DropLayersLanguage(layers=1, **wrong).apply(parent, context(tmp_path))  # type: ignore[arg-type]


def test_no_layers_are_not_half_of_them(parent: Bundle, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="3 layers, so 0 cannot be kept"):
        DropLayersLanguage(layers=0, epochs=0).apply(parent, context(tmp_path))


def test_too_little_time_is_told_with_what_shrink_has(parent: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="minutes allow 0") as caught:
        DropLayersLanguage(layers=1).apply(parent, replace(context(tmp_path), seconds=1e-6))
    assert caught.value.fix == "grant more minutes"


def test_without_data_it_is_refused(parent: Bundle, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="needs data"):
        DropLayersLanguage().apply(parent, Context(tmp_path / "out", tmp_path / "work"))
    with pytest.raises(StepError, match="3 layers, so 3"):
        DropLayersLanguage(layers=3).apply(parent, context(tmp_path))
    with pytest.raises(StepError, match="learns in another way") as caught:
        DropLayers(layers=1).apply(parent, context(tmp_path))
    assert "drop_layers_language" in caught.value.fix
