"""Varied scenes: the boxes stay around what they were drawn around, whatever is done to the pixels."""

import numpy as np
import pytest

from budwood.engine.box_augment import Scene, Variation, varied

SIZE = 64


def scene(number: int) -> Scene:
    """A white rectangle in the black of a grey-barred square."""
    random = np.random.default_rng(number)
    wide, high = random.integers(14, 24, 2)
    left, top = random.integers(4, SIZE - wide - 4), random.integers(12, SIZE - high - 12)
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:8] = pixels[-8:] = 114
    pixels[top : top + high, left : left + wide] = 255
    box = np.array([[left, top, left + wide, top + high]], np.float32)
    return Scene(pixels, box, np.array([number], np.int64))


@pytest.mark.parametrize("mosaic", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_around_their_objects(seed: int, mosaic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from budwood.engine import box_augment

    monkeypatch.setattr(box_augment, "MOSAIC", 1.0)
    random = np.random.default_rng(seed)
    result = varied(scene, seed, 30, Variation(flip=True, rotate=True, mosaic=mosaic), random)
    assert result.pixels.shape == (SIZE, SIZE, 3)
    assert len(result.boxes) == len(result.labels) <= (4 if mosaic else 1)
    light = result.pixels.mean(axis=2)
    for x1, y1, x2, y2 in result.boxes:
        assert 0 <= x1 < x2 <= SIZE
        assert 0 <= y1 < y2 <= SIZE
        inner = light[int(np.ceil(y1)) + 1 : int(y2) - 1, int(np.ceil(x1)) + 1 : int(x2) - 1]
        assert inner.size == 0 or inner.mean() > 170, "bright inside"
    if not mosaic and len(result.boxes):
        x1, y1, x2, y2 = (round(float(value)) for value in result.boxes[0])
        light[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = 0
        assert light.max() < 170, "nothing bright outside"


def test_the_same_seed_gives_the_same_scene() -> None:
    how = Variation(flip=True, rotate=False, mosaic=True)
    first, second = (varied(scene, 3, 30, how, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_without_objects_there_is_nothing_to_lose() -> None:
    empty = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for seed in range(8):
        how = Variation(flip=True, rotate=True, mosaic=True)
        assert len(varied(lambda number: empty, 0, 5, how, np.random.default_rng(seed)).boxes) == 0


def test_nothing_is_mirrored_or_turned_that_may_not_be() -> None:
    slope = np.repeat(np.arange(SIZE, dtype=np.uint8)[None, :, None] * 3, SIZE, axis=0).repeat(3, axis=2)
    plain = Scene(slope, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for seed in range(20):
        how = Variation(flip=False, rotate=False, mosaic=False)
        pixels = varied(lambda number: plain, 0, 1, how, np.random.default_rng(seed)).pixels.mean(axis=2)
        middle = pixels[SIZE // 2, SIZE // 2 - 10 : SIZE // 2 + 10]
        assert (np.diff(middle) >= -1).all(), "still darker on the left"
