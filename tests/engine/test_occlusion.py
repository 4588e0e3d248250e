"""Heat maps: what is covered and matters shows, what does not stays flat, and the picture keeps its shape."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from budwood.core.task import Arrays
from budwood.engine import occlusion


def brightness_of(rows: slice, columns: slice):
    """A model whose one logit is the brightness of a part of the image; it counts its passes."""
    seen: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        pixels = inputs["pixel_values"]
        seen.append(len(pixels))
        return {"logits": pixels[:, :, rows, columns].mean(axis=(1, 2, 3))[:, None]}

    return run, seen


def logit(outputs: Arrays, reference: Arrays) -> np.ndarray:
    return outputs["logits"][:, 0].astype(np.float64)


def spot(rows: slice, columns: slice) -> np.ndarray:
    pixels = np.zeros((1, 3, 56, 56), np.float32)
    pixels[:, :, rows, columns] = 1.0
    return pixels


def test_the_map_is_hot_where_the_answer_comes_from():
    place = (slice(0, 16), slice(40, 56))
    run, seen = brightness_of(*place)
    heat = occlusion.heat_map(spot(*place), run, logit)
    assert heat.shape == (8, 8)
    assert np.unravel_index(heat.argmax(), heat.shape) == (0, 7)
    assert np.abs(heat[4:, :4]).max() == 0.0
    assert sum(seen) == 1 + occlusion.WINDOWS == 50, "one pass for each window, and one for the image as it is"


def test_what_speaks_against_the_answer_is_negative():
    place = (slice(0, 28), slice(0, 28))
    run, _ = brightness_of(*place)
    dark = 1.0 - spot(*place)
    assert occlusion.heat_map(dark, run, logit).min() < 0


def test_an_image_of_any_size_is_covered():
    run, _ = brightness_of(slice(None), slice(None))
    for size in (28, 225):
        pixels = np.random.default_rng(0).random((1, 3, size, 2 * size), np.float32)
        assert np.isfinite(occlusion.heat_map(pixels, run, logit)).all()


@pytest.mark.parametrize("shape", [(28, 28, 3), (224, 160, 3)])
def test_the_picture_is_red_where_it_is_hot(shape):
    heat = np.zeros((8, 8))
    heat[0, 0], heat[7, 7] = 2.0, -1.0
    with Image.open(BytesIO(occlusion.overlay(np.full(shape, 128, np.uint8), heat))) as image:
        assert max(image.size) >= occlusion.SHOWN_EDGE or max(image.size) == max(shape)
        assert image.width / image.height == pytest.approx(shape[1] / shape[0], abs=0.01)
        red, _, blue = image.getpixel((2, 2))
        assert red > blue + 40
        red, _, blue = image.getpixel((image.width - 3, image.height - 3))
        assert blue > red + 20


def test_a_flat_map_colours_nothing():
    with Image.open(BytesIO(occlusion.overlay(np.full((64, 64, 3), 90, np.uint8), np.zeros((8, 8))))) as image:
        assert image.getextrema() == ((90, 90), (90, 90), (90, 90))
