"""Learning to find objects: on a backbone of a classifier, and with detectors of transformers; graphs equal torch."""

import json
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scenes

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset
from budwood.core.errors import BundleError, StepError
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found
from budwood.engine.predictor import Predictor
from budwood.engine.reading import read_dataset
from budwood.steps.adapt.detector import Detector
from budwood.tasks.object_detection import ObjectDetection

ONNX = registry.get("steps/export", "onnx")()
SIZE = 96


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    scenes.voc(folder / "shapes", splits={"train": 12, "val": 6, "test": 4})
    return folder


def context(home: Path, work: Path, **options: object) -> Context:
    rows = read_dataset(home / "shapes").dataset
    splits = ObjectDetection.split(rows, test=None, seed=0, shots=None)
    task = ObjectDetection.from_rows(splits.train.rows).with_options({"image_size": SIZE, **options})
    return Context(out=work / "unused", work=work / "work", splits=splits, task=task)


def base(folder: Path, home: Path) -> Bundle:
    return import_base(Found(folder, "tiny", "asked for"), home / "bases", ObjectDetection)


def answers(bundle: Bundle, runtime: str, rows: object) -> list[dict[str, object]]:
    with closing(Predictor.open(bundle, runtime)) as predictor:
        return predictor.predict_all([{**row, "min_score": 0.02} for row in rows])


def same(first: list[dict[str, object]], second: list[dict[str, object]]) -> None:
    for one, other in zip(first, second, strict=True):
        assert [item["label"] for item in one["objects"]] == [item["label"] for item in other["objects"]]
        boxes = [np.asarray([item["box"] for item in answer["objects"]]) for answer in (one, other)]
        np.testing.assert_allclose(*boxes, atol=0.05)
        scores = [[item["score"] for item in answer["objects"]] for answer in (one, other)]
        np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.fixture(scope="module")
def learnt(home: Path) -> Bundle:
    """The head on a frozen backbone, tested on eight images and fine-tuned a little."""
    made = context(home, home / "own")
    steps = (Detector(images=480), Detector(frozen=False, images=160), ONNX)
    return Recipe(steps).run(base(scenes.backbone(home / "backbone"), home), made, home / "own" / "cache")


def test_a_backbone_learns_to_find_objects(learnt: Bundle, home: Path) -> None:
    from budwood.engine.measure import score

    rows = context(home, home).splits.test.rows
    with closing(Predictor.open(learnt)) as predictor:
        found = score(predictor, rows)
    assert found.metric == "f1"
    assert found.metrics["ap50"] > 0.5, "rectangles on grey are easy"
    assert {"ap", "precision", "recall", "ap50 dark", "ap50 light"} <= set(found.metrics)
    assert 0.0 < learnt.manifest.calibration["threshold"] < 1.0
    assert learnt.manifest.report["self_test"]["ap50"] > 0.3, "the later steps tell of it too"
    assert found.value == pytest.approx(float(found.per_row.mean()))


def test_the_graph_answers_as_torch_does(learnt: Bundle, home: Path) -> None:
    rows = context(home, home).splits.test.rows
    same(answers(learnt, "onnxruntime", rows), answers(learnt, "torch", rows))


def test_the_folder_is_an_ordinary_transformers_backbone_with_a_head_beside_it(learnt: Bundle) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    network = AutoModel.from_pretrained(learnt.path, dtype=torch.float32)
    assert network(torch.zeros(1, 3, SIZE, SIZE)).last_hidden_state.shape[2:] == (3, 3)
    assert load_file(learnt.path / "detector.safetensors")["score.weight"].shape[0] == 2
    stated = json.loads((learnt.path / "detector.json").read_text())
    assert (stated["kind"], stated["labels"], stated["frame"]["size"]) == ("budwood", ["dark", "light"], SIZE)


def test_a_killed_run_goes_on_with_what_was_done(learnt: Bundle, home: Path) -> None:
    said: list[str] = []
    again = Context(
        **{**vars(context(home, home / "own")), "progress": lambda what, done, total, note: said.append(what)}
    )
    steps = (Detector(images=480), Detector(frozen=False, images=160), ONNX)
    same_base = base(home / "backbone", home)
    assert Recipe(steps).run(same_base, again, home / "own" / "cache").id == learnt.id
    assert "fine-tuning" not in said


def test_an_interrupted_training_ends_with_the_same_weights(home: Path, tmp_path: Path) -> None:
    parent = base(scenes.backbone(tmp_path / "backbone"), tmp_path)
    step = Detector(frozen=False, images=80, self_test=False)

    def interrupting(what: str, done: int, total: int, note: str) -> None:
        if (what, done) == ("fine-tuning", 6):
            signal.raise_signal(signal.SIGINT)

    def learn(work: Path, **more: object) -> dict[str, object]:
        from safetensors.numpy import load_file

        made = Context(**{**vars(context(home, work)), **more})
        path = Recipe((step,)).run(parent, made, work / "cache").path
        return {name: item for file in path.glob("*.safetensors") for name, item in load_file(file).items()}

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", progress=interrupting)
    assert list((tmp_path / "cut").rglob("state.safetensors")), "a checkpoint was written"
    cut, whole = learn(tmp_path / "cut"), learn(tmp_path / "whole")
    assert cut.keys() == whole.keys()
    assert all(np.array_equal(cut[name], whole[name]) for name in whole)


def test_a_frozen_backbone_sees_the_same_whatever_the_mode(learnt: Bundle) -> None:
    import torch

    model = ObjectDetection(("dark", "light"), image_size=SIZE).build(learnt.path)
    values = torch.rand(1, 3, SIZE, SIZE)
    calm, busy = (model.train(mode).features(values) for mode in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(calm, busy, strict=True))


def test_a_model_is_a_base_for_other_labels(learnt: Bundle, home: Path, tmp_path: Path) -> None:
    parent = base(learnt.path, tmp_path)
    task = ObjectDetection(("a", "b", "c"), image_size=64)
    model = task.build(parent.path)
    assert model.head.score.out_channels == 3
    from safetensors.torch import load_file

    kept = load_file(learnt.path / "detector.safetensors")["distance.weight"]
    assert (model.head.distance.weight == kept).all(), "what finds boxes is kept"


def test_eight_images_that_cannot_be_learnt_stop_the_run_early(home: Path, tmp_path: Path, monkeypatch) -> None:
    from budwood.engine import overfitting

    monkeypatch.setattr(overfitting, "UPDATES", 8)
    monkeypatch.setattr(overfitting, "RATE", 0.0)
    parent = base(scenes.backbone(tmp_path / "backbone"), tmp_path)
    with pytest.raises(StepError, match="8 images could not be learnt by heart") as caught:
        Recipe((Detector(images=16),)).run(parent, context(home, tmp_path), tmp_path / "cache")
    assert "budwood doctor" in caught.value.fix


def test_a_base_without_feature_maps_is_refused(tmp_path: Path) -> None:
    import pictures

    with pytest.raises(BundleError, match="feature maps of strides 8, 16 and 32"):
        base(pictures.base(tmp_path / "vit", "vit"), tmp_path)


@pytest.mark.parametrize("kind", ["d_fine", "rt_detr_v2"])
def test_a_detector_of_transformers_is_adapted_and_exported(home: Path, tmp_path: Path, kind: str) -> None:
    parent = base(scenes.detector(tmp_path / kind, kind), tmp_path)
    made = context(home, tmp_path)
    assert ObjectDetection(("dark",)).fit_to(parent.path).image_size == 96, "what it was made for"
    made = Context(**{**vars(made), "task": made.task.with_options({"image_size": 64}).fit_to(parent.path)})
    steps = (Detector(images=16), Detector(frozen=False, images=16), ONNX)
    bundle = Recipe(steps).run(parent, made, tmp_path / "cache")
    rows = made.splits.test.rows
    same(answers(bundle, "onnxruntime", rows), answers(bundle, "torch", rows))

    import torch
    from transformers import AutoModelForObjectDetection

    network = AutoModelForObjectDetection.from_pretrained(bundle.path, dtype=torch.float32)
    assert network.config.id2label == {0: "dark", 1: "light"}
    before = AutoModelForObjectDetection.from_pretrained(tmp_path / kind, dtype=torch.float32)
    first, last = (dict(item.named_parameters()) for item in (before, network))
    kept = [name for name in last if first[name].shape == last[name].shape]
    changed = [name for name in kept if not torch.equal(first[name], last[name])]
    assert any("backbone" in name for name in changed), "the body learns too"


@pytest.mark.parametrize("normalised", [False, True])
def test_a_detector_of_transformers_sees_what_its_image_processor_gives(tmp_path: Path, normalised: bool) -> None:
    from transformers import AutoImageProcessor

    from budwood.engine.box_frame import FrameDecoder

    folder = scenes.detector(tmp_path / "base", "rt_detr_v2")
    path = folder / "preprocessor_config.json"
    known = {"do_normalize": normalised, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    path.write_text(json.dumps(json.loads(path.read_text()) | known))
    bundle = base(folder, tmp_path)
    image, _ = scenes.scene(3)
    image.save(tmp_path / "image.png")
    task = ObjectDetection(("dark",)).fit_to(bundle.path)
    found, _ = FrameDecoder(task.frame(bundle.path))([str(tmp_path / "image.png")])
    for each in (folder, bundle.path):
        processor = AutoImageProcessor.from_pretrained(each, backend="pil")
        expected = processor(image, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_objects_in_validation_the_last_weights_are_kept_and_it_is_said(home: Path, tmp_path: Path) -> None:
    said: list[str] = []
    made = context(home, tmp_path)
    empty = Dataset(tuple({**row, "label": []} for row in made.splits.validation.rows))
    splits = replace(made.splits, validation=empty)
    made = replace(made, splits=splits, progress=lambda what, done, total, note: said.append(note))
    parent = base(scenes.backbone(tmp_path / "backbone"), tmp_path)
    found = Recipe((Detector(images=16, self_test=False),)).run(parent, made, tmp_path / "cache").manifest
    assert (found.report["history"], found.calibration) == ([], {})
    assert any("no validation image has an object" in note for note in said)
