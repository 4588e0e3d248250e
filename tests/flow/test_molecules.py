"""A table of molecules becomes a model: the kind of split stands beside every score, with the AUC or the RMSE."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import compounds
import pytest

from budwood import flow
from budwood.core.errors import UsageError
from budwood.core.store import Store
from budwood.core.task import Row
from budwood.stages.results import Adapted

pytest.importorskip("rdkit", reason="molecules need the extra chem")
pytest.importorskip("sklearn")


def table(path: Path, rows: Sequence[Row], **more: Any) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", "active", *more])
        writer.writerows([row["smiles"], row["label"], *more.values()] for row in rows)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("molecules")


@pytest.fixture(scope="module")
def classes(home: Path) -> Adapted:
    data = table(home / "drugs.csv", compounds.rows())
    return flow.adapt(data, method="fingerprint", split="random", store=home / "models")


@pytest.fixture(scope="module")
def numbers(home: Path) -> Adapted:
    data = table(home / "carbons.csv", compounds.numbers())
    return flow.adapt(data, method="fingerprint", store=home / "models")


def test_the_split_and_the_auc_stand_beside_the_score(classes: Adapted) -> None:
    assert (classes.task, classes.method, classes.split) == ("molecule_property", "fingerprint", "random")
    assert "roc_auc" not in classes.intervals, "of the 14 test molecules fewer than 10 are active"
    assert classes.baseline.metrics["roc_auc"] == classes.metrics["roc_auc"], "the baseline is what ships"
    card = (classes.path / "README.md").read_text()
    assert "rows of the test split; split: random.**" in card
    assert f"ROC AUC: {classes.metrics['roc_auc']:.3f}, without an interval." in card
    page = classes.report.read_text()
    assert "<dt>ROC AUC</dt>" in page
    assert "<dt>Split</dt><dd>random</dd>" in page
    manifest = json.loads((classes.path / "bundle.json").read_text())
    assert manifest["report"]["split"] == "random"
    assert manifest["report"]["further_intervals"] == {}
    assert manifest["data"]["options"]["split"] == "random"


def test_numbers_have_their_rmse_and_scaffolds_are_the_default(numbers: Adapted) -> None:
    assert numbers.split == "scaffold"
    low, high = numbers.intervals["rmse"]
    assert 0 < low <= numbers.metrics["rmse"] <= high
    card = (numbers.path / "README.md").read_text()
    assert f"| RMSE | {numbers.metrics['rmse']:.3f} | {low:.3f} to {high:.3f} |" in card
    manifest = json.loads((numbers.path / "bundle.json").read_text())
    assert "split" not in manifest["data"].get("options", {}), "what was not asked for is not noted"


def test_given_test_molecules_are_a_split_of_their_own(home: Path) -> None:
    rows = compounds.rows()
    train, test = table(home / "train.csv", rows[:60]), table(home / "test.csv", rows[60:])
    result = flow.adapt(train, test=test, method="fingerprint", store=home / "models", name="given")
    assert result.split == "given"
    with pytest.raises(UsageError, match="--split and --test both say"):
        flow.adapt(train, test=test, split="random", store=home / "models")


def test_molecules_of_the_training_are_counted_in_every_spelling(classes: Adapted, home: Path) -> None:
    store = Store(home / "models")
    data = store.resolve(classes.name).bundle.manifest.data
    assert data is not None
    splits = store.load_splits(data.fingerprint)
    seen = [*splits.train.rows[:4], *splits.validation.rows[:2]]
    respelt = [{**row, "smiles": f"{backwards(row['smiles'])}.Cl"} for row in seen]
    rows = table(home / "respelt.csv", [*respelt, *splits.test.rows])
    found = flow.evaluate(classes.name, rows, store=store.root)
    assert found.metrics["rows_seen_in_training"] == 6


def backwards(smiles: str) -> str:
    """Another spelling: from the last atom, with double bonds in place of aromatic letters."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    Chem.Kekulize(molecule, clearAromaticFlags=True)
    text: str = Chem.MolToSmiles(molecule, kekuleSmiles=True, canonical=False, rootedAtAtom=molecule.GetNumAtoms() - 1)
    return text


def test_other_kinds_of_split_and_groups_are_refused(home: Path) -> None:
    data = table(home / "grouped.csv", compounds.rows(), plate="p1")
    asked: dict[str, Any] = {"target": "active", "store": home / "models"}
    with pytest.raises(UsageError, match="molecule_property has no split 'shuffled'") as caught:
        flow.adapt(data, split="shuffled", **asked)
    assert caught.value.fix == "choose one of: scaffold, scaffold_balanced, random"
    with pytest.raises(UsageError, match="molecules are grouped by their scaffold"):
        flow.adapt(data, group="plate", **asked)
    texts = home / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"a sentence of row {i},{'ab'[i % 2]}\n" for i in range(40)))
    with pytest.raises(UsageError, match="text_classification has no split 'random'") as caught:
        flow.adapt(texts, split="random", store=home / "models")
    assert caught.value.fix == "leave it out"


@pytest.mark.usefixtures("classes")
def test_there_is_nothing_to_shrink(home: Path) -> None:
    with pytest.raises(UsageError, match="models for molecule_property cannot be shrunk") as caught:
        flow.shrink("drugs", store=home / "models")
    assert "budwood serve drugs" in caught.value.fix


@pytest.mark.parametrize("measured", [False, True])
def test_the_command_prints_all_of_it_and_no_shrinking(
    classes: Adapted, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    from budwood import cli

    result = replace(classes, intervals={"roc_auc": (0.7, 0.9)} if measured else {})
    monkeypatch.setattr(flow, "adapt", lambda *given, **named: result)
    assert cli.main(["adapt", str(home / "drugs.csv"), "--split", "random"]) == 0
    shown = capsys.readouterr()
    header, baseline, model = shown.out.splitlines()[:3]
    assert header.split()[-3:] == ["AUC", "rows", "split"]
    assert (baseline.split()[-1], model.split()[-1]) == ("random", "random")
    assert f"{classes.metrics['roc_auc']:.3f}{' [0.700, 0.900]' if measured else ' '}" in model
    assert ("[0.700" in model) == measured
    assert "budwood shrink" not in shown.err


@pytest.mark.usefixtures("classes")
def test_the_files_give_the_rows_of_a_named_split_again(home: Path) -> None:
    from budwood.core.budget import Budget
    from budwood.core.step import silent
    from budwood.stages import shrink_rows, shrinking

    entry = Store(home / "models").resolve("drugs")
    job = shrinking.Job(entry, Budget(), None, home / "drugs.csv", None, None, 0)
    found = shrink_rows.rows_of(job, Store(home / "empty"), silent)
    assert entry.bundle.manifest.data is not None
    assert (found.fingerprint, found.options.split) == (entry.bundle.manifest.data.fingerprint, "random")
