"""Distillation: the student comes near to its teacher, unlabelled rows help, and labels are matched by their names."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import teachers  # noqa: E402
import tiny  # noqa: E402

from budwood.core.bundle import Bundle  # noqa: E402
from budwood.core.errors import StepError, UsageError  # noqa: E402
from budwood.core.recipe import key_after  # noqa: E402
from budwood.core.step import Context  # noqa: E402
from budwood.engine.batching import Rows, run  # noqa: E402
from budwood.engine.distilling import (  # noqa: E402
    Distilling,
    distil,
    same_order,
    sizes_report,
    soft_kind,
    soft_loss,
    with_teacher,
)
from budwood.engine.distilling_batches import States  # noqa: E402
from budwood.engine.layer_cut import keep_layers, kept_layers  # noqa: E402
from budwood.engine.planning import TooLittleTime  # noqa: E402
from budwood.engine.predictor import task_of  # noqa: E402
from budwood.engine.signals import Terminated  # noqa: E402
from budwood.steps.export.onnx import Onnx  # noqa: E402
from budwood.steps.shrink.drop_layers import DropLayers  # noqa: E402

QUICK = Distilling(epochs=3, learning_rate=1e-3, batch_size=8)
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Bundle:
    return teachers.texts(tmp_path_factory.mktemp("teacher"), tiny_bert)


def context(folder: Path, **changes: Any) -> Context:
    return Context(out=folder / "out", work=folder / "work", splits=tiny.splits(), **changes)


@pytest.mark.parametrize("head", ["classes", "labels", "events", "hazards", "numbers"])
def test_the_soft_loss_is_least_where_student_and_teacher_agree(head: str) -> None:
    student = (LOGITS + torch.tensor([0.3, -0.2, 0.1])).requires_grad_()
    least = soft_loss(LOGITS, LOGITS, 2.0, head)
    assert soft_loss(student, LOGITS, 2.0, head) > least
    same = LOGITS.clone().requires_grad_()
    soft_loss(same, LOGITS, 2.0, head).backward()
    np.testing.assert_allclose(same.grad, 0.0, atol=1e-6)


def test_the_gradient_of_soft_classes_keeps_its_size_at_any_temperature() -> None:
    sizes = []
    for temperature in (10.0, 20.0):
        student = torch.zeros_like(LOGITS).requires_grad_()
        soft_loss(student, LOGITS, temperature, "classes").backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_what_soft_targets_mean_comes_from_the_task() -> None:
    from budwood.tasks.molecule_property import MoleculeProperty
    from budwood.tasks.text_classification import TextClassification

    assert soft_kind(TextClassification(("a", "b")), np.zeros(3, np.int64)) == "classes"
    assert soft_kind(TextClassification(("a", "b"), multi_label=True), np.zeros((3, 2))) == "labels"
    assert soft_kind(MoleculeProperty("classification", labels=("0", "1")), np.zeros((3, 1))) == "labels"
    assert soft_kind(MoleculeProperty("regression", ranges=((0.0, 1.0),)), np.zeros((3, 1))) == "numbers"


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"batch_size": 0},
        {"temperature": 0.0},
        {"hard": 7.0},
        {"direction": -1.0},
        {"hidden": float("inf")},
    ],
)
def test_settings_that_make_no_sense_are_refused(parent: Bundle, tmp_path: Path, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"^{name} is ") as caught:
        distil(None, None, context(tmp_path), replace(QUICK, **wrong), "test")  # type: ignore[arg-type]
    assert caught.value.fix.startswith("give ")


def test_the_settings_of_a_step_are_its_fields_of_the_same_names() -> None:
    assert Distilling.of(DropLayers(hard=0.5, hidden=2.0)) == Distilling(hard=0.5, hidden=2.0)
    assert Distilling.of(Onnx()) == Distilling()


def test_states_of_padding_do_not_count() -> None:
    states = States()
    states.student[0] = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])
    states.teacher[0] = torch.tensor([[[2.0, 0.0], [0.0, -1.0]], [[0.0, 3.0], [1.0, 1.0]]])
    assert float(states.apart(torch.tensor([[1, 0], [1, 1]]))) == pytest.approx(0.0, abs=1e-6)
    assert float(states.apart()) == pytest.approx(0.5)


def test_too_little_time_is_told_with_what_shrink_has(parent: Bundle, tmp_path: Path) -> None:
    where = context(tmp_path, seconds=1e-6)
    studied, teacher = with_teacher(parent, where)
    with pytest.raises(TooLittleTime) as caught:
        distil(studied, teacher, where, QUICK, "test")
    assert caught.value.fix == "grant more minutes"


def test_a_student_comes_near_to_its_teacher(parent: Bundle, tmp_path: Path) -> None:
    distances: list[float] = []
    for epochs in (0, 12):
        where = context(tmp_path / str(epochs))
        studied, teacher = with_teacher(parent, where)
        keep_layers(studied.model, 1)
        torch.manual_seed(0)
        torch.nn.init.normal_(studied.model.head.weight)
        settings = replace(QUICK, epochs=epochs, learning_rate=1e-2, hard=0.0, hidden=0.2)
        assert distil(studied, teacher, where, settings, "test").steps == epochs * 5
        rows = Rows(studied.task, studied.encoder, tiny.splits().test.rows)
        logits = [torch.from_numpy(run(model, rows, "logits")) for model in (studied.model, teacher)]
        distances.append(float(soft_loss(*logits, 2.0, "classes")))
    assert distances[1] < 0.3 * distances[0]


def test_rows_without_a_label_are_learnt_from_too(parent: Bundle, tmp_path: Path) -> None:
    more = [{"text": f"{row['text']} Please help me with this."} for row in tiny.rows(3)]
    seen: list[tuple[int, int]] = []
    where = context(tmp_path, unlabelled=more)
    studied, teacher = with_teacher(parent, where)
    trained = distil(studied, teacher, where, QUICK, "test", after_step=lambda model, *at: seen.append(at))
    assert trained.steps == 3 * -(-(36 + len(more)) // 8)
    assert seen[0] == (1, trained.steps)
    assert seen[-1] == (trained.steps, trained.steps)
    plain = context(tmp_path)
    assert key_after("x", DropLayers(), plain) != key_after("x", DropLayers(), where)
    assert key_after("x", DropLayers(), plain) == key_after("x", DropLayers(), replace(plain, unlabelled=[]))


def test_what_is_done_after_each_update_lasts(parent: Bundle, tmp_path: Path) -> None:
    studied, teacher = with_teacher(parent, context(tmp_path))
    name, weight = next((n, p) for n, p in studied.model.named_parameters() if n.endswith("query.weight"))

    def mask(model: Any, step: int, steps: int) -> None:
        with torch.no_grad():
            dict(model.named_parameters())[name][0].zero_()

    distil(studied, teacher, context(tmp_path), QUICK, "test", after_step=mask)
    assert not weight[0].any()
    assert weight[1].any()


def test_a_run_that_was_stopped_ends_with_the_very_same_weights(parent: Bundle, tmp_path: Path) -> None:
    def learn(folder: Path, stop_at: int) -> dict[str, Any]:
        studied, teacher = with_teacher(parent, context(folder))

        def stop(model: Any, step: int, steps: int) -> None:
            if step == stop_at:
                signal.raise_signal(signal.SIGTERM)

        distil(studied, teacher, context(folder), QUICK, "test", after_step=stop)
        weights: dict[str, Any] = studied.model.state_dict()
        return weights

    whole = learn(tmp_path / "whole", 0)
    with pytest.raises(Terminated):
        learn(tmp_path / "parts", 7)
    again = learn(tmp_path / "parts", 0)
    assert all(torch.equal(again[name], item) for name, item in whole.items())


def test_labels_in_another_order_are_matched_by_name(parent: Bundle, tmp_path: Path) -> None:
    own = task_of(parent)
    turned = replace(own, labels=tuple(reversed(own.labels)))  # type: ignore[type-var, attr-defined]
    studied, teacher = with_teacher(parent, context(tmp_path, task=turned))
    plain, _ = with_teacher(parent, context(tmp_path))
    rows = tiny.splits().test.rows
    expected = run(plain.model, Rows(own, plain.encoder, rows), "logits")
    for model in (teacher, studied.model):
        np.testing.assert_allclose(run(model, Rows(turned, studied.encoder, rows), "logits"), expected[:, ::-1])
    child = DropLayers(layers=1, epochs=4).apply(parent, context(tmp_path, task=turned))
    assert task_of(child).to_json()["labels"] == list(reversed(tiny.LABELS))
    assert child.manifest.report["history"][0][1] > 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda task: replace(task, labels=("delivery", "praise", "other")),
        lambda task: replace(task, labels=task.labels[:2]),
        lambda task: replace(task, multi_label=True),
    ],
)
def test_other_labels_are_refused(parent: Bundle, tmp_path: Path, change: Callable[[Any], Any]) -> None:
    with pytest.raises(StepError, match="do not answer the same question"):
        with_teacher(parent, context(tmp_path, task=change(task_of(parent))))


def test_labels_of_a_deep_head_cannot_be_mapped(parent: Bundle) -> None:
    own = task_of(parent)
    model = own.build(parent.path)
    model.head = torch.nn.Sequential(model.head)
    turned = replace(own, labels=tuple(reversed(own.labels)))  # type: ignore[type-var, attr-defined]
    with pytest.raises(StepError, match="cannot be mapped"):
        same_order(model, own, turned)


def test_a_student_larger_than_its_teacher_is_told() -> None:
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(20, 20)
    assert "warning" not in sizes_report(large, small)
    warning = sizes_report(small, large)["warning"]
    assert "420" in warning
    assert "6:" in warning


def test_batchnorm_stays_still_and_both_see_the_same_variation(tmp_path: Path) -> None:
    bundle, splits = teachers.images(tmp_path, "mobilenet_v2")
    where = Context(out=tmp_path / "out", work=tmp_path / "w", splits=splits)
    studied, teacher = with_teacher(bundle, where)
    before = {name: item.clone() for name, item in studied.model.state_dict().items() if "running" in name}
    shown: list[Any] = []
    teacher.register_forward_pre_hook(
        lambda module, args, kwargs: shown.append(kwargs["pixel_values"]) if studied.model.training else None,
        with_kwargs=True,
    )
    studied.model.register_forward_pre_hook(
        lambda module, args, kwargs: shown.append(kwargs["pixel_values"]) if module.training else None,
        with_kwargs=True,
    )
    distil(studied, teacher, where, replace(QUICK, epochs=1), "test")
    assert len(shown) == 2 * 3
    assert all(torch.equal(own, other) for own, other in zip(shown[0::2], shown[1::2], strict=True))
    assert before
    assert all(torch.equal(studied.model.state_dict()[name], item) for name, item in before.items())


def test_layers_are_spread_evenly_or_taken_in_turn() -> None:
    assert kept_layers(6, 3) == [0, 2, 5]
    assert kept_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert kept_layers(6, 3, "alternate") == [0, 2, 4]
    assert kept_layers(4, 1) == [0]
    with pytest.raises(StepError, match="6 layers, so 6"):
        kept_layers(6, 6)
    with pytest.raises(StepError, match="no spacing 'odd'"):
        kept_layers(6, 3, "odd")
