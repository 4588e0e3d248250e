"""What makes risks and intervals honest, fitted on rows that training has not seen: Platt, conformal, and bins.

The result is a flat mapping for `bundle.json`, and the serving half reads it with numpy alone.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BIN_NAMES",
    "UNFITTED",
    "bin_edges",
    "bin_name",
    "conformal_width",
    "edges_in",
    "fit_platt",
    "platt",
    "rescaled",
    "unfitted",
]

Floats = NDArray[np.float64]

LEAST = 20
"""Rows below which nothing is fitted: it would be a guess."""
LEVEL = 0.9
BINS = 5
BIN_NAMES: Mapping[int, tuple[str, ...]] = {
    2: ("low", "high"),
    3: ("low", "moderate", "high"),
    4: ("very low", "low", "high", "very high"),
    5: ("very low", "low", "moderate", "high", "very high"),
}
ROUNDS = 100
UNFITTED: Mapping[str, float] = {"slope": 1.0, "offset": 0.0}
"""Risks as the network gives them."""


def fit_platt(logits: Floats, truth: Floats) -> dict[str, float]:
    """`slope` and `offset` such that `slope * logit + offset` gives honest probabilities (Platt 1999).

    The slope is what a temperature does; the offset takes back what weighted classes have added. Both are fitted on
    softened targets, so that a model without an error on a few rows does not come out infinitely sure. Nothing with
    fewer than 20 rows, with one class, or where the likelihood of the rows does not gain.
    """
    positive, n = float(truth.sum()), len(truth)
    if n < LEAST or not 0 < positive < n:
        return {}
    soft = np.where(truth > 0, (positive + 1) / (positive + 2), 1 / (n - positive + 2))
    point = np.asarray([1.0, 0.0])
    columns = np.stack([logits, np.ones(n)], axis=1)
    value = cross_entropy(columns @ point, soft)
    for _ in range(ROUNDS):
        chance = sigmoid(columns @ point)
        slope = columns.T @ (chance - soft)
        curve = (columns * (chance * (1 - chance))[:, None]).T @ columns + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        while (moved := cross_entropy(columns @ (point - step), soft)) > value and np.abs(step).max() > 1e-9:
            step = step / 2
        if value - moved < 1e-10 * n:
            break
        point, value = point - step, moved
    if point[0] <= 0 or cross_entropy(columns @ point, truth) >= cross_entropy(logits, truth):
        return {}
    return {"slope": float(point[0]), "offset": float(point[1])}


def platt(logits: Floats, truth: Floats) -> dict[str, float]:
    """The same, with slope 1 and offset 0 where nothing is fitted: then medians over several fits stay medians."""
    return {**UNFITTED, **fit_platt(logits, truth)}


def unfitted(calibration: Mapping[str, float]) -> bool:
    """Whether it is a calibration of risks in which nothing was fitted."""
    return all(calibration.get(name) == value for name, value in UNFITTED.items())


def rescaled(logits: NDArray[np.floating], calibration: Mapping[str, float]) -> Floats:
    """Logits after what `fit_platt` has found."""
    return np.asarray(calibration.get("slope", 1.0) * logits.astype(np.float64) + calibration.get("offset", 0.0))


def sigmoid(values: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)))


def cross_entropy(logits: Floats, truth: Floats) -> float:
    return float((np.logaddexp(0.0, logits) - truth * logits).sum())


def conformal_width(errors: Floats) -> dict[str, float]:
    """`half_90`: the half width of an interval that holds 9 of 10 new values (split-conformal: Lei et al. 2018).

    With residuals of rows left out of a cross-validation it is akin to the jackknife+ and CV+ (Barber et al. 2021),
    with one width for all. Nothing with fewer than 20 rows.
    """
    if len(errors) < LEAST:
        return {}
    rank = math.ceil(LEVEL * (len(errors) + 1))  # at most len(errors), from 9 rows on
    return {"half_90": float(np.sort(np.abs(errors))[rank - 1])}


def bin_edges(values: Floats) -> dict[str, float]:
    """`edge_1` … `edge_4`: the quantiles that cut held-out values into five equal parts; nothing for few rows."""
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS)) if len(values) >= LEAST else np.empty(0)
    return {f"edge_{number}": float(edge) for number, edge in enumerate(edges, 1)} if len(edges) == BINS - 1 else {}


def edges_in(calibration: Mapping[str, float], given: Sequence[float] = ()) -> tuple[float, ...]:
    """The edges of the bins: those that the user gave, else those that were fitted."""
    found = [calibration[f"edge_{number}"] for number in range(1, BINS) if f"edge_{number}" in calibration]
    return tuple(given) or tuple(found)


def bin_name(value: float, edges: Sequence[float]) -> str:
    """The name of the bin that a value falls into; one on an edge belongs to the upper bin."""
    count = len(edges) + 1
    names = BIN_NAMES.get(count) or tuple(f"{number} of {count}" for number in range(1, count + 1))
    return names[int(np.searchsorted(edges, value, side="right"))]
