"""Images with boxes become a model: found by itself, scored, drawn, served, and used without Budwood."""

import base64
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import scenes
from PIL import Image, ImageColor

from budwood import flow
from budwood.core.bundle import Bundle
from budwood.core.errors import UsageError
from budwood.core.store import Store
from budwood.engine.box_drawing import COLOURS
from budwood.engine.detector_recipe import Recipe, own_recipe
from budwood.engine.snippets import BOXES
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import start
from budwood.stages.results import Adapted

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from budwood.engine.detector_network import Detector


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detection")


@pytest.fixture(scope="module")
def data(home: Path) -> Path:
    return scenes.voc(home / "shapes", splits={"train": 24, "val": 8, "test": 10})


@pytest.fixture(scope="module")
def made(home: Path, data: Path) -> Iterator[Adapted]:
    """As many images as are enough here, however busy the machine is."""
    base = scenes.backbone(home / "base")

    def few(n_images: int, *, frozen: bool) -> Recipe:
        return replace(own_recipe(n_images, frozen=frozen), images=480 if frozen else 160)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detector, "recipe", staticmethod(few))
        yield flow.adapt(data, base=str(base), options={"image_size": 96}, store=home / "models")


def ask(home: Path, made: Adapted, **more: object) -> list[dict[str, object]]:
    return [dict(item) for item in flow.predict(made.name, [image_of(home)], store=home / "models", **more)]


def image_of(home: Path) -> Path:
    return home / "shapes" / "JPEGImages" / "040.jpg"


def test_the_task_is_found_and_average_precision_stands_beside_the_score(made: Adapted) -> None:
    assert (made.task, made.metric, made.n_train, made.n_test) == ("object_detection", "f1", 24, 10)
    assert made.metrics["ap50"] > 0.5
    assert made.metrics["ap50"] > made.metrics["ap"] > 0
    low, high = made.intervals.get("ap50", (1.0, 1.0))  # none where all resamples are perfect
    assert 0 <= low <= made.metrics["ap50"] <= high <= 1
    assert {"ap50", "ap"} <= set(made.baseline.metrics)
    assert made.baseline.method == "head"
    assert "AP50:95" in made.verdict
    assert json.loads(json.dumps(made.to_json()))["metrics"]["ap50"] == made.metrics["ap50"]


def test_the_card_and_the_report_tell_of_boxes(made: Adapted) -> None:
    card = (made.path / "README.md").read_text()
    assert "It finds objects of 2 labels: dark, light." in card
    assert "| AP50, dark |" in card
    assert "| AP50:95 |" in card, "also what has no interval"
    assert "pipeline_tag: object-detection" in card
    assert "detector.safetensors" in card
    page = made.report.read_text()
    assert "<dt>AP50</dt>" in page
    assert "AP50, light" in page
    assert "Precision against recall" in page
    assert (made.path / "report" / "precision.png").stat().st_size > 1000


def test_scores_of_the_same_rows_are_the_same_again(home: Path, made: Adapted, data: Path) -> None:
    again = flow.evaluate(made.name, data, store=home / "models")
    assert again.n == 10, "only the test images are scored"
    assert again.score == pytest.approx(made.score)
    assert again.metrics["ap50"] == pytest.approx(made.metrics["ap50"])
    assert again.metrics["rows_seen_in_training"] == 0
    compared = flow.compare(made.name, made.name, data, store=home / "models")
    assert compared.difference == 0


def test_objects_are_in_pixels_of_the_image_and_as_many_as_asked_for(home: Path, made: Adapted) -> None:
    (answer,) = ask(home, made, min_score=0.01)
    every = answer["objects"]
    assert len(every) > 3
    scores = [item["score"] for item in every]
    assert scores == sorted(scores, reverse=True)
    for item in every:
        x1, y1, x2, y2 = item["box"]
        assert 0 <= x1 < x2 <= scenes.WIDTH
        assert 0 <= y1 < y2 <= scenes.HEIGHT
    assert ask(home, made, min_score=0.01, top=2)[0]["objects"] == every[:2]
    threshold = Store.default(home / "models").resolve(made.name).bundle.manifest.calibration["threshold"]
    assert ask(home, made)[0]["objects"] == [item for item in every if item["score"] >= threshold]


def test_drawings_are_written(home: Path, made: Adapted, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn"
    answers = list(flow.predict(made.name, file=home / "shapes", draw=drawn, min_score=0.05, store=home / "models"))
    assert len(answers) == len(list(drawn.iterdir())) == 42
    first = answers[0]
    with Image.open(first["drawing"]) as picture, Image.open(first["image"]) as image:
        assert picture.size == image.size
        drawn_pixels, pixels = (np.asarray(item.convert("RGB"), np.int64) for item in (picture, image))
    surest = first["objects"][0]
    colour = np.asarray(ImageColor.getrgb(COLOURS[["dark", "light"].index(surest["label"])]))
    x1, _, x2, y2 = (int(value) for value in surest["box"])
    edge = np.s_[max(0, y2 - 3) : y2 + 1, x1 + 2 : x2 - 2]
    nearer = np.abs(drawn_pixels[edge] - colour).sum(axis=2) < np.abs(pixels[edge] - colour).sum(axis=2) - 30
    assert nearer.any(axis=0).mean() > 0.8, "the box has a line of its label's colour along its lower edge"


def budwood(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "budwood", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_command_line_prints_counts_and_writes_tables(home: Path, made: Adapted, tmp_path: Path) -> None:
    store = ("--store", str(home / "models"))
    shown = budwood("predict", made.name, str(image_of(home)), "--min-score", "0.01", "--top", "2", *store)
    assert "040.jpg" in shown
    out = tmp_path / "found.csv"
    folder = str(home / "shapes")
    budwood("predict", made.name, "--file", folder, "--draw", str(tmp_path / "d"), "-o", str(out), *store)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list((tmp_path / "d").iterdir())) == 42
    assert isinstance(json.loads(rows[0]["objects"]), list)


def test_a_server_takes_files_and_base64(home: Path, made: Adapted) -> None:
    content = image_of(home).read_bytes()
    expected = ask(home, made)[0]["objects"]
    every = ask(home, made, min_score=0.01)[0]["objects"]
    server = start([Served("shapes", "1", Bundle.open(made.path))], limits=Limits(notice_seconds=0))
    with server as handle, httpx.Client(base_url=handle.url, timeout=30) as client:
        reply = client.post("/predict", files={"image": ("040.jpg", content, "image/jpeg")})
        assert (reply.status_code, reply.json()) == (200, {"objects": expected})
        row = {"image": base64.b64encode(content).decode()}
        assert client.post("/predict", json=row).json() == {"objects": expected}
        assert client.post("/predict", json={**row, "min_score": 0.01}).json() == {"objects": every}
        assert client.post("/predict?top=1", json={**row, "min_score": 0.01}).json() == {"objects": every[:1]}
        refused = client.post("/predict", json={**row, "min_score": 2})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "min_score")
        assert client.get("/stats").json()["models"][0]["objects"] is True
        schema = client.get("/openapi.json").json()
        assert "min_score" in json.dumps(schema)


def test_the_program_of_the_card_finds_the_same_objects(home: Path, made: Adapted, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(made.path, folder)
    with Image.open(image_of(home)) as image:
        image.resize((2 * scenes.WIDTH + 3, 2 * scenes.HEIGHT)).save(folder / "photo.png")
    program_text = (made.path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert program_text.splitlines()[0] == BOXES.splitlines()[0]
    (folder / "find.py").write_text(program_text.replace("photo.jpg", "photo.png"))
    done = subprocess.run([sys.executable, "find.py"], cwd=folder, capture_output=True, text=True, check=True)
    (answer,) = flow.predict(made.name, [folder / "photo.png"], store=home / "models")
    found = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [line[0] for line in found] == [item["label"] for item in answer["objects"]]
    for line, item in zip(found, answer["objects"], strict=True):
        assert float(line[1]) == pytest.approx(item["score"], abs=2e-3)
        assert json.loads(line[2]) == pytest.approx(item["box"], abs=0.2)


def test_what_makes_no_sense_is_refused(home: Path, made: Adapted, data: Path) -> None:
    store = home / "models"
    with pytest.raises(UsageError, match="not drawn by class"):
        flow.adapt(data, base=str(home / "base"), shots=4, store=store)
    with pytest.raises(UsageError, match="no method 'lora' for object detection"):
        flow.adapt(data, base=str(home / "base"), method="lora", store=store)
    with pytest.raises(UsageError, match="no multiple of 32") as caught:
        flow.adapt(data, base=str(home / "base"), options={"image_size": 100}, store=store)
    assert caught.value.fix == "--image-size 96"
    with pytest.raises(UsageError, match="no object can have the score"):
        ask(home, made, min_score=3)
