"""Metrics of predicted numbers, of risks, and of risks by a time; and what rows are stratified by in a split."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Row
from budwood.engine.calibrate import expected_calibration_error
from budwood.engine.molecule_labels import as_class
from budwood.engine.number_metrics import ranking_metrics, regression_metrics
from budwood.engine.risk_labels import NUMBER, SURVIVAL, kind_of, numbers_of, time_columns
from budwood.engine.survival import brier_at, concordance

__all__ = ["event_metrics", "number_metrics", "stratum_of", "time_metrics"]

Floats = NDArray[np.float64]
STRATA = 5


def number_metrics(given: Floats, truth: Floats, intervals: Sequence[Sequence[float] | None]) -> dict[str, float]:
    """`rmse`, `mae`, `r2`, `spearman`, `mape` where no number is 0, `coverage_90`: the share within the intervals."""
    found = regression_metrics(given, truth)
    if np.abs(truth).min() > 0:
        found["mape"] = float(np.mean(np.abs(given - truth) / np.abs(truth)))
    if intervals and all(interval is not None for interval in intervals):
        low, high = np.asarray(intervals, np.float64).T
        found["coverage_90"] = float(np.mean((low <= truth) & (truth <= high)))
    return found


def event_metrics(given: Floats, happened: Floats) -> dict[str, float]:
    """`roc_auc`, `average_precision`, `brier` and `ece` (15 bins) of risks."""
    return ranking_metrics(given, happened) | {"ece": expected_calibration_error(given[:, None], happened[:, None])}


def time_metrics(given: Floats, times: Floats, events: Floats, horizon: float) -> dict[str, float]:
    """`c_index` of all rows; by the horizon, a weighted `brier`, and `roc_auc` and `ece` of the rows that are known."""
    known = (times >= horizon) | (events > 0)
    happened = ((times <= horizon) & (events > 0)).astype(np.float64)
    found = event_metrics(given[known], happened[known]) if known.any() else {}
    if known.any():
        found["brier"] = brier_at(given, times, events, horizon)
    order = concordance(given, times, events)
    return ({} if math.isnan(order) else {"c_index": order}) | found


def stratum_of(rows: Sequence[Row]) -> Callable[[Row], list[str]]:
    """Which fifth of the numbers a row belongs to, what happened, or whether it was seen to happen.

    Raises:
        DataError: the labels are nothing that a regression learns.
    """
    kind = kind_of(rows)
    if kind == NUMBER:
        edges = np.quantile(numbers_of(rows), np.arange(1, STRATA) / STRATA)
        return lambda row: [f"fifth {int(np.searchsorted(edges, numbers_of([row])[0], side='right')) + 1}"]
    if kind == SURVIVAL:
        event = time_columns(rows)[1]
        return lambda row: [as_class(row["label"].get(event) if isinstance(row["label"], Mapping) else row["label"])]
    return lambda row: [as_class(row["label"])]
