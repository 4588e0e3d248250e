"""The loss of a detector: which places find which box, crowds that count for nothing, and a loss that can be learnt."""

import pytest

torch = pytest.importorskip("torch")

from budwood.engine.detector_loss import Targets, assign, detection_loss, pairwise_iou  # noqa: E402
from budwood.engine.detector_network import places  # noqa: E402

SIZE = 96


def targets(*boxes: tuple[float, ...], crowds: tuple[tuple[float, ...], ...] = ()) -> Targets:
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(crowds, dtype=torch.float32).reshape(-1, 4),
    )


def test_places_are_the_middles_of_the_cells_of_all_levels() -> None:
    centres, strides = places(SIZE)
    assert len(centres) == 12**2 + 6**2 + 3**2
    assert centres[0].tolist() == [4.0, 4.0]
    assert centres[12**2].tolist() == [8.0, 8.0]
    assert centres[-1].tolist() == [80.0, 80.0]
    assert strides.unique().tolist() == [8.0, 16.0, 32.0]


def test_every_box_gets_places_inside_of_it_and_none_is_given_twice() -> None:
    centres, strides = places(SIZE)
    boxes = targets((4, 4, 44, 44), (50, 50, 92, 90), (60, 2, 64, 6), (0, 0, 96, 96)).boxes
    owner = assign(centres, strides, boxes)
    assert set(owner.tolist()) == {-1, 0, 1, 2, 3}
    for number in (0, 1, 3):
        for x, y in centres[owner == number].tolist():
            x1, y1, x2, y2 = boxes[number].tolist()
            assert x1 < x < x2
            assert y1 < y < y2
    assert int((owner == 2).sum()) == 1, "a box between all places gets the nearest"
    assert (assign(centres, strides, boxes[:0]) == -1).all()


def test_perfect_answers_cost_less_than_wrong_ones() -> None:
    centres, strides = places(SIZE)
    target = targets((8, 8, 48, 48))
    owner = assign(centres, strides, target.boxes)
    logits = torch.full((1, len(centres), 2), -8.0)
    logits[0, owner == 0, 0] = 8.0
    right = {"logits": logits, "boxes": target.boxes.expand(1, len(centres), 4)}
    wrong = {**right, "boxes": right["boxes"] + 20}
    other = {**right, "logits": logits.flip(2)}
    best, shifted, mislabelled = (
        float(detection_loss(item, [target], centres, strides)) for item in (right, wrong, other)
    )
    assert best < 0.05
    assert shifted > 0.5
    assert mislabelled > 0.5


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong() -> None:
    centres, strides = places(SIZE)
    logits = torch.full((1, len(centres), 1), -8.0)
    inside = (centres > 40).all(dim=1) & (centres < 90).all(dim=1)
    logits[0, inside] = 4.0
    outputs = {"logits": logits, "boxes": torch.zeros(1, len(centres), 4)}
    plain = float(detection_loss(outputs, [targets()], centres, strides))
    crowded = float(detection_loss(outputs, [targets(crowds=((40, 40, 90, 90),))], centres, strides))
    assert plain > 1.0
    assert crowded < 0.01


def test_the_loss_of_images_without_objects_is_finite_and_has_a_gradient() -> None:
    centres, strides = places(SIZE)
    outputs = {name: torch.zeros(2, len(centres), n, requires_grad=True) for name, n in (("logits", 2), ("boxes", 4))}
    loss = detection_loss(outputs, [targets(), targets()], centres, strides)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs["logits"].grad).all()


def test_pairwise_overlap_agrees_with_numpy() -> None:
    from budwood.engine.boxes import iou

    random = torch.Generator().manual_seed(0)
    low = torch.rand(2, 7, 2, generator=random) * 50
    boxes = torch.cat([low, low + torch.rand(2, 7, 2, generator=random) * 40], dim=2)
    expected = torch.from_numpy(iou(boxes[0].numpy(), boxes[1].numpy()))
    torch.testing.assert_close(pairwise_iou(boxes[0], boxes[1]), expected)
