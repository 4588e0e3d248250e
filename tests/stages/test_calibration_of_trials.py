"""The calibration of a model that was fitted on all rows: the median of the trials, on one scale."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from budwood.engine.images import plain_png
from budwood.engine.risk_calibration import unfitted
from budwood.stages.heads import calibration
from budwood.tasks.image_regression import ImageRegression


def bundle(fitted: dict[str, float]) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(calibration=fitted))


def risk() -> ImageRegression:
    image = plain_png((9, 9, 9))
    return ImageRegression.from_rows([{"image": image, "label": label} for label in ("yes", "no", "no", "no")])


def test_one_trial_without_a_fit_does_not_take_it_from_the_others_and_bins_stay_on_the_shipped_scale() -> None:
    task, random = risk(), np.random.default_rng(0)
    found = []
    for trial in range(4):
        happened = random.random(200) < 0.25 if trial else np.zeros(200, bool)
        logits = np.where(happened, 3.0, 0.0) + random.normal(0, 1, 200)
        found.append(task.calibrate(logits[:, None].astype(np.float32), happened[:, None].astype(np.float32)))
    assert unfitted(found[0])
    assert not any(unfitted(fitted) for fitted in found[1:])
    shipped = calibration(bundle({}), [bundle(fitted) for fitted in found])
    assert shipped["offset"] == pytest.approx(np.median([fitted["offset"] for fitted in found]))
    assert shipped["offset"] < -1
    happened = random.random(2000) < 0.25
    logits = np.where(happened, 3.0, 0.0) + random.normal(0, 1, 2000)
    bins = [answer["bin"] for answer in task.decode({"logits": logits[:, None]}, shipped, 3)]
    counts = [bins.count(name) for name in ("very low", "low", "moderate", "high", "very high")]
    assert min(counts) > 200, f"each bin is meant to hold about a fifth, not {counts}"


def test_what_the_last_fit_found_itself_goes_first() -> None:
    assert calibration(bundle({"slope": 2.0}), [bundle({"slope": 1.0})]) == {"slope": 2.0}
    assert calibration(bundle({}), [bundle({"half_90": 1.0}), bundle({})]) == {}
