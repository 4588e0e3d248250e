"""The self-test of a detector: what is said of eight images, its time, and what is left of it for the training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scenes

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from budwood.core.errors import StepError
from budwood.core.step import Context
from budwood.engine import detector_base, hub_detector, overfitting
from budwood.engine.detector_grant import Grant, granted, shared_out
from budwood.engine.detector_recipe import own_recipe
from budwood.engine.detector_training import Pictures, evenly, plan_of
from budwood.engine.overfitting import by_heart, doubt, hub_doubt
from budwood.engine.planning import cut
from budwood.engine.reading import read_dataset

LABELS = ("dark", "light")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overfitting")
    scenes.voc(folder / "shapes", 10)
    detector_base.take_base(scenes.detector(folder / "d_fine", "d_fine"), folder / "base")
    return folder


def pictures_of(home: Path) -> Pictures:
    return Pictures(hub_detector.frame_of(home / "d_fine"), read_dataset(home / "shapes").dataset.rows, LABELS)


def blind(model: Any, rows: Any) -> float:
    return 0.0


def test_images_that_are_half_learnt_are_told_of_and_those_that_are_not_stop_the_run() -> None:
    assert "AP50 0.60, above 0.9 is expected; look at the boxes" in doubt(0.6, 8)
    with pytest.raises(StepError, match=r"8 images .* AP50 0\.10") as caught:
        doubt(0.1, 8)
    assert "budwood doctor" in caught.value.fix
    assert "0.95 of the first, 0.9 is expected" in hub_doubt(0.95, 8)
    with pytest.raises(StepError, match="did not clearly fall"):
        hub_doubt(float("nan"), 8)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_detector_of_transformers_that_does_not_learn_fails(home: Path, monkeypatch: Any, seed: int) -> None:
    made = Context(out=home / "out", work=home / "work", seed=seed)
    model = hub_detector.load(home / "base", LABELS, 96)
    assert by_heart(model, pictures_of(home), blind, made)["loss_ratio"] < 0.9
    monkeypatch.setattr(overfitting, "HUB_RATE", 0.0)
    with pytest.raises(StepError, match=r"1\.00 of the first"):
        by_heart(model, pictures_of(home), blind, made)


def test_a_self_test_whose_time_is_over_refuses_nothing(home: Path) -> None:
    said: list[str] = []
    made = Context(home / "out", home / "work", progress=lambda what, done, total, note: said.append(note))
    detector_base.take_base(scenes.backbone(home / "backbone"), home / "own")
    model = detector_base.load_detector(home / "own", LABELS, 96)
    assert by_heart(model, pictures_of(home), blind, made, 0.0) == {"ap50": 0.0, "updates": 0.0}
    assert "its time is over" in said[-1]


def test_what_a_run_that_goes_on_has_tested_is_not_tested_again(home: Path, tmp_path: Path) -> None:
    class Judge:
        ap50 = staticmethod(blind)

        @staticmethod
        def seconds(model: Any, rows: Any) -> float:
            return 0.5

    made = Context(home / "out", tmp_path / "work", seconds=1000.0)
    model: Any = hub_detector.load(home / "base", LABELS, 96)
    first = granted(model, pictures_of(home), Judge(), [{}] * 20, made, self_test=True)
    assert first.self_test
    model = None  # a second test would fail
    again = granted(model, pictures_of(home), Judge(), [{}] * 20, replace(made, seconds=9.0), self_test=True)
    assert again == first


def test_a_schedule_is_cut_to_the_steps_that_fit_and_not_to_half_of_them() -> None:
    class Model:
        head_names = ("head.",)

    plan = plan_of(Model(), own_recipe(76, frozen=False), 0)
    assert evenly(plan, 10).steps == 750
    assert evenly(cut(plan, 97.0, 0.6), 10).steps == 140, "145 fit, and there are ten looks"


def test_looks_at_validation_images_are_part_of_the_time() -> None:
    assert shared_out(100.0, 20, 0.1, None) == Grant(pytest.approx(78.0)), "what is quickly scored is looked at as ever"
    few = shared_out(100.0, 60, 0.1, None)
    assert (few.looks, few.every) == (3, 1)
    assert few.seconds == pytest.approx(100 - 4 * 60 * 0.1)
    many = shared_out(100.0, 5000, 0.1, None)
    assert (many.looks, many.every) == (2, 60)
    assert many.seconds == pytest.approx(100 - 3 * 84 * 0.1)
    assert shared_out(-5.0, 20, 0.1, None).seconds == 0.0
    assert shared_out(100.0, 0, 0.0, None).seconds == 85.0
