"""Which molecule model ships: the baseline unless another one is better."""

from pathlib import Path
from typing import Any

import compounds
import numpy as np
import pytest

from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.errors import UsageError
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Step
from budwood.stages import molecules


def scores(mean: float, spread: float = 0.1, seed: int = 0) -> Any:
    return np.clip(np.random.default_rng(seed).normal(mean, spread, 60), 0, 1)


def test_another_model_must_be_better_not_only_as_good() -> None:
    baseline = scores(0.8)
    kept, why = molecules.decide({"fingerprint": baseline, "average": baseline - 0.01, "smiles": baseline}, asked=None)
    assert kept == "fingerprint"
    assert why.endswith("so the baseline is kept")
    better = {"fingerprint": baseline, "average": np.clip(baseline + 0.05, 0, 1), "smiles": scores(0.5)}
    chosen, why = molecules.decide(better, asked=None)
    assert chosen == "average"
    assert "on 60 held-out molecules" in why
    noise = np.random.default_rng(1).normal(0.0, 0.01, 60)
    alike = {**better, "smiles": np.clip(better["average"] + noise, 0, 1)}
    assert molecules.decide(alike, asked=None)[0] == "average", "the transformer alone must be better than the mean"
    assert molecules.decide({**better, "smiles": np.clip(baseline + 0.15, 0, 1)}, asked=None)[0] == "smiles"
    assert molecules.decide(better, asked="smiles") == ("smiles", "asked for")
    assert molecules.decide({"fingerprint": baseline}, asked=None)[0] == "fingerprint"


def test_learning_tries_all_and_ships_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    pytest.importorskip("torch")
    from budwood.engine.molecule_bundle import new_base
    from budwood.steps.adapt import smiles

    monkeypatch.setattr(smiles, "NEW_EPOCHS", 2)
    base, task = new_base(tmp_path), compounds.task()

    def make(splits: Splits, steps: tuple[Step, ...]) -> Bundle:
        context = Context(out=tmp_path / "unused", work=tmp_path / "work", splits=splits, task=task)
        return Recipe(steps).run(base, context, tmp_path / "cache")

    said: list[str] = []
    splits = compounds.splits()
    found = molecules.choose_model(make, splits, say=said.append)
    assert found.method == "fingerprint", "two epochs teach a transformer nothing"
    assert found.model.id == found.baseline.id
    assert set(found.tried) == {"fingerprint", "smiles", "average"}
    assert found.calibration
    assert found.model.manifest.data is not None
    assert found.model.manifest.data.rows["train"] == len(splits.train) + len(splits.validation)
    assert said[0].startswith("method=fingerprint")
    asked = molecules.choose_model(make, splits, method="average", say=said.append)
    assert (asked.method, asked.model.manifest.history[-1].name) == ("average", "adapt.average")
    with pytest.raises(UsageError, match="no method 'full' for molecules"):
        molecules.choose_model(make, splits, method="full")
