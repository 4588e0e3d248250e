"""Numbers, risks and times to an event from images: one bundle each, honest on rows it has not seen, reloaded alike."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from PIL import Image

from budwood import flow
from budwood.core.errors import DataError, UsageError
from budwood.core.store import Store
from budwood.engine.predictor import Predictor
from budwood.stages.results import Adapted

pytest.importorskip("torch")
pytest.importorskip("sklearn")

ROWS = 260


def photos(folder: Path, columns: Callable[[float, np.random.Generator], dict[str, Any]], rows: int = ROWS) -> Path:
    """Patches of grey whose brightness, from 0 to 1, says what is in the columns of `table.csv` beside them."""
    random = np.random.default_rng(3)
    folder.mkdir()
    lines = []
    for number in range(rows):
        bright = float(random.random())
        pixels = 40 + 170 * bright + random.normal(0, 20, (40, 44, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", **columns(bright, random)})
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return folder


def price(bright: float, random: np.random.Generator) -> dict[str, Any]:
    return {
        "price": round(1000 * float(np.exp(3 * bright + random.normal(0, 0.2)))),
        "street": int(random.integers(60)),
    }


def illness(bright: float, random: np.random.Generator) -> dict[str, Any]:
    return {"ill": "yes" if random.random() < 1 / (1 + np.exp(-12 * (bright - 0.6))) else "no"}


def death(bright: float, random: np.random.Generator) -> dict[str, Any]:
    time, watched = random.exponential(900 * np.exp(-3 * bright)), random.uniform(50, 600)
    return {"days": max(1, round(min(time, watched))), "died": int(time <= watched)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("risk")
    pictures.base(root / "base", "resnet")
    return root


@pytest.fixture(scope="module")
def numbers(home: Path) -> tuple[Adapted, list[str]]:
    said: list[str] = []
    data = photos(home / "houses", price)
    found = flow.adapt(
        data,
        target="price",
        group="street",
        base=str(home / "base"),
        store=home / "models",
        progress=lambda what, step, total, note: said.append(note),
    )
    return found, said


@pytest.fixture(scope="module")
def risks(home: Path) -> Adapted:
    data = photos(home / "lungs", illness)
    options = {"bins": "0.1,0.3,0.7", "hidden": 8, "dropout": 0.25}
    return flow.adapt(
        data,
        target="ill",
        task="image_regression",
        base=str(home / "base"),
        store=home / "models",
        method="full",
        options=options,
    )


@pytest.fixture(scope="module")
def times(home: Path) -> Adapted:
    data = photos(home / "hearts", death)
    return flow.adapt(
        data, target="days,died", base=str(home / "base"), store=home / "models", options={"horizon": 200}
    )


@pytest.fixture
def answers(home: Path) -> Callable[[Adapted], list[dict[str, Any]]]:
    def of(model: Adapted) -> list[dict[str, Any]]:
        return [dict(answer) for answer in flow.predict(model.name, file=home / model.name, store=home / "models")]

    return of


def test_a_table_of_numbers_is_found_to_be_a_regression_on_a_logarithm(numbers: tuple[Adapted, list[str]]) -> None:
    found, said = numbers
    assert (found.task, found.metric, found.method) == ("image_regression", "1-nmae", "head")
    assert any(note.startswith("scale=logarithm") for note in said)
    assert found.score > 0.88
    assert found.metrics["mape"] < 0.45
    assert found.metrics["coverage_90"] >= 0.75, "40 test rows: the binomial spread is wide"
    low, high = found.intervals["rmse"]
    assert low < found.metrics["rmse"] < high


def test_no_group_is_on_both_sides_of_a_split(numbers: tuple[Adapted, list[str]], home: Path) -> None:
    fingerprint = Store(home / "models").resolve("houses").bundle.manifest.data
    assert fingerprint is not None
    splits = Store(home / "models").load_splits(fingerprint.fingerprint)
    parts = [{row["group"] for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts)), "no group is in two of them"


def test_answers_have_a_value_an_interval_and_a_bin(numbers: tuple[Adapted, list[str]], answers: Any) -> None:
    found = answers(numbers[0])
    assert len(found) == ROWS
    assert all(answer["interval"][0] < answer["value"] < answer["interval"][1] for answer in found)
    # The noise of the prices alone makes it 1.39; prices span a factor of 20, so a wider one would tell nothing.
    assert all(1.3 < answer["interval"][1] / answer["value"] < 2.5 for answer in found)
    names = ["very low", "low", "moderate", "high", "very high"]
    ranked = sorted(found, key=lambda answer: answer["value"])
    assert [names.index(answer["bin"]) for answer in ranked] == sorted(names.index(answer["bin"]) for answer in ranked)
    assert {answer["bin"] for answer in found} == set(names)


def test_a_risk_is_calibrated_and_falls_into_the_users_bins(risks: Adapted, answers: Any) -> None:
    assert risks.metric == "1-brier"
    assert risks.metrics["roc_auc"] > 0.85
    low, high = risks.intervals["roc_auc"]
    assert low < risks.metrics["roc_auc"] <= high
    for answer in answers(risks):
        place = sum(answer["value"] >= edge for edge in (0.1, 0.3, 0.7))
        assert answer["bin"] == ("very low", "low", "high", "very high")[place]


def test_a_hidden_layer_lies_beside_an_ordinary_transformers_folder(risks: Adapted, home: Path) -> None:
    from transformers import AutoModelForImageClassification

    bundle = Store(home / "models").resolve("lungs").bundle
    assert (bundle.path / "head.safetensors").exists()
    network = AutoModelForImageClassification.from_pretrained(bundle.path)
    assert network.config.num_labels == 8, "the units of the hidden layer"
    row = {"image": str(home / "lungs" / "0.png")}
    with closing(Predictor.open(bundle, "torch")) as torch, closing(Predictor.open(bundle)) as onnx:
        assert torch.outputs([row])["logits"] == pytest.approx(onnx.outputs([row])["logits"], abs=1e-3)


def test_a_time_to_an_event_gives_the_risk_by_a_horizon(times: Adapted, answers: Any) -> None:
    assert times.task == "image_regression"
    assert times.metrics["c_index"] > 0.6
    for answer in answers(times):
        risks = list(answer["risks"].values())
        assert risks == sorted(risks)
        assert answer["horizon"] == 200
        earlier = [risk for end, risk in answer["risks"].items() if float(end) <= 200]
        assert 0 <= max(earlier, default=0.0) <= answer["value"] + 1e-6 <= risks[-1] + 2e-6


def test_evaluate_repeats_what_adapt_measured(times: Adapted, home: Path) -> None:
    found = flow.evaluate("hearts", home / "hearts", store=home / "models")  # the columns are those that it learnt from
    assert found.n == ROWS
    assert found.metrics["rows_seen_in_training"] > 0
    assert found.metric == "1-brier"


def test_rows_that_say_neither_are_left_out_of_an_evaluation_and_counted(
    risks: Adapted, home: Path, tmp_path: Path
) -> None:
    labels = ["yes", "no", "maybe"] * 5
    lines = []
    for number, label in enumerate(labels):
        (tmp_path / f"{number}.png").write_bytes((home / "lungs" / f"{number}.png").read_bytes())
        lines.append(f"{number}.png,{label}")
    (tmp_path / "table.csv").write_text("\n".join(["image,ill", *lines]) + "\n")
    found = flow.evaluate("lungs", tmp_path, store=home / "models")
    assert (found.n, found.metrics["rows_with_unknown_label"]) == (10, 5)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"bins": "0.5,0.1"}, "--bins"),
        ({"bins": "2"}, "--bins"),
        ({"dropout": 0.5}, "--dropout"),
        ({"dropout": 0}, "--dropout"),
        ({"hidden": 1}, "--hidden"),
        ({"hidden": 0}, "--hidden"),
        ({"horizon": 5}, "--horizon"),
        ({"positive": "maybe"}, "--positive"),
        ({"colour": 1}, "--colour"),
    ],
)
def test_an_option_that_does_not_suit_is_refused_by_its_flag(
    home: Path, risks: Adapted, options: dict[str, Any], flag: str
) -> None:
    with pytest.raises(UsageError) as caught:
        flow.adapt(
            home / "lungs", target="ill", task="image_regression", base=str(home / "base"), store=home / "models",
            options=options,
        )  # fmt: skip
    assert caught.value.where == flag


def test_a_yes_or_no_stays_a_class_unless_the_task_is_named(home: Path, risks: Adapted) -> None:
    found = flow.adapt(home / "lungs", target="ill", base=str(home / "base"), method="head", store=home / "others")
    assert found.task == "image_classification"


def test_methods_that_contrast_classes_are_refused(home: Path, numbers: tuple[Adapted, list[str]]) -> None:
    for method in ("few_shot", "lora"):
        with pytest.raises(UsageError, match="not for numbers"):
            flow.adapt(home / "houses", target="price", method=method, base=str(home / "base"), store=home / "models")


def test_a_label_that_is_no_number_is_named(home: Path, tmp_path: Path) -> None:
    data = photos(tmp_path / "odd", lambda bright, random: {"price": f"{1 + bright:.3f}"}, rows=40)
    table = data / "table.csv"
    table.write_text(table.read_text().replace("\n3.png,1", "\n3.png,about 1", 1))
    with pytest.raises(DataError, match=r"'about 1.* is not a number"):
        flow.adapt(data, target="price", task="image_regression", base=str(home / "base"), store=tmp_path / "models")


def test_the_bundle_keeps_its_calibration(numbers: tuple[Adapted, list[str]]) -> None:
    manifest = json.loads((numbers[0].path / "bundle.json").read_text())
    assert set(manifest["calibration"]) == {"half_90", "edge_1", "edge_2", "edge_3", "edge_4"}
    assert manifest["task"]["log"] is True


def test_the_report_shows_calibration_tenths_and_the_worst_errors(
    risks: Adapted, numbers: tuple[Adapted, list[str]]
) -> None:
    page = risks.report.read_text()
    assert "<dt>ROC AUC</dt>" in page
    assert "Answers by their risk" in page
    assert page.count("data:image/jpeg") > 5, "the worst errors as small copies"
    other = numbers[0].report.read_text()
    assert "its true number, and the model" in other
    card = (risks.path / "README.md").read_text()
    assert "ROC AUC" in card


@pytest.mark.parametrize("name", ["numbers", "risks", "times"])
def test_the_program_of_the_card_gives_the_answer_without_budwood(
    name: str, home: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = request.getfixturevalue(name)
    model = made[0] if isinstance(made, tuple) else made
    program = (model.path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    photo = home / model.name / "4.png"
    script = tmp_path / "program.py"
    script.write_text(program.replace("photo.jpg", str(photo)))
    done = subprocess.run([sys.executable, script], cwd=model.path, capture_output=True, text=True, check=True)
    (answer,) = flow.predict(model.name, [photo], store=home / "models")
    expected = [*answer["risks"].values()] if "risks" in answer else [answer["value"]]
    assert np.ravel(json.loads(done.stdout)) == pytest.approx(expected, rel=2e-3, abs=1e-4)
