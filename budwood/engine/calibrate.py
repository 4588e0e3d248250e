"""Temperature scaling: makes a probability of 0.8 mean right in 8 of 10 cases, without changing a single-label answer.

Fit it on rows that training has not seen. Method: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from budwood.core.errors import DataError

__all__ = ["brier", "expected_calibration_error", "fit_temperature", "negative_log_likelihood", "probabilities"]

MIN_ROWS = 20
"""With fewer rows nothing is fitted: the temperature would be a guess."""
BOUNDS = (0.05, 20.0)
ROUNDS = 60
GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The temperature that minimises the negative log likelihood of `logits / temperature`.

    Targets are softened by one imagined row of ignorance among n (Platt 1999), so that a model without an error on a
    small set does not come out infinitely sure. The result is never worse on the rows as they are than no scaling.

    Args:
        logits: shape (rows, labels).
        targets: class numbers of shape (rows,) for softmax; 0/1 of shape (rows, labels) for independent sigmoids.

    Returns:
        A temperature from 0.05 to 20; 1.0 with fewer than 20 rows, or where scaling does not help.

    Raises:
        DataError: the shapes do not fit, a class number is out of range, or a logit is not finite.
    """
    scores, truth = checked(logits, targets)
    if len(scores) < MIN_ROWS:
        return 1.0
    share = 1 / (len(scores) + 2)
    soft = (1 - share) * truth + share * (1 / scores.shape[1] if single(targets) else 0.5)
    low, high = math.log(BOUNDS[0]), math.log(BOUNDS[1])
    # The loss is convex in 1/temperature, so it has one minimum on any monotone scale and golden section finds it.
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = (loss(scores, soft, math.exp(x), softmax=single(targets)) for x in (left, right))
    for _ in range(ROUNDS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(scores, soft, math.exp(left), softmax=single(targets))
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(scores, soft, math.exp(right), softmax=single(targets))
    temperature = math.exp((low + high) / 2)
    helps = negative_log_likelihood(scores, targets, temperature) < negative_log_likelihood(scores, targets)
    return temperature if helps else 1.0


def negative_log_likelihood(logits: ArrayLike, targets: ArrayLike, temperature: float = 1.0) -> float:
    """Mean over the rows (and the labels, for sigmoids) of -log probability of what is true; shapes as when fitting."""
    scores, truth = checked(logits, targets)
    return loss(scores, truth, temperature, softmax=single(targets))


def probabilities(logits: ArrayLike, temperature: float = 1.0, *, multi_label: bool = False) -> NDArray[np.float64]:
    """Softmax, or for `multi_label` sigmoid, of `logits / temperature`; shape (rows, labels)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if multi_label:
        return np.exp(-np.logaddexp(0.0, -scaled))
    return np.exp(log_softmax(scaled))


def expected_calibration_error(probability: ArrayLike, targets: ArrayLike, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over equal-width bins, weighted by their rows (ECE).

    For class numbers the confidence is that of the answer given; for 0/1 targets each label of each row counts.
    """
    values, truth = checked(probability, targets)
    if single(targets):
        confidence = values.max(axis=1)
        right = truth[np.arange(len(values)), values.argmax(axis=1)]
    else:
        confidence, right = values.ravel(), truth.ravel()
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, confidence - right, bins)
    return float(np.abs(gap).sum() / len(confidence))


def brier(probability: ArrayLike, targets: ArrayLike) -> float:
    """Brier score: squared distance to the truth, summed over labels (softmax) or averaged (sigmoids); 0 is best."""
    values, truth = checked(probability, targets)
    squares = (values - truth) ** 2
    return float(squares.sum(axis=1).mean() if single(targets) else squares.mean())


def loss(scores: NDArray[np.float64], truth: NDArray[np.float64], temperature: float, *, softmax: bool) -> float:
    scaled = scores / temperature
    if softmax:
        return float(-(truth * log_softmax(scaled)).sum(axis=1).mean())
    return float((np.logaddexp(0.0, scaled) - truth * scaled).mean())


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def single(targets: ArrayLike) -> bool:
    return np.ndim(targets) == 1


def checked(values: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values and the targets as 0/1 rows, both of shape (rows, labels)."""
    scores, truth = np.asarray(values, dtype=np.float64), np.asarray(targets)
    if (
        scores.ndim != 2
        or len(scores) == 0
        or len(scores) != len(truth)
        or truth.shape not in (scores.shape, (len(scores),))
    ):
        raise DataError("values and targets do not fit together", where=f"shapes {scores.shape} and {truth.shape}")
    if not np.isfinite(scores).all():
        raise DataError("a value is not finite", where=f"row {int(np.argmin(np.isfinite(scores).all(axis=1)))}")
    if truth.ndim == 2:
        return scores, truth.astype(np.float64)
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise DataError("a class number is out of range", where=f"{truth.min()} to {truth.max()}")
    return scores, np.eye(scores.shape[1])[truth.astype(np.int64)]
