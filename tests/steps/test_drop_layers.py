"""Fewer layers: of texts, images and molecules, trained or only cut; networks without such layers are refused."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import compounds  # noqa: E402
import teachers  # noqa: E402
import tiny  # noqa: E402

from budwood.core import registry  # noqa: E402
from budwood.core.errors import StepError  # noqa: E402
from budwood.core.recipe import Recipe  # noqa: E402
from budwood.core.step import Context  # noqa: E402
from budwood.engine.predictor import Predictor, task_of  # noqa: E402
from budwood.steps.export.onnx import Onnx  # noqa: E402
from budwood.steps.shrink.drop_layers import DropLayers  # noqa: E402


def test_an_untrained_cut_is_its_parents_layers_and_no_more(tiny_bert: Path, tmp_path: Path) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=tiny.splits())
    child = Recipe((DropLayers(layers=1, epochs=0), Onnx())).run(parent, context, tmp_path / "cut")
    assert child.manifest.report["steps"] == 0
    assert child.manifest.report["kept_layers"] == [0]
    long, short = (task_of(bundle).build(bundle.path).state_dict() for bundle in (parent, child))
    assert all(torch.equal(item, long[name]) for name, item in short.items())
    assert len(short) < len(long)
    assert child.formats == {"torch", "onnx"}


def test_a_vision_transformer_loses_layers_and_learns(tmp_path: Path) -> None:
    parent, splits = teachers.images(tmp_path, "vit")
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=splits)
    child = Recipe((DropLayers(layers=1, epochs=2), Onnx())).run(parent, context, tmp_path / "cut")
    report = child.manifest.report
    assert report["steps"] == 2
    assert report["parameters"] < report["teacher_parameters"]
    assert report["conformance"]["difference"] < 1e-3


@pytest.mark.parametrize("network", ["mobilenet_v2", "convnext"])
def test_a_convolutional_network_is_refused(tmp_path: Path, network: str) -> None:
    parent, splits = teachers.images(tmp_path, network)
    with pytest.raises(StepError, match="no list of layers to cut") as caught:
        DropLayers(layers=1).apply(parent, Context(out=tmp_path / "out", work=tmp_path / "w", splits=splits))
    assert "channels" in caught.value.fix


@pytest.mark.parametrize("labelled", ["classes", "numbers"])
def test_a_transformer_on_molecules_loses_layers(tmp_path: Path, labelled: str) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    from budwood.engine.molecule_bundle import new_base

    rows = compounds.rows() if labelled == "classes" else compounds.numbers()
    task, splits = compounds.task(rows), compounds.splits(labelled=rows)
    context = Context(out=tmp_path / "unused", work=tmp_path / "work", splits=splits, task=task)
    smiles = registry.get("steps/adapt", "smiles")(epochs=1)
    child = Recipe((smiles, DropLayers(layers=1, epochs=1), Onnx())).run(
        new_base(tmp_path), context, tmp_path / "cache"
    )
    predictor = Predictor.open(child)
    assert predictor.predict(splits.test.rows[:2])[0]["in_domain"] in (True, False)
    scores = predictor.outputs(splits.test.rows)
    assert np.isfinite(scores["logits"]).all()
    assert scores["spread"].shape == scores["logits"].shape
    predictor.close()
