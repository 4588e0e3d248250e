"""`plan` for what has no linear head: writers and molecules. It counts the work and publishes nothing."""

import csv
import json
from pathlib import Path

import compounds
import pictures
import pytest
import scenes
import tiny_language

pytest.importorskip("torch")
pytest.importorskip("onnx")

from budwood import flow
from budwood.cli.plan import curve_lines
from budwood.core import registry
from budwood.core.errors import UsageError
from budwood.core.store import Store
from budwood.engine import fingerprint_curve
from budwood.stages import planning, planning_molecules


def molecules(path: Path, numbers: bool = False) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", "value"])
        labelled = compounds.numbers() if numbers else compounds.rows()
        writer.writerows([row["smiles"], row["label"]] for row in labelled)
        # Longer tails make enough rows for a learning curve.
        writer.writerows(["CCCC" + row["smiles"], row["label"]] for row in labelled)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("plan")
    data = folder / "stories.txt"
    data.write_text("<|endoftext|>".join(tiny_language.CORPUS), encoding="utf-8")
    return data, tiny_language.gpt2(folder / "base")


@pytest.mark.parametrize("method", ["auto", "lora"])
def test_a_writer_is_foreseen(texts: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    data, base = texts
    planned = flow.plan(data, base=str(base), method=method, store=tmp_path / "models", max_minutes=1000)
    assert (planned.task, planned.method) == ("text_generation", "full" if method == "auto" else "lora")
    assert planned.stages["learning"] > 0
    assert planned.seconds == pytest.approx(sum(planned.stages.values()), abs=0.5)
    assert planned.fits
    assert planned.parameters > 10_000
    assert "readings of" in planned.why
    assert planned.curve is None
    assert Store(tmp_path / "models").list() == ()
    assert list((tmp_path / "models" / ".work" / "plans").iterdir()) == []


def test_a_new_writer_is_foreseen_with_its_vocabulary(texts: tuple[Path, Path], tmp_path: Path) -> None:
    planned = flow.plan(texts[0], base="new:gpt2-mini", store=tmp_path / "models")
    assert ", new;" in planned.why
    with pytest.raises(UsageError, match="no method 'head' for text generation"):
        flow.plan(texts[0], base="new:gpt2-mini", method="head", store=tmp_path / "models")


def test_molecules_are_foreseen_with_the_baseline_s_learning_curve(tmp_path: Path) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    data, store = molecules(tmp_path / "drugs.csv"), tmp_path / "models"
    planned = flow.plan(data, split="random", store=store)
    assert (planned.task, planned.method) == ("molecule_property", "auto")
    assert set(planned.stages) == {"fingerprint", "smiles", "average", "final fit"}
    assert planned.parameters > 10_000
    assert planned.curve is not None
    assert planned.curve["metric"] == "roc_auc"
    low, high = planned.curve["ci"]
    assert 0 <= low <= planned.curve["gain"] <= high
    assert json.loads(json.dumps(planned.to_json()))["curve"]["sizes"] == list(planned.curve["sizes"])
    lines = curve_lines(planned.curve)
    assert "ROC AUC" in lines[0]
    assert "%" not in "".join(lines)
    only = flow.plan(data, method="fingerprint", split="random", store=store)
    assert set(only.stages) == {"fingerprint"}
    with pytest.raises(UsageError, match="no method 'full' for molecules"):
        flow.plan(data, method="full", store=store)
    assert Store(store).list() == ()


def test_the_report_of_molecules_shows_the_learning_curve(tmp_path: Path) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    data = molecules(tmp_path / "drugs.csv")
    result = flow.adapt(data, method="fingerprint", split="random", store=tmp_path / "models")
    assert (result.path / "report" / "learning.png").exists()
    assert "The baseline on growing shares of the rows" in result.report.read_text()


def test_the_curve_of_numbers_is_of_r2_and_few_rows_have_none() -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    rows = [*compounds.numbers(), *({**row, "smiles": "CCCC" + row["smiles"]} for row in compounds.numbers())]
    task = registry.get("tasks", "molecule_property").from_rows(rows)
    curve = fingerprint_curve.curve_of(task, rows, 0)
    assert curve is not None
    assert curve.metric == "r2"
    assert curve == fingerprint_curve.curve_of(task, rows, 0)
    assert curve.scores[-1] > curve.scores[0]
    assert fingerprint_curve.curve_of(task, rows[:79], 0) is None


def test_a_detector_is_foreseen_by_its_parts(tmp_path: Path) -> None:
    data, base, store = scenes.voc(tmp_path / "scenes", 24), scenes.backbone(tmp_path / "base"), tmp_path / "models"
    planned = flow.plan(data, base=str(base), store=store)
    assert (planned.task, planned.method) == ("object_detection", "full")
    assert set(planned.stages) == {"self-test", "head", "full", "test", "export and checks"}
    assert planned.stages["full"] > 0
    head = flow.plan(data, base=str(base), method="head", store=store)
    assert "full" not in head.stages
    assert head.parameters == planned.parameters > 1000
    with pytest.raises(UsageError, match="no method 'lora' for object detection"):
        flow.plan(data, base=str(base), method="lora", store=store)
    assert Store(store).list() == ()


def test_risks_and_numbers_of_images_are_foreseen_with_the_heads(tmp_path: Path) -> None:
    pictures.base(tmp_path / "base")
    for number in range(60):
        pictures.scene(list(pictures.COLOURS)[number % 3], number).save(tmp_path / f"{number}.png")
    data = tmp_path / "t.csv"
    data.write_text("image,price\n" + "".join(f"{number}.png,{number % 3 + number / 100}\n" for number in range(60)))
    planned = flow.plan(
        data, task="image_regression", target="price", base=str(tmp_path / "base"), store=tmp_path / "models"
    )
    assert (planned.task, planned.method) == ("image_regression", "head")
    assert planned.stages["export and checks"] > 0


def test_more_molecules_take_proportionally_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((2.0, 4.0))
    monkeypatch.setattr(planning_molecules, "timed", lambda work: next(seconds))
    fit = planning_molecules.fingerprint_seconds(None, [{}] * 5000)  # type: ignore[arg-type]
    assert (fit(10), fit(800), fit(1600)) == (2.0, 4.0, 8.0)


def test_a_way_to_learn_without_a_probe_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task, _ = registry.get("tasks", "text_classification").example()
    monkeypatch.setattr(type(task), "learning", "in another way")
    job = planning.Job(tmp_path, "auto", "auto", None, None, None, None, None, "auto", None, 0, None, False)
    with pytest.raises(UsageError, match="plan cannot foresee what text_classification takes") as caught:
        planning.foresight(task, job)
    assert "--max-minutes" in caught.value.fix


def test_a_plan_for_numbers_has_no_curve_of_accuracy(tmp_path: Path) -> None:
    pictures.base(tmp_path / "base", "resnet")
    data = pictures.greys(tmp_path / "greys", 100)
    planned = flow.plan(data, target="bright", base=str(tmp_path / "base"), method="full", store=tmp_path / "models")
    assert (planned.task, planned.method, planned.curve) == ("image_regression", "full", None)
    assert planned.stages["full"] > 0
    assert curve_lines(planned.curve)[0].startswith("labels    no learning curve")
