"""The learning curve of the fingerprint baseline of molecules: forests on shares of the rows, whole scaffolds held out.

Import it only inside functions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Row, Task
from budwood.engine.fingerprint_model import FOLDS, SELECTION_PROPERTIES, Candidate, folds, predict, rows_of, view
from budwood.engine.forecast import LEVELS, MIN_ROWS, Forecast, extrapolated
from budwood.engine.molecules import fingerprints, prepare, scaffold
from budwood.engine.number_metrics import roc_auc

__all__ = ["curve_of"]

ROUNDS = 2
"""Times that all rows are held out in turn."""
FOREST = Candidate("forest", False)


def curve_of(task: Task, rows: Sequence[Row], seed: int) -> Forecast | None:
    """ROC AUC, or R² of numbers, on held-out scaffolds by the molecules learnt from; the mean over three properties.

    Returns:
        None with fewer than 80 rows, or where no held-out part has both classes.
    """
    if len(rows) < MIN_ROWS:
        return None
    found = [prepare(row["smiles"]).molecule for row in rows]
    groups = [row.get("scaffold", "") or scaffold(molecule) for row, molecule in zip(rows, found, strict=True)]
    features, targets = view(FOREST, fingerprints(found).astype(np.float32)), task.targets(rows)
    classification = task.to_json()["kind"] == "classification"
    columns = np.argsort(-np.isfinite(targets).sum(axis=0), kind="stable")[:SELECTION_PROPERTIES]
    pool_size = len(rows) * (FOLDS - 1) // FOLDS
    sizes = [pool_size >> (LEVELS - 1 - level) for level in range(LEVELS)]
    curves = []
    for turn in range(ROUNDS):
        for held in folds(groups, seed + turn):
            order = np.random.default_rng([seed, turn]).permutation(np.setdiff1d(np.arange(len(rows)), held))
            learnt = [order[:size] for size in sizes]
            curves.append([score(features, targets[:, columns], part, held, classification, seed) for part in learnt])
    scores = np.asarray(curves)
    scores = scores[np.isfinite(scores).all(axis=1)]
    if len(scores) < FOLDS:
        return None
    return extrapolated(sizes, scores, metric="roc_auc" if classification else "r2")


def score(
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    learnt: NDArray[np.int64],
    held: NDArray[np.int64],
    classification: bool,
    seed: int,
) -> float:
    """The mean over the properties that the held-out rows can judge; NaN where there is none."""
    found = []
    for column in range(targets.shape[1]):
        queries, truth = rows_of(features[held], targets[held], column)
        x, y = rows_of(features[learnt], targets[learnt], column)
        if not len(y) or len(np.unique(truth)) < 2:
            continue
        given = predict(FOREST, x, y, queries, classification, seed)
        found.append(
            roc_auc(given, truth) if classification else 1 - float(np.mean((given - truth) ** 2) / truth.var())
        )
    return float(np.mean(found)) if found else float("nan")
