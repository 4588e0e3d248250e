"""Cutting channels of image models: half of the work, the list that rebuilds the module, every later step."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_pruning")

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.errors import BundleError, StepError, UsageError
from budwood.core.step import Context
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found
from budwood.engine.predictor import Predictor
from budwood.engine.reading import read_dataset
from budwood.steps.adapt.head import Head
from budwood.steps.shrink.prune_channels import PruneChannels, shares
from budwood.tasks.image_classification import ImageClassification
from budwood.tasks.image_regression import ImageRegression

UNTRAINED = PruneChannels(epochs=0, round_to=2, macs=0.6)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channels")
    pictures.folder(folder / "colours", splits={"train": 10, "val": 4, "test": 4})
    return folder


@pytest.fixture(scope="module")
def splits(home: Path) -> Splits:
    rows = read_dataset(home / "colours").dataset
    return ImageClassification.split(rows, test=None, seed=0, shots=None)


@pytest.fixture(scope="module", params=["mobilenet_v2", "efficientnet", "resnet", "convnext"])
def parent(request: pytest.FixtureRequest, home: Path, splits: Splits) -> Bundle:
    return adapted(home, request.param, splits, ImageClassification.from_rows(splits.train.rows))


def adapted(home: Path, kind: str, splits: Splits, task: Any) -> Bundle:
    plain = pictures.base(home / f"plain-{kind}-{task.name}", kind)
    base = import_base(Found(plain, "tiny", "asked for"), home / "bases", type(task))
    out = home / f"{kind}-{task.name}"
    return Head().apply(base, Context(out=out, work=home / "work", splits=splits, task=replace(task, image_size=0)))


def context(folder: Path, splits: Splits, name: str = "cut") -> Context:
    return Context(out=folder / name, work=folder / f"{name}-work", splits=splits)


def logits(bundle: Bundle, splits: Splits, runtime: str = "torch") -> Any:
    with closing(Predictor.open(bundle, runtime)) as predictor:
        return predictor.outputs(splits.test.rows)["logits"]


def test_the_cut_model_is_smaller_opens_and_is_exported(parent: Bundle, splits: Splits, tmp_path: Path) -> None:
    child = UNTRAINED.apply(parent, context(tmp_path, splits))
    report = child.manifest.report
    assert report["macs_after"] <= 0.6 * report["macs_before"]
    assert report["parameters"] < report["teacher_parameters"]
    assert child.manifest.files["model.safetensors"].bytes < parent.manifest.files["model.safetensors"].bytes
    opened = Bundle.open(child.path)
    graph = registry.get("steps/export", "onnx")().apply(opened, context(tmp_path, splits, "graph"))
    np.testing.assert_allclose(logits(graph, splits, "onnxruntime"), logits(opened, splits), atol=1e-3)
    assert "cuts.json" in graph.manifest.files


def test_a_second_cut_and_training_go_on_from_the_first(home: Path, splits: Splits, tmp_path: Path) -> None:
    parent = adapted(tmp_path, "mobilenet_v2", splits, ImageClassification.from_rows(splits.train.rows))
    first = UNTRAINED.apply(parent, context(tmp_path, splits, "first"))
    trained = PruneChannels(epochs=2, rounds=2, round_to=2, macs=0.8, batch_size=16)
    second = trained.apply(first, context(tmp_path, splits, "second"))
    lists = [json.loads(item.read("cuts.json"))["cuts"] for item in (first, second)]
    assert set(lists[0]) <= set(lists[1])
    for name, kept in lists[0].items():
        for side, numbers in kept.items():
            assert set(lists[1][name][side]) <= set(numbers)
    rounds = second.manifest.report["rounds"]
    assert [item["stopped"] for item in rounds] == ["finished", "finished"]
    assert all(item["steps"] == 2 for item in rounds)
    assert np.isfinite(logits(second, splits)).all()
    again = trained.apply(first, context(tmp_path, splits, "again"))
    np.testing.assert_array_equal(logits(again, splits), logits(second, splits))


def test_a_cut_model_is_a_base_for_other_labels(home: Path, splits: Splits, tmp_path: Path) -> None:
    parent = adapted(tmp_path, "efficientnet", splits, ImageClassification.from_rows(splits.train.rows))
    child = UNTRAINED.apply(parent, context(tmp_path, splits))
    base = import_base(Found(child.path, "cut", "asked for"), tmp_path / "bases", ImageClassification)
    assert base.read("cuts.json") == child.read("cuts.json")


def test_numbers_from_images_are_cut_too(tmp_path: Path) -> None:
    table = pictures.greys(tmp_path / "greys", rows=24)
    rows = read_dataset(table / "table.csv", target="bright").dataset
    splits = ImageRegression.split(rows, test=None, seed=0, shots=None)
    parent = adapted(tmp_path, "mobilenet_v2", splits, ImageRegression.from_rows(splits.train.rows))
    child = UNTRAINED.apply(parent, context(tmp_path, splits))
    assert np.isfinite(logits(child, splits)).all()


def test_transformers_alone_refuses_the_folder(home: Path, splits: Splits, tmp_path: Path) -> None:
    from budwood.engine.transformers_import import quiet_transformers

    parent = adapted(tmp_path, "mobilenet_v2", splits, ImageClassification.from_rows(splits.train.rows))
    child = UNTRAINED.apply(parent, context(tmp_path, splits))
    kind = quiet_transformers().AutoModelForImageClassification
    with pytest.raises(RuntimeError, match="mismatch"):
        kind.from_pretrained(str(child.path), local_files_only=True)


def test_a_list_that_does_not_fit_the_weights_is_refused(home: Path, splits: Splits, tmp_path: Path) -> None:
    parent = adapted(tmp_path, "mobilenet_v2", splits, ImageClassification.from_rows(splits.train.rows))
    child = UNTRAINED.apply(parent, context(tmp_path, splits))
    content = json.loads(child.read("cuts.json"))
    name = next(iter(content["cuts"]))
    side = next(iter(content["cuts"][name]))
    for numbers, words in (([0], "do not fit"), ([0, 65535], "does not fit")):
        content["cuts"][name][side] = numbers
        changed = tmp_path / f"changed-{len(numbers)}"
        changed.mkdir()
        for file in child.names:
            if "/" not in file:
                (changed / file).write_bytes(child.read(file))
        (changed / "cuts.json").write_text(json.dumps(content))
        with pytest.raises(BundleError, match=words) as caught:
            ImageClassification(("dark", "green", "light")).build(changed)
        assert "cuts.json" in caught.value.where


def test_networks_without_convolutions_are_refused(home: Path, splits: Splits, tmp_path: Path) -> None:
    parent = adapted(tmp_path, "vit", splits, ImageClassification.from_rows(splits.train.rows))
    with pytest.raises(StepError, match="no convolutions") as caught:
        UNTRAINED.apply(parent, context(tmp_path, splits))
    assert "prune_width" in caught.value.fix
    with pytest.raises(StepError, match="no importance"):
        PruneChannels(importance="luck").apply(parent, context(tmp_path, splits))


def test_a_round_that_has_too_little_time_leaves_it_to_the_last(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from budwood.engine import planning

    parent = adapted(tmp_path, "mobilenet_v2", splits, ImageClassification.from_rows(splits.train.rows))
    monkeypatch.setattr(planning, "step_seconds", lambda *_: 20.0)
    step = PruneChannels(epochs=40, rounds=3, round_to=2, macs=0.8, batch_size=16)
    limited = replace(context(tmp_path, splits), seconds=600.0)
    first, second, last = step.apply(parent, limited).manifest.report["rounds"]
    assert "training steps" in first["skipped"]
    assert "training steps" in second["skipped"]
    assert last["steps"] > 0
    with pytest.raises(UsageError, match="training steps"):
        step.apply(parent, replace(context(tmp_path, splits, "none"), seconds=60.0))


def test_half_of_the_epochs_come_last() -> None:
    assert shares(12, 3) == [3, 3, 6]
    assert shares(6, 3) == [1, 1, 4]
    assert shares(1, 3) == [1, 1, 1]
    assert shares(7, 1) == [7]
