"""Fingerprint, SMILES transformer and their mean: real steps on few molecules, run as a recipe."""

from dataclasses import replace
from pathlib import Path

import compounds
import numpy as np
import pytest

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset
from budwood.core.errors import StepError
from budwood.core.recipe import Recipe
from budwood.core.step import Context

pytest.importorskip("rdkit", reason="molecules need the extra chem")
pytest.importorskip("torch")

from budwood.engine import conformance
from budwood.engine.molecule_bundle import new_base
from budwood.engine.predictor import Predictor

FINGERPRINT = registry.get("steps/adapt", "fingerprint")()
SMILES = registry.get("steps/adapt", "smiles")(epochs=2)
AVERAGE = registry.get("steps/adapt", "average")()


def make(folder: Path, steps: tuple[object, ...], labelled: list[object] | None = None) -> Bundle:
    task, splits = compounds.task(labelled), compounds.splits(labelled=labelled)  # type: ignore[arg-type]
    context = Context(out=folder / "unused", work=folder / "work", splits=splits, task=task)
    made = Recipe(steps).run(new_base(folder), context, folder / "cache")  # type: ignore[arg-type]
    return Bundle.open(made.path)


def test_the_fingerprint_model_is_served_by_its_graph_alone(tmp_path: Path) -> None:
    bundle = make(tmp_path, (FINGERPRINT,))
    assert bundle.formats == {"onnx"}
    predictor = Predictor.open(bundle)
    assert conformance.check(predictor, bundle) < 1e-5
    rows = compounds.splits().test.rows
    answers = predictor.predict_all(rows)
    assert predictor.task.row_scores(answers, rows).mean() >= 0.8, "a chlorine is easy to see"
    known = predictor.predict([compounds.splits().train.rows[0]])[0]
    assert known["in_training"]
    assert known["in_domain"]
    assert known["similarity"] == 1.0
    far = predictor.predict([predictor.task.parse({"smiles": "O=S(=O)(F)N=[N+]=[N-]"})])[0]
    assert not far["in_domain"]
    predictor.close()


def test_a_regression_is_a_fingerprint_model_too(tmp_path: Path) -> None:
    rows = compounds.numbers()
    bundle = make(tmp_path, (FINGERPRINT,), rows)
    predictor = Predictor.open(bundle)
    held = compounds.splits(labelled=rows).test.rows
    metrics = predictor.task.metrics(predictor.predict_all(held), held)
    assert metrics["rmse"] < 1.5 < np.std([row["label"] for row in rows])
    answer = predictor.predict(held[:1])[0]
    assert answer["interval"][0] < answer["value"] < answer["interval"][1]
    predictor.close()


def test_the_transformer_reads_several_spellings_and_the_mean_is_that_of_both(tmp_path: Path) -> None:
    parts = {
        name: make(tmp_path, steps)
        for name, steps in {
            "fingerprint": (FINGERPRINT,),
            "smiles": (SMILES,),
            "average": (SMILES, AVERAGE),
        }.items()
    }
    assert parts["smiles"].formats == {"torch", "onnx"}
    assert parts["average"].formats == {"onnx"}
    rows = compounds.splits().test.rows
    shares = {}
    for name, bundle in parts.items():
        predictor = Predictor.open(bundle)
        conformance.check(predictor, bundle)
        raw = replace(predictor, calibration=bundle.manifest.calibration if name != "average" else {})
        shares[name] = np.asarray([answer["scores"]["1"] for answer in raw.predict_all(rows)])
        predictor.close()
    weight = parts["average"].manifest.report["weight"]
    assert 0 <= weight < 0.5, "two epochs teach a transformer little"
    mean = (1 - weight) * shares["fingerprint"] + weight * shares["smiles"]
    np.testing.assert_allclose(shares["average"], mean, atol=2e-3)


def test_the_torch_runtime_computes_what_the_graph_does(tmp_path: Path) -> None:
    bundle = make(tmp_path, (SMILES,))
    predictor = Predictor.open(bundle, "torch")
    assert conformance.check(predictor, bundle) < 1e-3
    predictor.close()


def test_a_molecule_has_one_answer_however_it_is_spelt(tmp_path: Path) -> None:
    predictor = Predictor.open(make(tmp_path, (SMILES,)))
    first, second = predictor.predict([{"smiles": "OCCc1ccccc1"}, {"smiles": "c1cccc(CCO)c1.[Na+]"}])
    assert second.pop("stripped")
    assert first == second
    assert first["uncertainty"] > 0
    predictor.close()


def test_several_properties_with_gaps_are_learnt_each_from_its_own_rows(tmp_path: Path) -> None:
    rows = [
        {**row, "label": {"chlorine": row["label"], "ring": str(int("1" in row["smiles"]))}} for row in compounds.rows()
    ]
    for row in rows[::3]:
        row["label"]["ring"] = None  # type: ignore[index]
    bundle = make(tmp_path, (FINGERPRINT,), rows)
    predictor = Predictor.open(bundle)
    (answer,) = predictor.predict([{"smiles": "ClCC1CCCCC1"}])
    assert {name: part["label"] for name, part in answer["properties"].items()} == {"chlorine": "1", "ring": "1"}
    predictor.close()


def test_a_base_of_another_kind_and_missing_data_are_refused(tmp_path: Path) -> None:
    import tiny

    task, splits = compounds.task(), compounds.splits()
    context = Context(out=tmp_path / "out", work=tmp_path / "work", splits=splits, task=task)
    with pytest.raises(StepError, match="not one for molecules"):
        FINGERPRINT.apply(tiny.small_bundle(tmp_path / "small"), context)
    with pytest.raises(StepError, match="needs data"):
        FINGERPRINT.apply(new_base(tmp_path), replace(context, splits=None))


def test_without_validation_rows_the_last_epoch_stays(tmp_path: Path) -> None:
    splits = compounds.splits()
    merged = replace(splits, train=Dataset.of((*splits.train, *splits.validation)), validation=Dataset(()))
    context = Context(out=tmp_path / "out", work=tmp_path / "work", splits=merged, task=compounds.task())
    bundle = registry.get("steps/adapt", "smiles")(epochs=1).apply(new_base(tmp_path), context)
    assert bundle.manifest.calibration == {}
    assert bundle.manifest.report["history"] == []
