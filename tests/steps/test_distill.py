"""A given student learns from the adapted model: other tokenizers, other networks, other sizes of images."""

import re
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import numpy as np
import pictures
import pytest

torch = pytest.importorskip("torch")

import teachers  # noqa: E402
import tiny  # noqa: E402

from budwood.core.bundle import Bundle  # noqa: E402
from budwood.core.dataset import Splits  # noqa: E402
from budwood.core.errors import BundleError, NotFoundError, UsageError  # noqa: E402
from budwood.core.recipe import Recipe  # noqa: E402
from budwood.core.step import Context  # noqa: E402
from budwood.core.task import Task  # noqa: E402
from budwood.engine.distilling import Distilling, distil, with_teacher  # noqa: E402
from budwood.engine.predictor import Predictor, task_of  # noqa: E402
from budwood.steps.export.onnx import Onnx  # noqa: E402
from budwood.steps.shrink.distill import Distill  # noqa: E402
from budwood.steps.shrink.drop_layers import DropLayers  # noqa: E402

WIDTH = tiny.HIDDEN


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Splits]:
    return teachers.images(tmp_path_factory.mktemp("photos"), "resnet")


def student_of(folder: Path, network: str) -> str:
    return str(pictures.base(folder / "student", network))


def test_another_network_learns_what_the_teacher_has_learnt(photos: tuple[Bundle, Splits], tmp_path: Path) -> None:
    parent, splits = photos
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=splits)
    steps = (Distill(student=student_of(tmp_path, "vit"), epochs=4, learning_rate=3e-3, hidden=1.0), Onnx())
    child = Recipe(steps).run(parent, context, tmp_path / "steps")
    named = child.manifest.history[-2].parameters["student"]
    assert named == child.manifest.base
    assert re.fullmatch("student@[0-9a-f]{16}", named)
    assert str(tmp_path) not in (child.path / "bundle.json").read_text()
    assert child.manifest.report["steps"] == 4
    assert child.manifest.report["hidden"].startswith("not applied: no list of layers")
    assert child.manifest.report["conformance"]["difference"] < 1e-3
    assert task_of(child).to_json()["labels"] == task_of(parent).to_json()["labels"]
    predictor = Predictor.open(child)
    answers = predictor.predict_all(splits.test.rows)
    assert predictor.task.row_scores(answers, splits.test.rows).mean() > 0.5
    predictor.close()


def test_another_content_of_the_folder_is_another_result(photos: tuple[Bundle, Splits], tmp_path: Path) -> None:
    parent, splits = photos
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=splits)
    recipe = Recipe((Distill(student=student_of(tmp_path, "resnet"), epochs=0),))
    first = recipe.run(parent, context, tmp_path / "steps")
    assert recipe.run(parent, context, tmp_path / "steps").id == first.id
    rmtree(tmp_path / "student")
    student_of(tmp_path, "vit")
    assert recipe.run(parent, context, tmp_path / "steps").id != first.id


def test_each_of_the_two_reads_the_same_variation_in_its_own_way(photos: tuple[Bundle, Splits], tmp_path: Path) -> None:
    parent, splits = photos
    where = Context(out=tmp_path / "out", work=tmp_path / "w", splits=splits)
    studied, teacher = with_teacher(parent, where)
    shown: list[np.ndarray] = []
    for model in (studied.model, teacher):
        model.register_forward_pre_hook(
            lambda module, args, given: shown.append(given["pixel_values"].numpy()) if len(shown) < 2 else None,
            with_kwargs=True,
        )
    distil(studied, teacher, where, Distilling(epochs=1), "test", teacher_encoder=dimmer(studied.task, parent.path))
    brightness = [pixels.mean(axis=(1, 2, 3)) for pixels in shown]
    assert not np.array_equal(*shown)
    assert np.corrcoef(*brightness)[0, 1] > 0.99


def dimmer(task: Task, folder: Path):  # type: ignore[no-untyped-def]
    """An encoder that shows other pixels of the same images."""
    own = task.encoder(folder)

    def encode(rows):  # type: ignore[no-untyped-def]
        found = own(rows)
        return found._replace(inputs={"pixel_values": found.inputs["pixel_values"] * np.float32(0.5)})

    return encode


def test_a_smaller_encoder_of_shorter_texts_learns_from_a_larger_one(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    (tmp_path / "student").mkdir()
    monkeypatch.setattr(tiny, "HIDDEN", 16)
    monkeypatch.setattr(tiny, "MAX_TOKENS", 12)
    folder = tiny.bert(tmp_path / "student")
    context = Context(out=tmp_path / "out", work=tmp_path / "w", splits=tiny.splits())
    child = Distill(student=str(folder), epochs=3, direction=1.0).apply(parent, context)
    assert task_of(child).to_json()["max_tokens"] == 12 < task_of(parent).to_json()["max_tokens"]
    report = child.manifest.report
    assert report["history"][-1][1] > 0.9
    assert report["parameters"] < report["teacher_parameters"]
    assert "warning" not in report
    assert report["direction"] == f"not applied: embeddings of 16 and of the teacher's {WIDTH} numbers"
    with pytest.raises(UsageError, match="two tokenizers") as caught:
        Distill(student=str(folder), hidden=1.0).apply(parent, replace(context, work=tmp_path / "w2"))
    assert "hidden = 0" in caught.value.fix


def test_numbers_of_images_are_taught_too(photos: tuple[Bundle, Splits], tmp_path: Path) -> None:
    splits = photos[1]
    values = {label: float(number) for number, label in enumerate(pictures.COLOURS)}

    def numbered(name: str):  # type: ignore[no-untyped-def]
        part = getattr(splits, name)
        return type(part).of([{**row, "label": values[row["label"]] + 0.1 * i} for i, row in enumerate(part)], "tiny")

    own = Splits(*(numbered(name) for name in ("train", "validation", "test")), seed=0)
    parent = teachers.adapted(tmp_path, pictures.base(tmp_path / "base", "convnext"), "image_regression", own)
    context = Context(out=tmp_path / "out", work=tmp_path / "w", splits=own)
    child = Distill(student=student_of(tmp_path, "vit"), epochs=1).apply(parent, context)
    report = child.manifest.report
    assert np.isfinite([score for _, score in report["history"]]).all()
    assert report["parameters"] > report["teacher_parameters"]
    assert "nothing becomes smaller" in report["warning"]


def test_risks_over_time_are_taught_in_all_periods(photos: tuple[Bundle, Splits], tmp_path: Path) -> None:
    from budwood.tasks.image_regression import ImageRegression

    splits = photos[1]
    days = {label: 40 * (number + 1) for number, label in enumerate(pictures.COLOURS)}

    def timed(name: str):  # type: ignore[no-untyped-def]
        part = getattr(splits, name)
        labels = [
            {"days": str(days[row["label"]] + i), "died": "no" if i % 3 == 0 else "yes"} for i, row in enumerate(part)
        ]
        return type(part).of([{**row, "label": label} for row, label in zip(part, labels, strict=True)], "tiny")

    own = Splits(*(timed(name) for name in ("train", "validation", "test")), seed=0)
    parent = teachers.adapted(tmp_path, pictures.base(tmp_path / "base", "vit"), "image_regression", own)
    task = task_of(parent)
    assert isinstance(task, ImageRegression)
    assert task.head == "hazards"
    assert np.isnan(task.targets(own.train.rows)).any(), "what came after the end of watching is unknown"
    context = Context(out=tmp_path / "out", work=tmp_path / "w", splits=own)
    child = DropLayers(layers=1, epochs=2).apply(parent, context)
    assert child.manifest.report["steps"] == 2
    assert np.isfinite([score for _, score in child.manifest.report["history"]]).all()


def test_a_student_that_is_not_here_or_not_for_this_task_is_refused(
    photos: tuple[Bundle, Splits], tiny_bert: Path, tmp_path: Path
) -> None:
    parent, splits = photos
    context = Context(out=tmp_path / "out", work=tmp_path / "w", splits=splits)
    for name in ("", "google/never-heard-of"):
        with pytest.raises(NotFoundError, match="no model"):
            Distill(student=name).apply(parent, context)
    with pytest.raises(BundleError):
        Distill(student=str(tiny_bert)).apply(parent, replace(context, work=tmp_path / "w2"))
