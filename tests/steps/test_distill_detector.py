"""A detector on another backbone learns from the adapted one; detectors of transformers are refused with the reason."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import scenes

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from budwood.core.bundle import Bundle  # noqa: E402
from budwood.core.errors import NotFoundError, StepError  # noqa: E402
from budwood.core.recipe import Recipe  # noqa: E402
from budwood.core.step import Context  # noqa: E402
from budwood.engine.base_model import import_base  # noqa: E402
from budwood.engine.bases import Found  # noqa: E402
from budwood.engine.detector_distilling import soft_detection_loss  # noqa: E402
from budwood.engine.measure import score  # noqa: E402
from budwood.engine.predictor import Predictor  # noqa: E402
from budwood.engine.reading import read_dataset  # noqa: E402
from budwood.steps.adapt.detector import Detector  # noqa: E402
from budwood.steps.export.onnx import Onnx  # noqa: E402
from budwood.steps.shrink.distill_detector import DistillDetector  # noqa: E402
from budwood.tasks.object_detection import ObjectDetection  # noqa: E402

SIZE = 96


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    scenes.voc(folder / "shapes", splits={"train": 12, "val": 6, "test": 4})
    return folder


def context(home: Path, work: Path) -> Context:
    splits = ObjectDetection.split(read_dataset(home / "shapes").dataset, test=None, seed=0, shots=None)
    task = ObjectDetection.from_rows(splits.train.rows).with_options({"image_size": SIZE})
    return Context(out=work / "unused", work=work / "work", splits=splits, task=task)


@pytest.fixture(scope="module")
def teacher(home: Path) -> Bundle:
    made = context(home, home / "own")
    base = import_base(Found(scenes.backbone(home / "backbone"), "tiny", "asked for"), home, ObjectDetection)
    return Recipe((Detector(images=320, self_test=False),)).run(base, made, home / "cache")


def smaller(folder: Path) -> Path:
    """A backbone of fewer channels."""
    from budwood.engine.transformers_import import quiet_transformers

    scenes.backbone(folder)
    transformers = quiet_transformers()
    config = transformers.AutoConfig.from_pretrained(folder)
    config.hidden_sizes, config.embedding_size = [8, 12, 16, 16], 8
    torch.manual_seed(1)
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def test_a_smaller_backbone_learns_to_find_what_the_teacher_finds(teacher: Bundle, home: Path, tmp_path: Path) -> None:
    made = context(home, tmp_path)
    steps = (DistillDetector(student=str(smaller(tmp_path / "small")), images=240, rate=1e-3), Onnx())
    child = Recipe(steps).run(teacher, made, tmp_path / "cache")
    assert str(tmp_path) not in (child.path / "bundle.json").read_text()
    assert child.manifest.history[-2].parameters["student"] == child.manifest.base
    report = child.manifest.report
    assert report["parameters"] < report["teacher_parameters"]
    assert all(name.startswith("lateral.") for name in report["new_layers"])
    assert made.splits is not None
    with closing(Predictor.open(child)) as predictor:
        assert score(predictor, made.splits.test.rows).metrics["ap50"] > 0.3


def test_a_detector_of_transformers_is_refused_with_the_reason(teacher: Bundle, home: Path, tmp_path: Path) -> None:
    student = scenes.detector(tmp_path / "hub", "rt_detr_v2")
    with pytest.raises(StepError, match="student is a detector of transformers") as caught:
        DistillDetector(student=str(student)).apply(teacher, context(home, tmp_path))
    assert "adapt" in caught.value.fix
    with pytest.raises(NotFoundError):
        DistillDetector().apply(teacher, context(home, tmp_path))


def test_agreement_costs_nothing_and_every_difference_something() -> None:
    logits = torch.tensor([[[3.0, -4.0], [-5.0, -5.0]]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]]])
    same = {"logits": logits, "boxes": boxes}
    assert float(soft_detection_loss(same, same)) == pytest.approx(0.0, abs=1e-6)
    unsure = {"logits": logits - 2, "boxes": boxes}
    moved = {"logits": logits, "boxes": boxes + torch.tensor([[[2.0], [0.0]]])}
    unseen = {"logits": logits, "boxes": boxes + torch.tensor([[[0.0], [2.0]]])}
    assert soft_detection_loss(unsure, same) > 1e-3
    assert soft_detection_loss(moved, same) > 0.01
    np.testing.assert_allclose(soft_detection_loss(unseen, same), 0.0, atol=1e-6)
    nothing = {"logits": logits - 20, "boxes": boxes}
    assert torch.isfinite(soft_detection_loss(same, nothing))
