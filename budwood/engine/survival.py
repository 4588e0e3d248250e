"""Time to an event that not every row has seen yet (censored): periods, hazards, survival curves and their measures.

Time is cut into periods, and a model gives each one's hazard: the chance that the event comes in it if it has not come
before (discrete-time survival: Tutz and Schmid 2016; networks: Gensheimer and Narasimhan 2019, arXiv:1805.00917).
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PERIODS",
    "brier_at",
    "concordance",
    "hazard_targets",
    "periods_of",
    "risk_at",
    "squared_errors",
    "still_watched",
    "survival_curve",
]

PERIODS = 10
CHUNK = 512

Floats = NDArray[np.float64]


def periods_of(times: Floats, events: Floats, periods: int = PERIODS) -> tuple[float, ...]:
    """The ends of at most `periods` periods that hold about equally many events each; a few events give fewer."""
    seen = np.sort(times[events > 0])
    if not len(seen):
        return ()
    count = max(1, min(periods, len(np.unique(seen))))
    ends = np.quantile(seen, np.arange(1, count + 1) / count, method="higher")
    return tuple(float(end) for end in np.unique(ends))


def hazard_targets(times: Floats, events: Floats, ends: tuple[float, ...]) -> NDArray[np.float32]:
    """What is known of each period, shape (rows, periods): 0 lived through, 1 the event came, NaN not seen.

    A period in which watching a row ended without the event is not seen, and so is all that comes after the event.
    """
    last = np.asarray(ends)
    starts = np.concatenate([[-np.inf], last[:-1]])
    result = np.full((len(times), len(last)), np.nan, np.float32)
    result[times[:, None] >= last] = 0.0
    inside = (times[:, None] > starts) & (times[:, None] <= last) & (events[:, None] > 0)
    result[inside] = 1.0
    return result


def survival_curve(logits: NDArray[np.floating]) -> Floats:
    """The chance of no event by the end of each period, shape (rows, periods), from the hazards' logits."""
    return np.asarray(np.exp(np.cumsum(-np.logaddexp(0.0, logits.astype(np.float64)), axis=1)))


def risk_at(curve: Floats, ends: tuple[float, ...], horizon: float) -> Floats:
    """The chance of the event by `horizon`, shape (rows,); between the ends of periods the curve is a straight line.

    After the last period nothing is known, so that its end stands for all later times.
    """
    known = np.asarray([0.0, *ends])
    place = min(max(horizon, 0.0), float(known[-1]))
    index = min(int(np.searchsorted(known, place, side="right")), len(known) - 1)
    share = (place - known[index - 1]) / max(known[index] - known[index - 1], 1e-300)
    before = np.ones(len(curve)) if index == 1 else curve[:, index - 2]
    return np.asarray(1 - (before + share * (curve[:, index - 1] - before)))


def squared_errors(curve: Floats, targets: NDArray[np.floating]) -> Floats:
    """Each row's mean squared distance of its curve to what happened, over the ends at which that is known.

    The Brier score (Graf et al. 1999) without weights for what is censored, so that each error is between 0 and 1.
    A row of which nothing is known gets the mean error of the others; 1 where nothing is known of any.
    """
    known = np.isfinite(targets)
    gone = np.cumsum(np.nan_to_num(targets), axis=1) > 0
    known |= gone  # after the event the state stays known
    alive = np.where(gone, 0.0, 1.0)
    count = known.sum(axis=1)
    errors = np.where(known, (curve - alive) ** 2, 0).sum(axis=1) / np.maximum(count, 1)
    errors[count == 0] = errors[count > 0].mean() if count.any() else 1.0
    return np.asarray(errors)


def still_watched(times: Floats, events: Floats, at: Floats) -> Floats:
    """The chance of being watched up to each time of `at`: Kaplan and Meier's (1958), of the end of watching."""
    moments, place = np.unique(times, return_inverse=True)
    came, left = np.bincount(place, events > 0), np.bincount(place, events <= 0)
    before = np.concatenate([[0], np.cumsum(came + left)[:-1]])
    watched = len(times) - before - came  # an event goes before the end of watching at the same moment
    curve = np.concatenate([[1.0], np.cumprod(1 - left / np.maximum(watched, 1))])
    return np.asarray(curve[np.searchsorted(moments, at, side="left")])


def brier_at(given: Floats, times: Floats, events: Floats, horizon: float) -> float:
    """The Brier score of risks by `horizon`, in which known rows stand for those that were watched too short a time.

    Each known row weighs the inverse of its chance to be known (Graf et al. 1999). That chance is the same for all rows
    watched alike: it must not depend on the risk.
    """
    happened = (times <= horizon) & (events > 0)
    known = happened | (times >= horizon)
    weight = known / still_watched(times, events, np.minimum(times, horizon))
    return float((weight * (given - happened) ** 2).mean())


def concordance(risk: Floats, times: Floats, events: Floats) -> float:
    """Harrell's C (1982): of the pairs whose order is known, the share in which the riskier row had its event first.

    Equal risks count half. NaN where no pair can be compared.
    """
    right = total = 0.0
    order = np.flatnonzero(events > 0)
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        later = times[None, :] > times[rows, None]
        gap = risk[rows, None] - risk[None, :]
        right += float((later & (gap > 0)).sum()) + 0.5 * float((later & (gap == 0)).sum())
        total += float(later.sum())
    return right / total if total else math.nan
