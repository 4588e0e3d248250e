"""How many rows a paired test needs: what an UNDECIDED verdict tells the user."""

import math
from statistics import NormalDist

from budwood.core.errors import UsageError

__all__ = ["rows_for_power", "rows_to_decide"]

CONFIDENCE = 0.95
POWER = 0.80
MAX_ROWS_NEEDED = 10_000_000


def rows_for_power(discordance: float, gap: float) -> int:
    """Rows for 80 % power of a one-sided 5 % paired test, from the share of differing rows and the gap to show.

    n = (z_0.95 + z_0.80)^2 * discordance / gap^2, and never fewer than even a child without one differing row needs.

    Raises:
        UsageError: `discordance` is outside [0, 1] or `gap` outside (0, 1).
    """
    if not (0 <= discordance <= 1 and 0 < gap < 1):
        raise UsageError(f"discordance {discordance} or gap {gap} is out of range", where="rows_for_power")
    factor = (NormalDist().inv_cdf(CONFIDENCE) + NormalDist().inv_cdf(POWER)) ** 2
    silent = math.log(1 - CONFIDENCE) / math.log1p(-gap)
    return math.ceil(max(factor * discordance / gap**2, silent))


def rows_to_decide(mean_square: float, drop: float, max_drop: float, n: int) -> int | None:
    """Rows in all, more than there are now, for 80 % power at the observed discordance.

    First for a child that is truly as good as its parent: a few rows say too little of the drop to plan with it. Where
    that many rows are there already, for a true drop as observed. None when the drop is at the limit itself.
    """
    plans = [rows_for_power(min(1.0, mean_square), max_drop)] if max_drop > 0 else []
    gap = abs(max_drop - drop)
    if 0 < gap < 1:
        plans.append(max(n + 1, rows_for_power(max(0.0, mean_square - drop**2), gap)))
    return next((rows for rows in plans if n < rows <= MAX_ROWS_NEEDED), None)
