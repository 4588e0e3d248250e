"""Boxes: overlap, suppression, matching, average precision, thresholds, and the way into the square and back."""

import numpy as np
import pytest
import scenes
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.dataset import Dataset
from budwood.core.errors import BundleError
from budwood.engine.box_answers import candidates, highest, objects_of
from budwood.engine.box_frame import Frame, FrameDecoder, as_shown
from budwood.engine.box_splits import box_splits, fitting_size
from budwood.engine.boxes import iou, match, suppress
from budwood.tasks.object_detection import ObjectDetection

PLAIN = ((1 / 255,) * 3, (0.0,) * 3)


def thing(label, *box, **more):
    return {"label": label, "box": [float(v) for v in box], **more}


def test_overlap_of_known_pairs():
    first = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]], float)
    np.testing.assert_allclose(iou(first, second), [[1, 1 / 3, 0], [0, 0, 0]])


def test_suppression_keeps_the_best_of_each_label():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [50, 50, 60, 60]], float)
    kept = suppress(boxes, np.array([0.8, 0.9, 0.7, 0.1]), np.array([0, 0, 1, 0]), 0.5)
    assert kept.tolist() == [1, 2, 3]


def test_a_hundred_objects_beside_each_other_are_all_found():
    random, sides = np.random.default_rng(0), np.array([0, 0, 24, 24])
    true = np.array([[32 * x, 32 * y] * 2 for x in range(10) for y in range(10)], float) + sides
    boxes = np.repeat(true, 14, axis=0)  # as many places as a detector of our own gives an object
    sure = np.repeat(random.uniform(-1, 2, len(true)), 14)
    logits = np.concatenate([sure + random.normal(0, 0.1, len(sure)), np.full(1000, -7.0)])
    boxes = np.concatenate([boxes, np.tile([0.0, 0.0, 9.0, 9.0], (1000, 1))])
    laid = np.array([[1, 1, 0, 0, 320, 320]], float)
    found = candidates({"logits": logits[None, :, None], "boxes": boxes[None]}, laid)
    assert len(objects_of(found["found"][0], ["a"])) == 100
    np.testing.assert_allclose(found["logits"][0, :64], np.sort(logits)[::-1][:64], rtol=1e-6)


def test_the_highest_values_are_those_of_a_stable_sort():
    values = np.random.default_rng(0).integers(0, 50, 5000).astype(np.float32)
    for count in (1, 100, 4999, 9000):
        assert highest(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


def test_a_match_needs_label_and_overlap_and_each_object_is_found_once():
    truth = [thing("a", 0, 0, 10, 10), thing("b", 20, 20, 30, 30), thing("a", 50, 50, 90, 90, crowd=True)]
    found = [
        thing("a", 0, 0, 10, 9, score=0.6),
        thing("a", 0, 0, 10, 10, score=0.9),
        thing("a", 20, 20, 30, 30, score=0.5),
        thing("a", 60, 60, 70, 70, score=0.4),
    ]
    result = match(found, truth)
    assert result.right.tolist() == [False, True, False, False]
    assert result.counts.tolist() == [True, True, True, False], "what lies on a crowd is not counted"
    assert result.f1 == pytest.approx(2 * 1 / (3 + 2))
    assert match([], []).f1 == 1.0
    assert match([], truth).f1 == 0.0


def test_average_precision_of_a_perfect_and_a_blind_model():
    pytest.importorskip("pycocotools")
    from budwood.engine.box_metrics import average_precision

    truth = [objects for _, objects in scenes.scenes(12)]
    sure = [[{**item, "score": 0.9} for item in objects] for objects in truth]
    perfect = average_precision(("dark", "light"), sure, truth, intervals=True)
    assert (perfect.ap, perfect.ap50) == pytest.approx((1.0, 1.0))
    assert not perfect.intervals, "resamples that all agree bound nothing"
    assert sum(perfect.counts.values()) == sum(map(len, truth))
    blind = average_precision(("dark", "light"), [[] for _ in truth], truth, intervals=True)
    assert (blind.ap, blind.ap50, blind.intervals) == (0.0, 0.0, {})
    half = [objects if number % 2 else [] for number, objects in enumerate(sure)]
    spans = average_precision(("dark", "light"), half, truth, intervals=True).intervals
    assert set(spans) == {"ap50", "ap50 dark", "ap50 light"}
    assert not average_precision(("dark", "light"), half[:9], truth[:9], intervals=True).intervals, "too few images"


def test_average_precision_is_unknown_without_objects_and_zero_for_labels_that_were_not_learnt():
    pytest.importorskip("pycocotools")
    from budwood.engine.box_metrics import average_precision

    nothing = average_precision(("a",), [[thing("a", 0, 0, 9, 9, score=0.9)]], [[]])
    assert np.isnan([nothing.ap, nothing.ap50]).all()
    assert np.isnan(average_precision(("a",), [[]], [[thing("a", 0, 0, 9, 9, crowd=True)]]).ap)
    truth = [[thing("a", 0, 0, 9, 9), thing("b", 20, 0, 29, 9)]] * 3
    half = average_precision(("a",), [[{**truth[0][0], "score": 0.9}]] * 3, truth)
    assert (half.ap50, half.by_label) == (pytest.approx(0.5), {"a": pytest.approx(1.0), "b": 0.0})
    task = ObjectDetection(("a",))
    found = [{"objects": [{**truth[0][0], "score": 0.9}]}]
    assert task.metrics(found, [{"label": truth[0]}])["ap50 b"] == 0.0
    assert task.metrics(found, [{"label": []}]) == {"precision": 0.0}


def test_intervals_hold_the_value_and_half_the_boxes_give_half_the_precision():
    pytest.importorskip("pycocotools")
    from budwood.engine.box_metrics import average_precision

    truth = [[thing("a", 10 * n, 0, 10 * n + 8, 8) for n in range(4)] for _ in range(40)]
    found = [[{**item, "score": 0.9} for item in objects[: 4 if n % 2 else 0]] for n, objects in enumerate(truth)]
    measured = average_precision(("a",), found, truth, intervals=True)
    assert measured.ap50 == pytest.approx(0.5, abs=0.02)
    low, high = measured.intervals["ap50"]
    assert 0.3 < low < measured.ap50 < high < 0.7
    aside = np.array([2, 0, 2, 0])
    shifted = [[{**item, "box": (np.array(item["box"]) + aside).tolist()} for item in each] for each in found]
    coarse = average_precision(("a",), shifted, truth)
    assert coarse.ap50 == pytest.approx(0.5, abs=0.02)
    assert coarse.ap < 0.3, "boxes that are off by a quarter fail the stricter overlaps"


def test_the_threshold_with_the_best_f1_parts_right_from_wrong():
    from budwood.engine.box_metrics import best_threshold

    truth = [[thing("a", 0, 0, 10, 10)]] * 5
    found = [[thing("a", 0, 0, 10, 10, score=0.7), thing("a", 40, 40, 50, 50, score=0.3)]] * 5
    assert 0.3 < best_threshold(found, truth) <= 0.7
    assert best_threshold([[]], truth[:1]) == 0.5


@given(width=st.integers(8, 400), height=st.integers(8, 400), letterbox=st.booleans())
def test_boxes_come_back_as_they_went_into_the_square(width, height, letterbox):
    frame = Frame(64, letterbox, *PLAIN)
    laid = frame.place(width, height)
    box = np.array([[0.1 * width, 0.2 * height, 0.8 * width, 0.9 * height]])
    inside = box * np.array([laid.scale_x, laid.scale_y] * 2)
    inside += np.array([laid.left, laid.top] * 2)
    assert (inside >= 0).all()
    assert (inside <= 64 + 1e-9).all()
    np.testing.assert_allclose(as_shown(inside, np.asarray(laid)), box, atol=1e-6)


def test_an_image_keeps_its_proportions_and_lies_in_the_middle(tmp_path):
    image, _ = scenes.scene(0)
    image.save(tmp_path / "a.png")
    frame = Frame(48, True, *PLAIN)
    squares, laid = FrameDecoder(frame)([tmp_path / "a.png", str(tmp_path / "a.png")])
    assert squares.shape == (2, 3, 48, 48)
    assert laid[0].tolist() == [0.5, 0.5, 0.0, 6.0, scenes.WIDTH, scenes.HEIGHT]
    np.testing.assert_allclose(squares[0][:, :6], 114 / 255, atol=1e-6)
    np.testing.assert_array_equal(squares[0], squares[1])
    expected = np.asarray(image.resize((48, 36), 2), np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(squares[0][:, 6:42], expected, atol=1e-6)


@pytest.mark.parametrize("content", ["", "[]", '{"frame": {}}', '{"frame": {"size": 1e9}}'])
def test_a_damaged_description_is_refused(tmp_path, content):
    (tmp_path / "detector.json").write_text(content)
    with pytest.raises(BundleError, match=r"detector\.json"):
        Frame.read(tmp_path)


def test_images_are_split_by_their_rarest_label_and_groups_stay_together():
    both = [thing("a", 0, 0, 9, 9), thing("b", 0, 0, 5, 5)]
    rows = [{"image": f"{n}.jpg", "sha256": f"{n:04}", "label": both[: 1 + (n < 20)]} for n in range(100)]
    made = box_splits(Dataset(tuple(rows)), test=None, seed=0)
    assert len(made.train) + len(made.validation) + len(made.test) == 100
    for part in (made.validation, made.test):
        assert 1 <= sum(len(row["label"]) == 2 for row in part) <= 6
        assert all(row in rows for row in part)
    grouped = box_splits(Dataset(tuple({**row, "group": str(i % 10)} for i, row in enumerate(rows))), test=None, seed=0)
    groups = [{row["group"] for row in part} for part in (grouped.train, grouped.validation, grouped.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 10


def test_one_label_and_no_objects_are_enough_to_split():
    rows = [{"image": f"{n}.jpg", "sha256": f"{n:04}", "label": [thing("a", 0, 0, 9, 9)] * (n % 2)} for n in range(20)]
    made = box_splits(Dataset(tuple(rows)), test=None, seed=0)
    assert all(len(part) for part in (made.train, made.validation, made.test))


@pytest.mark.parametrize("seed", range(6))
def test_each_part_gets_images_with_the_one_label_and_without(seed):
    rows = [{"image": f"{n}.jpg", "sha256": f"{n:04}", "label": [thing("a", 0, 0, 9, 9)] * (n < 6)} for n in range(40)]
    made = box_splits(Dataset(tuple(rows)), test=None, seed=seed)
    for part in (made.train, made.validation, made.test):
        assert {bool(row["label"]) for row in part} == {True, False}


def test_a_label_of_the_test_images_alone_stops_nothing():
    rows = [{"image": f"{n}.jpg", "sha256": f"{n:04}", "label": [thing("a", 0, 0, 9, 9)]} for n in range(20)]
    other = {"image": "b.jpg", "sha256": "b", "label": [thing("b", 0, 0, 9, 9)]}
    made = box_splits(Dataset(tuple(rows[:-1])), test=Dataset((rows[-1], other)), seed=0)
    assert len(made.test) == 2


@pytest.mark.parametrize(("side", "size"), [(60, 320), (4, 416), (1, 640)])
def test_small_objects_ask_for_a_larger_input(tmp_path, side, size):
    scenes.scene(0)[0].resize((100, 80)).save(tmp_path / "a.png")
    row = {"image": str(tmp_path / "a.png"), "label": [thing("a", 0, 0, side, side)]}
    assert fitting_size([row], (320, 416, 512, 640)) == size
