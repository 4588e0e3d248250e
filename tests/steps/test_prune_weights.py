"""Weights that become zero in a bundle: the share is kept, the model stays an ordinary one, and packing gains by it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import teachers  # noqa: E402
import tiny  # noqa: E402

from budwood.core import registry  # noqa: E402
from budwood.core.bundle import Bundle  # noqa: E402
from budwood.core.errors import StepError, UsageError  # noqa: E402
from budwood.core.recipe import Recipe  # noqa: E402
from budwood.core.step import Context  # noqa: E402
from budwood.engine.predictor import Predictor, task_of  # noqa: E402
from budwood.steps.shrink.prune_weights import PruneWeights  # noqa: E402


@pytest.fixture
def parent(tmp_path: Path, tiny_bert: Path) -> Bundle:
    return teachers.texts(tmp_path, tiny_bert)


def pruned(parent: Bundle, tmp_path: Path, name: str = "child", **changes: Any) -> Bundle:
    context = Context(out=tmp_path / name, work=tmp_path / f"work-{name}", splits=tiny.splits())
    return PruneWeights(**changes).apply(parent, context)


def zeros(bundle: Bundle) -> dict[str, float]:
    state = task_of(bundle).build(bundle.path).state_dict()
    return {name: float((item == 0).float().mean()) for name, item in state.items() if item.ndim == 2}


@pytest.mark.parametrize("rewind", [False, True])
def test_the_share_of_zeros_is_exact_and_the_model_an_ordinary_one(
    parent: Bundle, tmp_path: Path, rewind: bool
) -> None:
    child = pruned(parent, tmp_path, sparsity=0.8, epochs=4, rewind=rewind, rounds=2)
    report = child.manifest.report
    assert report["sparsity"] == pytest.approx(0.8, abs=1e-3)
    names = ["prune-1", "prune-2", "recover"] if rewind else ["prune-1", "recover"]
    assert [phase["phase"] for phase in report["phases"]] == names
    assert all(phase["steps"] > 0 for phase in report["phases"])
    assert report["parameters"] == report["teacher_parameters"]
    assert "shrink.pack" in report["speed"]
    own, other = (task_of(bundle).build(bundle.path).state_dict() for bundle in (child, parent))
    assert {name: item.shape for name, item in own.items()} == {name: item.shape for name, item in other.items()}
    found = zeros(child)
    assert found["head.weight"] == 0.0
    assert found["encoder.embeddings.word_embeddings.weight"] < 0.1
    assert sum(share > 0.5 for share in found.values()) >= 10


def test_without_training_the_smallest_weights_go_at_once(parent: Bundle, tmp_path: Path) -> None:
    child = pruned(parent, tmp_path, sparsity=0.5, epochs=0)
    assert child.manifest.report["phases"] == []
    own, other = (task_of(bundle).build(bundle.path).state_dict() for bundle in (child, parent))
    for name, item in own.items():
        assert torch.equal(item, other[name] * (item != 0)), name


def test_tables_and_heads_are_pruned_on_request(parent: Bundle, tmp_path: Path) -> None:
    found = zeros(pruned(parent, tmp_path, sparsity=0.5, epochs=0, embeddings=True, heads=True))
    assert found["encoder.embeddings.word_embeddings.weight"] > 0.2
    assert found["head.weight"] > 0.0


def test_settings_that_make_no_sense_are_refused(parent: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="epochs is -1"):
        pruned(parent, tmp_path, epochs=-1)


def test_a_phase_too_short_to_learn_in_leaves_its_time_to_the_next(
    parent: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from budwood.engine import planning

    monkeypatch.setattr(planning, "step_seconds", lambda *_: 20.0)
    context = Context(out=tmp_path / "child", work=tmp_path / "work", splits=tiny.splits(), seconds=600.0)
    step = PruneWeights(sparsity=0.8, epochs=18, batch_size=4, rewind=True, rounds=3)
    report = step.apply(parent, context).manifest.report
    assert ["skipped" in phase for phase in report["phases"]] == [True, True, True, False]
    assert "training steps of 20.0 s" in report["phases"][0]["skipped"]
    assert report["phases"][-1]["steps"] >= 10
    assert report["sparsity"] == pytest.approx(0.8, abs=1e-3)
    with pytest.raises(UsageError, match="minutes allow"):
        step.apply(parent, replace(context, out=tmp_path / "none", work=tmp_path / "w", seconds=60.0))


@pytest.mark.parametrize("sparsity", [0.0, 1.0, 90.0])
def test_a_share_out_of_range(parent: Bundle, tmp_path: Path, sparsity: float) -> None:
    with pytest.raises(UsageError, match="sparsity") as caught:
        pruned(parent, tmp_path, sparsity=sparsity)
    assert "below 1" in caught.value.fix
    with pytest.raises(UsageError, match="rounds"):
        pruned(parent, tmp_path, rounds=0)


def test_what_is_interrupted_ends_with_the_same_weights(
    parent: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from budwood.engine import train, weight_pruning

    monkeypatch.setitem(train.train.__kwdefaults__, "save_seconds", 0.0)
    whole = pruned(parent, tmp_path, "whole", epochs=8)
    calls: list[int] = []

    def killed(masks: Any, model: Any, step: int, steps: int) -> None:
        masks.apply()
        calls.append(step)
        if len(calls) == 3:
            raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(weight_pruning.Masks, "__call__", killed)
        with pytest.raises(RuntimeError):
            pruned(parent, tmp_path, "again", epochs=8)
    again = pruned(parent, tmp_path, "again", epochs=8)
    assert whole.read("model.safetensors") == again.read("model.safetensors")


def test_pruned_and_packed_is_a_fraction_of_the_parent(parent: Bundle, tmp_path: Path) -> None:
    onnx, pack = registry.get("steps/export", "onnx")(), registry.get("steps/shrink", "pack")()
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=tiny.splits())
    graph = Recipe((onnx,)).run(parent, context, tmp_path / "cache")
    steps = (PruneWeights(sparsity=0.9, epochs=2, embeddings=True), onnx, pack)
    child = Recipe(steps).run(parent, context, tmp_path / "cache")
    report = child.manifest.report
    assert report["packed"]["zeros"] > 0.8 * report["packed"]["weights"]
    assert 4 * report["packed"]["bytes"] < graph.manifest.files["onnx/model.onnx"].bytes
    assert np.isfinite(Predictor.open(child).outputs(tiny.rows())["logits"]).all()


def test_convolutions_are_pruned_too(tmp_path: Path) -> None:
    parent, splits = teachers.images(tmp_path, "mobilenet_v2")
    context = Context(out=tmp_path / "child", work=tmp_path / "work", splits=splits)
    child = PruneWeights(sparsity=0.7, epochs=2).apply(parent, context)
    assert child.manifest.report["sparsity"] == pytest.approx(0.7, abs=1e-3)
    state = task_of(child).build(child.path).state_dict()
    assert any(item.ndim == 4 and float((item == 0).float().mean()) > 0.5 for item in state.values())


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    writer = tiny.small_bundle(tmp_path / "writer", task={"name": "text_generation"})
    with pytest.raises(StepError, match="text_generation") as caught:
        pruned(writer, tmp_path)
    assert "pack" in caught.value.fix
