"""Weights as whole numbers: what they stand for is near what they were, and nearer where the inputs are known."""

import numpy as np
import pytest

from budwood.core.errors import StepError
from budwood.engine.weight_rounding import Blocks, in_blocks, rounded


def restored(blocks: Blocks, bits: int, width: int) -> np.ndarray:
    """The matrix that a kernel computes with, (outputs, inputs)."""
    numbers, zeros = blocks.numbers, blocks.zeros
    if bits == 4:
        numbers, zeros = (
            np.stack([item & 15, item >> 4], axis=-1).reshape(*item.shape[:-1], -1) for item in blocks[::2]
        )
    zeros = zeros[:, : blocks.scales.shape[1]]
    whole = (numbers.astype(float) - zeros[..., None]) * blocks.scales[..., None]
    return whole.reshape(len(whole), -1)[:, :width]


@pytest.mark.parametrize(("bits", "width"), [(4, 64), (8, 64), (4, 40), (8, 88)])
def test_each_weight_is_within_a_step_of_what_it_was(bits, width):
    matrix = np.random.default_rng(0).normal(size=(7, width)).astype(np.float32)
    blocks = in_blocks(matrix, 16, bits)
    step = np.repeat(blocks.scales, 16, axis=1)[:, :width]
    error = np.abs(restored(blocks, bits, width) - matrix)
    assert np.median(error / step) <= 0.5
    assert np.sqrt(np.mean(error**2)) < {4: 0.1, 8: 0.006}[bits]


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zeros_and_constant_rows_are_kept(bits):
    matrix = np.zeros((3, 32), np.float32)
    matrix[1] = 0.7
    matrix[2, :16] = -0.2
    np.testing.assert_allclose(restored(in_blocks(matrix, 16, bits), bits, 32), matrix, atol=1e-6)


def test_known_inputs_make_the_outputs_nearer():
    random = np.random.default_rng(1)
    inputs = random.normal(size=(500, 8)) @ random.normal(size=(8, 64)) + 0.1 * random.normal(size=(500, 64))
    matrix = random.normal(size=(20, 64)).astype(np.float32)
    errors = {}
    for name, moments in (("plain", None), ("known", inputs.T @ inputs)):
        change = restored(in_blocks(matrix, 16, 4, moments), 4, 64) - matrix
        errors[name] = float(np.mean((inputs @ change.T) ** 2))
    assert errors["known"] < 0.3 * errors["plain"]


def test_an_input_that_never_varies_is_no_obstacle():
    matrix = np.random.default_rng(2).normal(size=(4, 32)).astype(np.float32)
    moments = np.eye(32)
    moments[5, 5] = 0
    assert np.isfinite(restored(in_blocks(matrix, 16, 4, moments), 4, 32)).all()


def indefinite() -> np.ndarray:
    moments = np.eye(32)
    moments[3, 4] = moments[4, 3] = 5.0
    return moments


@pytest.mark.parametrize("moments", [indefinite(), np.full((32, 32), np.nan)], ids=["indefinite", "no numbers"])
def test_moments_that_no_inputs_can_have_are_refused(moments):
    with pytest.raises(StepError) as caught:
        in_blocks(np.ones((4, 32), np.float32), 16, 4, moments)
    assert "calibrate = false" in caught.value.fix


def test_whole_columns_keep_their_sign_and_their_zeros():
    matrix = np.array([[1.0, 0.0, -2.0], [-0.5, 0.0, 1.0]], np.float32)
    numbers, scales = rounded(matrix, 127)
    assert numbers.min() == -127
    np.testing.assert_allclose(numbers * scales, matrix, atol=0.01)
