"""The baseline of every molecule task: a random forest or linear models on Morgan fingerprints, cross-validated.

Fitted in seconds, and hard to beat below ten thousand molecules (Deng et al. 2023). Import only inside functions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import require
from budwood.core.task import Row, Task
from budwood.engine.fingerprint_graph import EDGE, forest_graph, linear_graph
from budwood.engine.molecules import fingerprints, prepare, scaffold

__all__ = ["Candidate", "Fitted", "candidates", "fit", "fit_rows", "select"]

FOLDS = 3
TREES = 300
SELECTION_TREES = 100
FEWEST_TREES = 50
LABELS_FOR_ALL_TREES = 6_000
"""Known labels above which the trees become fewer, because each becomes larger; the graph stays near 50 MB."""
MEMBERS = 8
"""Bootstrap fits of a linear model: enough for a mean and a spread."""
SELECTION_ROWS = 4_000
SELECTION_PROPERTIES = 3
"""What a choice is made on where there is more; forests that differ show it on less."""


@dataclass(frozen=True)
class Candidate:
    """A way to model a property: forest or linear, on counts or on bits."""

    kind: str
    counts: bool
    penalty: float = 0.0
    """For linear models: C of the logistic regression, alpha of the ridge regression."""

    def __str__(self) -> str:
        strength = f" with penalty {self.penalty:g}" if self.kind == "linear" else ""
        return f"{self.kind}{strength} on Morgan {'counts' if self.counts else 'bits'}"


@dataclass(frozen=True)
class Fitted:
    """A model as a graph, and what was learnt about it on held-out molecules."""

    graph: bytes
    chosen: Candidate
    held_out: NDArray[np.float64]
    """Out-of-fold predictions (rows, properties): probabilities or values; NaN where a row was not held out."""
    report: dict[str, Any]


def fit_rows(task: Task, rows: Sequence[Row], *, seed: int) -> tuple[Fitted, dict[str, float]]:
    """The model of labelled rows, and its calibration from molecules whose scaffolds it had not seen."""
    found = [prepare(row["smiles"]).molecule for row in rows]
    groups = [row.get("scaffold", "") or scaffold(molecule) for row, molecule in zip(rows, found, strict=True)]
    targets = task.targets(rows)
    classification = task.to_json()["kind"] == "classification"
    fitted = fit(fingerprints(found), targets, groups, classification=classification, seed=seed)
    held = fitted.held_out
    if classification:
        inside = np.clip(held, EDGE, 1 - EDGE)
        held = np.log(inside / (1 - inside))
    return fitted, task.calibrate(held, targets)


def candidates(classification: bool) -> tuple[Candidate, ...]:
    penalties = (0.03, 0.3) if classification else (3.0, 30.0)
    linear = [Candidate("linear", counts, penalty) for counts in (False, True) for penalty in penalties]
    return (Candidate("forest", False), Candidate("forest", True), *linear)


def fit(
    counts: NDArray[np.uint8], targets: NDArray[np.float32], groups: Sequence[str], *, classification: bool, seed: int
) -> Fitted:
    """Choose on folds that hold out whole groups (scaffolds), then fit on all rows.

    Args:
        counts: fingerprints, shape (rows, 2048).
        targets: 0/1 or values, shape (rows, properties); NaN where unknown.
        groups: rows of one group are held out together.
    """
    features = counts.astype(np.float32)
    chosen, errors = select(features, targets, groups, classification=classification, seed=seed)
    held_out = out_of_fold(chosen, features, targets, groups, classification=classification, seed=seed)
    known = int(np.isfinite(targets).sum())
    trees = int(np.clip(TREES * LABELS_FOR_ALL_TREES / max(known, 1), FEWEST_TREES, TREES))
    x = view(chosen, features)
    columns = range(targets.shape[1])
    if chosen.kind == "forest":
        forests = [forest(*rows_of(x, targets, column), classification, trees, seed) for column in columns]
        graph = forest_graph(forests, classification=classification, counts=chosen.counts)
    else:
        members = [bootstrap(*rows_of(x, targets, column), chosen, classification, seed) for column in columns]
        weight = np.stack([weights for weights, _ in members], axis=1)
        bias = np.stack([biases for _, biases in members], axis=1)
        graph = linear_graph(weight, bias, classification=classification, counts=chosen.counts)
    report = {"chosen": str(chosen), "cross_validation": {str(key): round(error, 5) for key, error in errors.items()}}
    return Fitted(graph, chosen, held_out, report)


def select(
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    groups: Sequence[str],
    *,
    classification: bool,
    seed: int,
) -> tuple[Candidate, dict[Candidate, float]]:
    """The candidate with the least squared error out of fold (of probabilities: the Brier score), and all errors."""
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(len(targets))[:SELECTION_ROWS])
    columns = np.argsort(-np.isfinite(targets).sum(axis=0), kind="stable")[:SELECTION_PROPERTIES]
    x, y, names = features[rows], targets[rows][:, columns], [groups[row] for row in rows]
    errors: dict[Candidate, float] = {}
    spreads = np.maximum(np.nanstd(y, axis=0), 1e-9)
    for candidate in candidates(classification):
        predicted = out_of_fold(candidate, x, y, names, classification=classification, seed=seed)
        errors[candidate] = float(np.nanmean(((predicted - y) / spreads) ** 2))
    return min(errors, key=lambda candidate: errors[candidate]), errors


def out_of_fold(
    candidate: Candidate,
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    groups: Sequence[str],
    *,
    classification: bool,
    seed: int,
) -> NDArray[np.float64]:
    """A prediction of each row from a model that has not seen its group, shape (rows, properties)."""
    x = view(candidate, features)
    result = np.full(targets.shape, np.nan)
    for held in folds(groups, seed):
        rest = np.setdiff1d(np.arange(len(targets)), held)
        for column in range(targets.shape[1]):
            rows, labels = rows_of(x[rest], targets[rest], column)
            if len(labels):
                result[held, column] = predict(candidate, rows, labels, x[held], classification, seed)
    return result


def folds(groups: Sequence[str], seed: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each fold: groups in random order, each into the smallest fold so far."""
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    units = list(members.values())
    order = np.random.default_rng(seed).permutation(len(units))
    parts: list[list[int]] = [[] for _ in range(FOLDS)]
    for number in order:
        min(parts, key=len).extend(units[number])
    return (np.asarray(sorted(part)) for part in parts if part)


def view(candidate: Candidate, features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features if candidate.counts else np.minimum(features, 1.0)


def rows_of(x: NDArray[np.float32], targets: NDArray[np.float32], column: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The rows whose label of this property is known."""
    known = np.isfinite(targets[:, column])
    return x[known], targets[known, column]


def predict(
    candidate: Candidate,
    x: NDArray[Any],
    y: NDArray[Any],
    queries: NDArray[Any],
    classification: bool,
    seed: int,
) -> NDArray[Any]:
    """Probabilities of class 1, or values, of one quick fit."""
    if candidate.kind == "forest":
        model = forest(x, y, classification, SELECTION_TREES, seed)
        if not classification:
            return np.asarray(model.predict(queries))
        shares = np.zeros(len(queries)) if 1 not in model.classes_ else model.predict_proba(queries)[:, -1]
        return np.asarray(shares)
    weight, bias = linear(x, y, candidate, classification)
    values = queries @ weight + bias
    return np.asarray(1 / (1 + np.exp(-values)) if classification else values)


def forest(x: NDArray[Any], y: NDArray[Any], classification: bool, trees: int, seed: int) -> Any:
    ensemble = require("sklearn.ensemble", extra="train")
    if classification:
        return ensemble.RandomForestClassifier(trees, random_state=seed, n_jobs=-1).fit(x, y.astype(int))
    # A third of the features at a split is the usual rule for a regression (Breiman 2001), and four times as fast.
    return ensemble.RandomForestRegressor(trees, max_features=1 / 3, random_state=seed, n_jobs=-1).fit(x, y)


def linear(x: NDArray[Any], y: NDArray[Any], candidate: Candidate, classification: bool) -> tuple[NDArray[Any], float]:
    """Weight (2048,) and bias of a logistic or a ridge regression; of one class alone, its log odds."""
    models = require("sklearn.linear_model", extra="train")
    if classification and y.min() == y.max():
        return np.zeros(x.shape[1]), 5.0 if y[0] else -5.0
    with require("threadpoolctl", extra="train").threadpool_limits(limits=1, user_api="blas"):
        if classification:
            model = models.LogisticRegression(C=candidate.penalty, max_iter=300, tol=1e-3).fit(x, y.astype(int))
            return model.coef_[0], float(model.intercept_[0])
        model = models.Ridge(alpha=candidate.penalty).fit(x, y)
        return model.coef_, float(model.intercept_)


def bootstrap(
    x: NDArray[Any], y: NDArray[Any], candidate: Candidate, classification: bool, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Linear models of resampled rows: weight (members, 2048) and bias (members,)."""
    random = np.random.default_rng(seed)
    fits = []
    for _ in range(MEMBERS):
        rows = random.integers(0, len(y), len(y))
        fits.append(linear(x[rows], y[rows], candidate, classification))
    return np.stack([weight for weight, _ in fits]), np.asarray([bias for _, bias in fits])
