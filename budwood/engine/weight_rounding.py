"""Matrices as whole numbers of 8 or 4 bits with scales: numpy, and scipy where inputs are known.

Plain rounding, or rounding in order, where each input's error is made good by the inputs that are still to come
(GPTQ: Frantar et al. 2023, arXiv:2210.17323). The latter needs to know how the inputs vary together.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import StepError

__all__ = ["Blocks", "in_blocks", "rounded"]

DAMPING = 0.01
"""Share of the mean square input that is added to each: few calibration rows leave some inputs almost constant."""
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of a block's range that are tried for its scale: cutting an outlier off can cost less than coarse steps."""

Floats = NDArray[np.floating[Any]]


class Blocks(NamedTuple):
    """A matrix as whole numbers with a scale for each block of inputs, in the layout of `MatMulNBits`."""

    numbers: NDArray[np.uint8]
    """(outputs, blocks, block * bits / 8)."""
    scales: NDArray[np.float32]
    """(outputs, blocks)."""
    zeros: NDArray[np.uint8]
    """(outputs, blocks * bits / 8, rounded up): the number that stands for 0."""


def rounded(matrix: Floats, largest: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers between -`largest` and `largest`, and a scale for each column of (inputs, outputs)."""
    scales = np.abs(matrix).max(axis=0) / largest
    scales[scales == 0] = 1
    return np.round(matrix / scales).astype(np.int8), scales.astype(np.float32)


def in_blocks(matrix: Floats, block: int, bits: int, moments: Floats | None = None) -> Blocks:
    """The rows of a matrix (outputs, inputs) in blocks of inputs.

    Args:
        moments: sums of products of inputs, (inputs, inputs); None rounds each weight by itself.

    Raises:
        StepError: the moments are no sums of products, as where an input is no number.
    """
    outputs, width = matrix.shape
    count = -(-width // block)
    numbers = np.zeros((outputs, count * block), np.uint8)
    scales, zeros = np.ones((2, outputs, count), np.float32)
    rest: Floats = np.array(matrix, np.float32)
    spread = None if moments is None else square_root(np.asarray(moments, np.float64))
    for at in range(count):
        begin, end = at * block, min((at + 1) * block, width)
        part = rest[:, begin:end]
        scale, zero = scales[:, at], zeros[:, at] = grid(part, 2**bits - 1)
        if spread is None:
            numbers[:, begin:end] = nearest(part, scale[:, None], zero[:, None], 2**bits - 1)
            continue
        own = spread[begin:end]
        numbers[:, begin:end], errors = in_order(part, own[:, begin:end], scale, zero, 2**bits - 1)
        rest[:, end:] -= errors @ own[:, end:]
    parts = numbers.reshape(outputs, count, block)
    return Blocks(pairs(parts, bits), scales, pairs(zeros.astype(np.uint8), bits))


def square_root(moments: Floats) -> Floats:
    """The upper factor U of the inverse, U'U, whose rows say how an error of one input spreads over the later ones."""
    from scipy.linalg import lapack

    own = moments.copy()
    diagonal = np.diag_indices(len(own))
    unused = own[diagonal] == 0
    own[diagonal] += DAMPING * own[diagonal].mean() + np.where(unused, 1.0, 0.0)
    # With the inputs in reverse order one Cholesky factor and its inverse are enough.
    lower, failed = lapack.dpotrf(own[::-1, ::-1], lower=1, clean=1)
    inverse, singular = lapack.dtrtri(lower, lower=1)
    if failed or singular or not np.isfinite(inverse).all():
        raise StepError(
            "the inputs that the calibration texts give a layer have no finite inverse",
            where="the calibration of 4-bit weights",
            fix="calibrate = false in the recipe's shrink.quantize_weights",
        )
    return np.ascontiguousarray(inverse[::-1, ::-1], np.float32)


def in_order(part: Floats, spread: Floats, scale: Floats, zero: Floats, top: int) -> tuple[NDArray[np.uint8], Floats]:
    """One block's numbers, input by input, and the errors that the inputs after the block have to make good."""
    rest, numbers, errors = part.copy(), np.zeros(part.shape, np.uint8), np.zeros(part.shape, np.float32)
    for at in range(part.shape[1]):
        numbers[:, at] = nearest(rest[:, at], scale, zero, top)
        errors[:, at] = (rest[:, at] - (numbers[:, at] - zero) * scale) / spread[at, at]
        rest[:, at:] -= np.outer(errors[:, at], spread[at, at:])
    return numbers, errors


def grid(part: Floats, top: int) -> tuple[Floats, Floats]:
    """The scale and the zero of each row of a block with the least squared error; 0 stays 0."""
    low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
    best = np.full(len(part), np.inf)
    scales, zeros = np.ones((2, len(part)), np.float32)
    for clip in CLIPS if top < 255 else CLIPS[:1]:  # the steps of 8 bits are fine enough
        scale = clip * (high - low) / top
        scale[scale == 0] = 1
        zero = np.round(-clip * low / scale)
        numbers = nearest(part, scale[:, None], zero[:, None], top)
        error = (((numbers - zero[:, None]) * scale[:, None] - part) ** 2).sum(axis=1)
        better = error < best
        best[better], scales[better], zeros[better] = error[better], scale[better], zero[better]
    return scales, zeros


def nearest(values: Floats, scale: Floats, zero: Floats, top: int) -> NDArray[np.uint8]:
    return np.clip(np.round(values / scale) + zero, 0, top).astype(np.uint8)


def pairs(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Two numbers of 4 bits in each byte of the last axis, the first in the lower half; those of 8 bits as they are."""
    if bits == 8:
        return numbers
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
    return np.asarray(numbers[..., 0::2] | (numbers[..., 1::2] << 4), np.uint8)
