"""Object detection as a task: requests, candidates, thresholds, labels, and what it refuses."""

import base64

import numpy as np
import pytest
import scenes

from budwood.core.errors import BundleError, DataError
from budwood.core.task import brief
from budwood.engine.images import plain_png
from budwood.tasks.object_detection import ObjectDetection

TASK = ObjectDetection(("cat", "dog"))
LAID = np.array([[0.5, 0.5, 0.0, 6.0, 96.0, 72.0]])
"""An image of 96 x 72 pixels in a square of 48."""


def outputs(*found: tuple[float, float, float, float, float, float]) -> dict[str, np.ndarray]:
    """A detector's outputs for one image, of (logit of cat, logit of dog, and a box in the square) for each place."""
    table = np.asarray(found, np.float32)[None]
    return {"logits": table[:, :, :2], "boxes": table[:, :, 2:]}


def answer(*found: tuple[float, ...], wanted: float = np.nan, top: int = 100, threshold: float = 0.5) -> list[dict]:
    inputs = {"laid": LAID, "min_score": np.array([wanted])}
    kept = TASK.finish(inputs, outputs(*found))
    return TASK.decode(kept, {"threshold": threshold}, top)[0]["objects"]


def test_boxes_come_back_in_pixels_of_the_image_the_surest_first() -> None:
    found = answer((0.0, 1.0, 10, 16, 20, 26), (3.0, -9, 0, 0, 30, 30))
    assert [item["label"] for item in found] == ["cat", "dog"]
    assert found[0]["box"] == [0.0, 0.0, 60.0, 48.0], "cut at the edge of the image"
    assert found[1]["box"] == [20.0, 20.0, 40.0, 40.0]
    assert found[1]["score"] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


def test_one_object_is_reported_once() -> None:
    near = [(2.0, -9, 10, 10, 30, 30), (1.5, -9, 11, 10, 31, 30), (-9, 1.0, 10, 10, 30, 30), (-9, 1.0, 10, 18, 30, 42)]
    assert [item["label"] for item in answer(*near)] == ["cat", "dog"], "a second label for the place is left out"


def test_the_threshold_is_the_models_own_or_the_one_of_the_request() -> None:
    found = [(1.0, -9, 0, 10, 10, 20), (-1.0, -9, 20, 10, 30, 20)]
    assert len(answer(*found)) == 1
    assert len(answer(*found, threshold=0.2)) == 2
    assert len(answer(*found, wanted=0.1)) == 2
    assert len(answer(*found, wanted=0.9)) == 0
    assert len(answer(*found, wanted=0.1, top=1)) == 1


def test_answers_that_are_measured_hold_what_is_too_unsure_to_be_reported() -> None:
    kept = TASK.finish({"laid": LAID, "min_score": np.array([np.nan])}, outputs((-2.0, -9, 0, 10, 10, 20)))
    (found,) = TASK.measuring().decode(kept, {}, 100)
    assert found["objects"] == []
    assert [item["label"] for item in found["candidates"]] == ["cat"]
    assert "measured" not in TASK.measuring().to_json()


def test_what_runtimes_are_compared_by_does_not_depend_on_the_order_of_places() -> None:
    random = np.random.default_rng(0)
    places = np.concatenate([random.normal(size=(200, 2)), random.uniform(0, 48, (200, 4))], axis=1)
    inputs = {"laid": LAID, "min_score": np.array([np.nan])}
    first = TASK.finish(inputs, outputs(*places))["logits"]
    second = TASK.finish(inputs, outputs(*random.permutation(places)))["logits"]
    np.testing.assert_allclose(first, second, atol=1e-5)
    changed = places.copy()
    changed[:, 2:] += 3
    assert np.abs(TASK.finish(inputs, outputs(*changed))["logits"] - first).max() > 1e-3, "boxes count too"


def test_requests_are_checked() -> None:
    image = base64.b64encode(plain_png((1, 2, 3))).decode()
    assert TASK.parse({"image": image, "min_score": 0})["min_score"] == 0.0
    assert "min_score" not in TASK.parse({"image": image})
    for wrong in (-0.1, 1.5, "0.5", True, None):
        with pytest.raises(DataError) as caught:
            TASK.parse({"image": image, "min_score": wrong})
        assert caught.value.where == "min_score"
    with pytest.raises(DataError, match="unknown field"):
        TASK.parse({"image": image, "box": []})


def test_labels_are_counted_and_unknown_ones_named() -> None:
    rows = [{"label": [{"label": "dog", "box": [0, 0, 1, 1]}] * 2}, {"label": []}]
    assert TASK.targets(rows).tolist() == [[0, 2], [0, 0]]
    with pytest.raises(DataError, match="'cow' is unknown") as caught:
        TASK.targets([*rows, {"label": [{"label": "cow", "box": [0, 0, 1, 1]}]}])
    assert caught.value.where == "row 3"
    with pytest.raises(DataError, match="no image with a box"):
        ObjectDetection.from_rows([{"image": "a.png", "label": []}])


def test_images_without_boxes_are_for_other_tasks() -> None:
    assert ObjectDetection.suits([{"label": []}, {"label": [{"label": "a", "box": [0, 0, 1, 1]}]}]) == 1.0
    for label in ("cat", ["cat", "dog"], 3.5, []):
        assert ObjectDetection.suits([{"label": label}]) == 0.0


@pytest.mark.parametrize(
    "fields", [{}, {"labels": []}, {"labels": [1]}, {"labels": ["a"], "measured": True}, {"labels": ["a"], "anchor": 3}]
)
def test_odd_fields_of_a_bundle_are_refused(fields: dict) -> None:
    with pytest.raises(BundleError):
        ObjectDetection.from_json(fields)


def test_an_answer_in_a_few_words() -> None:
    things = [{"label": "dog"}, {"label": "cat"}, {"label": "dog"}]
    assert brief({"objects": things}) == "2 dog, 1 cat"
    assert brief({"objects": []}) == "(no objects)"


def test_the_score_of_an_image_is_its_f1() -> None:
    _, truth = scenes.scene(0)
    rows = [{"label": truth}, {"label": truth}, {"label": []}]
    answers = [{"objects": [{**truth[0], "score": 0.9}]}, {"objects": []}, {"objects": []}]
    half = 2 / (1 + len(truth))
    np.testing.assert_allclose(TASK.row_scores(answers, rows), [half, 0, 1])


@pytest.mark.parametrize("label", ["cat", "3.5", {"days": "1"}, ["cat"], [{"label": "cat"}]])
def test_labels_that_are_no_boxes_are_refused(label: object) -> None:
    with pytest.raises(DataError, match="is no list of boxes"):
        TASK.targets([{"image": "a.png", "label": label}])


def test_an_image_without_objects_has_a_label() -> None:
    assert TASK.targets([{"image": "a.png", "label": []}]).tolist() == [[0, 0]]
