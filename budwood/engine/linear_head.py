"""Logistic regression on frozen embeddings: the baseline of every text task, fitted in seconds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import require

__all__ = ["Linear", "choose_penalty", "fit", "install", "out_of_fold"]

Linear = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weight (labels, width) and bias (labels,)."""

SMALL = 2000
"""Rows up to which one thread fits fastest, and five folds cost little."""


def fit(embeddings: NDArray[Any], targets: NDArray[Any], n_labels: int, penalty: float) -> Linear:
    """Weights of a softmax classifier for class numbers (rows,), of sigmoids for 0/1 rows (rows, labels).

    Classes without a row keep a zero weight and a low bias. The penalty means the same at any scale of the embeddings:
    they are brought to a mean square length of 1 first, which those of sentence encoders have.
    """
    scale = length(embeddings)
    weight, bias = fit_scaled(embeddings / scale, targets, n_labels, penalty)
    return weight / scale, bias


def length(embeddings: NDArray[Any]) -> np.float32:
    """Root mean square length of the rows; exactly 1 where it is nearly so, or where all are zero."""
    found = float(np.sqrt(np.mean(np.sum(np.square(embeddings, dtype=np.float64), axis=1))))
    return np.float32(1.0 if abs(found - 1.0) < 1e-3 or found == 0.0 else found)


def fit_scaled(embeddings: NDArray[Any], targets: NDArray[Any], n_labels: int, penalty: float) -> Linear:
    if targets.ndim == 2:
        return fit_sigmoids(embeddings, targets, penalty)
    weight = np.zeros((n_labels, embeddings.shape[1]), np.float32)
    bias = np.full(n_labels, -10.0, np.float32)
    classes = np.unique(targets)
    if len(classes) == 1:
        bias[classes[0]] = 0.0
        return weight, bias
    model = regression(embeddings, targets, penalty)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(classes) == 2:  # scikit-learn gives one row for two classes: the log odds of the second
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight[classes], bias[classes] = coefficients, intercepts
    return weight, bias


def fit_sigmoids(embeddings: NDArray[Any], targets: NDArray[Any], penalty: float) -> Linear:
    weight = np.zeros((targets.shape[1], embeddings.shape[1]), np.float32)
    bias = np.zeros(targets.shape[1], np.float32)
    for label in range(targets.shape[1]):
        column = targets[:, label]
        if column.min() == column.max():
            bias[label] = 10.0 if column[0] else -10.0
            continue
        model = regression(embeddings, column.astype(int), penalty)
        weight[label], bias[label] = model.coef_[0], model.intercept_[0]
    return weight, bias


def regression(embeddings: NDArray[Any], targets: NDArray[Any], penalty: float) -> Any:
    linear_model = require("sklearn.linear_model", extra="train")
    model = linear_model.LogisticRegression(C=penalty, max_iter=1000, tol=1e-3)
    # Threads only get in each other's way on a matrix that fits the cache.
    limit = 1 if len(targets) <= SMALL else None
    with require("threadpoolctl", extra="train").threadpool_limits(limits=limit, user_api="blas"):
        return model.fit(embeddings, targets)


def choose_penalty(
    embeddings: NDArray[Any], targets: NDArray[Any], n_labels: int, seed: int, penalties: Sequence[float]
) -> float:
    """One of the inverse penalties (scikit-learn's C, the strongest penalty first), by cross-validation.

    5 folds, or 2 above 2,000 rows. Single label: the strongest penalty whose accuracy is within half a standard error
    of the best, since a few rows cannot tell more. Multi-label: the best likelihood. One row alone gets the strongest.
    """
    if len(targets) < 2:
        return penalties[0]
    folds = min(5 if len(targets) <= SMALL else 2, len(targets))
    logits = [out_of_fold(embeddings, targets, n_labels, penalty, seed, folds) for penalty in penalties]
    if targets.ndim == 2:
        return penalties[int(np.argmin([loss(values, targets) for values in logits]))]
    accuracy = np.asarray([(values.argmax(axis=1) == targets).mean() for values in logits])
    best = float(accuracy.max())
    slack = 0.5 * (best * (1 - best) / len(targets)) ** 0.5
    return penalties[int(np.argmax(accuracy >= best - slack))]


def out_of_fold(
    embeddings: NDArray[Any], targets: NDArray[Any], n_labels: int, penalty: float, seed: int, folds: int
) -> NDArray[np.float64]:
    """Logits of each row from a head that has not seen it, shape (rows, labels)."""
    result = np.zeros((len(targets), n_labels))
    for held in fold_numbers(targets, folds, seed):
        rest = np.setdiff1d(np.arange(len(targets)), held)
        weight, bias = fit(embeddings[rest], targets[rest], n_labels, penalty)
        result[held] = embeddings[held] @ weight.T + bias
    return result


def fold_numbers(targets: NDArray[Any], folds: int, seed: int) -> Sequence[NDArray[Any]]:
    """Stratified folds: each class is dealt out in turn (multi-label rows are dealt at random)."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(targets))
    if targets.ndim == 1:
        order = order[np.argsort(targets[order], kind="stable")]
    return [order[fold::folds] for fold in range(folds)]


def install(model: Any, linear: Linear) -> None:
    """Put fitted weights into the `head` of a torch module."""
    import torch

    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(linear[0]))
        model.head.bias.copy_(torch.from_numpy(linear[1]))


def loss(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean negative log likelihood."""
    if targets.ndim == 2:
        return float(np.mean(np.logaddexp(0, logits) - targets * logits))
    top = logits.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float(np.mean(normaliser - logits[np.arange(len(targets)), targets]))
