"""How the linear head of each kind of target is fitted on frozen embeddings, and judged on rows it has not seen.

`fitter(kind)` gives the way for a task's `head`: classes by logistic regression, numbers by ridge regression, events
by logistic regression on 0 and 1, hazards by logistic regression whose weights all periods share.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import require
from budwood.core.task import Row
from budwood.engine import linear_head
from budwood.engine.linear_head import Linear
from budwood.engine.splits import identity, keep_together

__all__ = ["Fitter", "fitter"]

FOLDS = 10
FEW_FOLDS = 5
MANY = 2000
"""Rows above which five folds tell enough."""


class Fitter(ABC):
    """A way to fit a head. Embeddings are (rows, width), targets as the task gives them."""

    honest = True
    """Whether predictions of rows left out of a fit are worth calibrating with, beside the validation rows."""

    @abstractmethod
    def fit(self, embeddings: NDArray[Any], targets: NDArray[Any], n_outputs: int, penalty: float) -> Linear:
        """Weight (outputs, width) and bias (outputs,); `penalty` is the inverse strength, as scikit-learn's C."""

    @abstractmethod
    def loss(self, logits: NDArray[Any], targets: NDArray[Any]) -> float:
        """What penalties are compared by on rows left out; less is better."""

    def choose(
        self,
        embeddings: NDArray[Any],
        targets: NDArray[Any],
        n_outputs: int,
        rows: Sequence[Row],
        seed: int,
        penalties: Sequence[float],
    ) -> float:
        """The penalty with the least loss on rows left out; rows of one image or one group are left out together."""
        if len(rows) < 2:
            return penalties[0]
        losses = [self.loss(self.left_out(embeddings, targets, rows, penalty, seed), targets) for penalty in penalties]
        return penalties[int(np.argmin(losses))]

    def left_out(
        self, embeddings: NDArray[Any], targets: NDArray[Any], rows: Sequence[Row], penalty: float, seed: int
    ) -> NDArray[np.float64]:
        """Outputs for each row from a head that has not seen it or its group, shape (rows, outputs)."""
        result = np.zeros((len(targets), targets.shape[1]))
        for held in folds_of(rows, seed):
            rest = np.setdiff1d(np.arange(len(targets)), held)
            weight, bias = self.fit(embeddings[rest], targets[rest], targets.shape[1], penalty)
            result[held] = embeddings[held] @ weight.T + bias
        return result


def folds_of(rows: Sequence[Row], seed: int) -> list[NDArray[np.int64]]:
    """Row numbers of each fold. Where all rows belong together, they are left out by content, else one by one.

    Rows of a single group tell nothing of other groups, but fits without a tenth of them tell penalties apart.
    """
    units = np.unique([item.unit for item in keep_together(rows)], return_inverse=True)[1]
    if units.max() == 0:
        units = np.unique([identity(row) for row in rows], return_inverse=True)[1]
    if units.max() == 0:
        units = np.arange(len(rows))
    n_units = int(units.max()) + 1
    count = min(FOLDS if len(rows) <= MANY else FEW_FOLDS, n_units)
    place = np.random.default_rng(seed).permutation(n_units) % count
    return [np.flatnonzero(place[units] == fold) for fold in range(count)]


@final
class Classes(Fitter):
    """Softmax over class numbers, or independent sigmoids: the heads of classifiers, calibrated on validation rows."""

    honest = False

    def fit(self, embeddings: NDArray[Any], targets: NDArray[Any], n_outputs: int, penalty: float) -> Linear:
        return linear_head.fit(embeddings, targets, n_outputs, penalty)

    def loss(self, logits: NDArray[Any], targets: NDArray[Any]) -> float:
        return linear_head.loss(logits, targets)

    def choose(
        self,
        embeddings: NDArray[Any],
        targets: NDArray[Any],
        n_outputs: int,
        rows: Sequence[Row],
        seed: int,
        penalties: Sequence[float],
    ) -> float:
        return linear_head.choose_penalty(embeddings, targets, n_outputs, seed, penalties)


@final
class Events(Fitter):
    """Logistic regression on 0 and 1."""

    def fit(self, embeddings: NDArray[Any], targets: NDArray[Any], n_outputs: int, penalty: float) -> Linear:
        return linear_head.fit(embeddings, targets, n_outputs, penalty)

    def loss(self, logits: NDArray[Any], targets: NDArray[Any]) -> float:
        return linear_head.loss(logits, targets)


@final
class Numbers(Fitter):
    """Ridge regression (Hoerl and Kennard 1970), in the smaller of its two forms; the mean is not penalised."""

    def fit(self, embeddings: NDArray[Any], targets: NDArray[Any], n_outputs: int, penalty: float) -> Linear:
        scale = linear_head.length(embeddings)
        values = np.asarray(embeddings / scale, np.float64)
        centre, mean = values.mean(axis=0), targets.mean(axis=0, dtype=np.float64)
        values -= centre
        wanted = targets - mean
        rows, width = values.shape
        if rows < width:
            weight = values.T @ np.linalg.solve(values @ values.T + np.eye(rows) / penalty, wanted)
        else:
            weight = np.linalg.solve(values.T @ values + np.eye(width) / penalty, values.T @ wanted)
        bias = mean - centre @ weight
        return (weight.T / scale).astype(np.float32), bias.astype(np.float32)

    def loss(self, logits: NDArray[Any], targets: NDArray[Any]) -> float:
        return float(np.mean((logits - targets) ** 2))


@final
class Hazards(Fitter):
    """Logistic regression on all periods at once: one weight vector, and a bias for each period.

    Periods have few events each, so weights of their own would only follow noise.
    """

    def fit(self, embeddings: NDArray[Any], targets: NDArray[Any], n_outputs: int, penalty: float) -> Linear:
        optimize = require("scipy.optimize", extra="train")
        scale = linear_head.length(embeddings)
        values, known = np.asarray(embeddings / scale, np.float64), np.isfinite(targets)
        truth = np.nan_to_num(targets).astype(np.float64)
        # A hundredth of an imagined row keeps the bias of a period without events finite.
        rate = (truth.sum(axis=0) + 0.01) / (known.sum(axis=0) + 0.02)
        start = np.concatenate([np.zeros(values.shape[1]), np.log(rate / (1 - rate))])

        def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = point[: values.shape[1]], point[values.shape[1] :]
            logits = (values @ weight)[:, None] + bias
            each = np.where(known, np.logaddexp(0, logits) - truth * logits, 0)
            slope = np.where(known, 1 / (1 + np.exp(-np.clip(logits, -50, 50))) - truth, 0)
            lean = 0.01 * (bias - start[values.shape[1] :])
            value = each.sum() + weight @ weight / (2 * penalty) + 0.5 * float(lean @ lean) / 0.01
            return float(value), np.concatenate([values.T @ slope.sum(axis=1) + weight / penalty, slope.sum(0) + lean])

        found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
        weight = np.tile(found[: values.shape[1]] / scale, (n_outputs, 1))
        return weight.astype(np.float32), found[values.shape[1] :].astype(np.float32)

    def loss(self, logits: NDArray[Any], targets: NDArray[Any]) -> float:
        known = np.isfinite(targets)
        each = np.logaddexp(0, logits) - np.nan_to_num(targets) * logits
        return float(each[known].sum() / max(len(logits), 1))


FITTERS: dict[str, Fitter] = {"classes": Classes(), "events": Events(), "numbers": Numbers(), "hazards": Hazards()}


def fitter(kind: str) -> Fitter:
    """The way of a task's `head`: `classes`, `events`, `numbers` or `hazards`."""
    return FITTERS[kind]
