"""How well a screen finds active molecules early: enrichment, and BEDROC.

Written with numpy, because a library is screened where scikit-learn is not installed.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from budwood.engine.number_metrics import ranks

__all__ = ["bedroc", "enrichment"]

ALPHA = 20.0
"""Weight of early ranks: the first 8 % of the list make up 80 % of BEDROC (Truchon and Bayly 2007)."""


def enrichment(scores: ArrayLike, truth: ArrayLike, share: float = 0.01) -> float:
    """Actives in the best `share` of the list over those that chance would put there; NaN without actives.

    Where the cut falls between equal scores, the expected number is counted.
    """
    values, active = np.asarray(scores, np.float64), np.asarray(truth).astype(bool)
    if not active.any():
        return math.nan
    wanted = max(1, round(share * len(values)))
    cut = np.partition(values, len(values) - wanted)[len(values) - wanted]
    over, at = values > cut, values == cut
    hits = active[over].sum() + active[at].sum() * (wanted - over.sum()) / at.sum()
    return float(hits / wanted / active.mean())


def bedroc(scores: ArrayLike, truth: ArrayLike, alpha: float = ALPHA) -> float:
    """Boltzmann-enhanced discrimination of ROC (Truchon and Bayly 2007): 1 when all actives come first, 0 when last.

    NaN when one class is missing.
    """
    values, active = np.asarray(scores, np.float64), np.asarray(truth).astype(bool)
    n, n_active = len(values), int(active.sum())
    if not 0 < n_active < n:
        return math.nan
    share = n_active / n
    places = ranks(-values)[active] / n
    random = share * (1 - math.exp(-alpha)) / math.expm1(alpha / n)
    rie = float(np.exp(-alpha * places).sum()) / random
    factor = share * math.sinh(alpha / 2) / (math.cosh(alpha / 2) - math.cosh(alpha / 2 - alpha * share))
    return rie * factor + 1 / (1 - math.exp(alpha * (1 - share)))
