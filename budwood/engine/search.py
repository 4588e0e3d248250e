"""The rules of the search for a smaller model: what is measured first, what is left out, what the test may decide.

Nothing is computed here but decisions; `budwood/stages/shrink_search.py` does the work. The order is that of cost: what
only converts comes before what trains, and a cut is trained only when its untrained copy is fast and small enough.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from budwood.core.budget import Budget
from budwood.core.bundle import Bundle
from budwood.core.report import ClassChange, Speed
from budwood.core.step import Step
from budwood.engine.statistics import Verdict, holm, mcnemar, no_loss

__all__ = [
    "MAX_FINALISTS",
    "SCREEN_ROWS",
    "Made",
    "Trial",
    "class_changes",
    "finalists",
    "first_enough",
    "has_target",
    "lost_classes",
    "misses",
    "screen",
    "screen_rows",
    "validation_drop",
]

MAX_FINALISTS = 3
"""Candidates whose test decides; each more would widen the bound that all have to pass."""
SCREEN_ROWS = 1000
"""Validation rows for the first look at a candidate: they separate 3 points at 5 % differing rows."""
WIDER = 1.3
"""How much further the bound of a finalist of three reaches than that of one alone."""
TOO_FEW_OF_A_CLASS = 5
"""Below so many test rows a class tells nothing of itself."""


@dataclass(frozen=True)
class Trial:
    """A candidate before it is made: its name, how to make it, and how to know its speed without training it."""

    name: str
    rung: int
    """0 runtime, 1 smaller base, 2 quantized, 3 cut, 4 cut and quantized, 5 trained to be quantized, 6 packed."""
    steps: tuple[Step, ...]
    probe: tuple[Step, ...] = ()
    """The same without training; empty where nothing is trained."""
    base: Bundle | None = None
    """Where the steps begin, when not at the parent."""
    beyond: bool = False
    """Whether it is trained beyond what its parent was: then it has to pass against the dense control too."""
    share: float = 1.0
    """What a cut leaves of the layers, the channels' work or the width."""

    @property
    def trained(self) -> bool:
        return self.beyond or self.base is not None


@dataclass(frozen=True)
class Made:
    """A candidate that was made, with what is known of it before the test."""

    trial: Trial
    bundle: Bundle
    speed: Speed
    screened: Verdict | None = None
    """On validation rows, against the parent; None where there were none."""

    @property
    def name(self) -> str:
        return self.trial.name

    @property
    def cost(self) -> float:
        """What is to become small: milliseconds of a single row times megabytes."""
        return self.speed.p50_ms * self.speed.size_mb


def has_target(budget: Budget) -> bool:
    """Whether a time or a size is asked for. Without one there is no point at which to stop: all rungs are tried."""
    return budget.max_p95_ms is not None or budget.max_mb is not None


def misses(speed: Speed, budget: Budget) -> list[str]:
    """Why these figures rule a candidate out, one sentence each: a limit is missed, or it is slower than its parent."""
    reasons = budget.check(speed.p95_ms, speed.size_mb)
    if speed.rank == "slower":
        reasons.append(f"slower than the parent: {speed.ratio:.2f}x its speed")
    return reasons


def screen_rows(n: int, seed: int) -> NDArray[np.int64]:
    """Which of `n` validation rows are looked at, ascending; drawn once, so that all candidates answer the same."""
    picked = np.random.default_rng(seed).permutation(n)[:SCREEN_ROWS]
    return np.sort(picked)


def screen(losses: NDArray[np.float64], budget: Budget) -> Verdict:
    """A first, paired look on validation rows. FAIL there (lower bound above the budget) saves the candidate's test."""
    return no_loss(losses, budget.max_drop)


def promising(made: Made, budget: Budget) -> bool:
    """Whether a candidate keeps the limits and has not failed on validation rows."""
    failed = made.screened is not None and made.screened.verdict == "FAIL"
    return not failed and not misses(made.speed, budget)


def first_enough(found: Sequence[Made], budget: Budget, n_test: int) -> Made | None:
    """The first candidate with which the search may stop: it keeps the target, and is likely to pass on the test rows.

    None without a target. The drop on validation rows alone would stop at candidates that the test, whose bound must be
    below the budget, leaves undecided: so the bound is foretold from their spread, for as many rows as the test has.
    """
    if not has_target(budget):
        return None
    return next((item for item in found if promising(item, budget) and likely(item, budget, n_test)), None)


def likely(item: Made, budget: Budget, n_test: int) -> bool:
    seen = item.screened
    if seen is None:
        return True
    reach = WIDER * (seen.upper - seen.drop) * math.sqrt(seen.n / n_test)
    return seen.drop + reach < budget.max_drop


def finalists(found: Sequence[Made], budget: Budget) -> list[Made]:
    """Whose test decides, the most wanted first: the cheapest of the promising, then the one closest to the parent.

    The order is settled before the test rows are opened. Candidates that dropped too much on validation rows come last.
    """
    within = [item for item in found if promising(item, budget)]
    order = sorted(within, key=lambda item: (validation_drop(item) > budget.max_drop, item.cost))
    if not order:
        return []
    safest = min(within, key=lambda item: (validation_drop(item), item.cost))
    wanted = [order[0], safest, *order[1:]]
    unique = list({item.name: item for item in wanted}.values())[:MAX_FINALISTS]
    return sorted(unique, key=order.index)


def validation_drop(item: Made) -> float:
    return 0.0 if item.screened is None else item.screened.drop


def class_changes(
    labels: Sequence[object], parent: NDArray[np.float64], child: NDArray[np.float64]
) -> tuple[ClassChange, ...]:
    """What the child lost or won in each class, the largest loss first; nothing where labels are no classes.

    `p` is the exact McNemar test, one-sided for a loss, of right and wrong rows within the class (rows right with more
    than half a point), adjusted for the number of classes by Holm's method. Classes of fewer than 5 rows are left out.
    """
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < 2:
        return ()
    names = np.asarray(labels)
    changes: list[ClassChange] = []
    for name in sorted(set(names.tolist())):
        own = names == name
        if int(own.sum()) < TOO_FEW_OF_A_CLASS:
            continue
        before, after = parent[own] > 0.5, child[own] > 0.5
        lost, won = int((before & ~after).sum()), int((~before & after).sum())
        p = mcnemar(lost, won) / 2 if lost > won else 1.0
        changes.append(ClassChange(name, int(own.sum()), float(parent[own].mean()), float(child[own].mean()), p))
    adjusted = holm([item.p for item in changes])
    corrected = [item.with_p(p) for item, p in zip(changes, adjusted, strict=True)]
    return tuple(sorted(corrected, key=lambda item: item.drop, reverse=True))


def lost_classes(changes: Sequence[ClassChange], budget: Budget) -> list[str]:
    """The classes below their floor, one sentence each: the loss is larger than allowed, and more than chance."""
    return [
        f"class {item.label!a} lost {100 * item.drop:.1f} points on {item.n} rows (p={item.p:.2g}, corrected)"
        for item in changes
        if item.drop > budget.max_class_drop and item.p < 0.05
    ]
