"""The verdict on traffic: `stable`, `watch` or `drifted`, from the reference statistics of a bundle and recent answers.

The p value says whether anything changed, the effect says whether it matters: a large window finds differences that do
not, and a small one finds large effects by chance. So a verdict other than `stable` needs both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from budwood.engine import drift
from budwood.engine.reference import NUMBERS
from budwood.engine.statistics import holm

__all__ = ["LEAST_ROWS", "Judged", "Test", "Verdict", "Window", "judge"]

Verdict = Literal["stable", "watch", "drifted", "waiting", "no reference"]
Effect = Literal["stable", "watch", "drifted"]
Array = NDArray[np.float64]

LEAST_ROWS = 100
"""Answers before there is a verdict."""
LEAST_LOOKS = 50
"""Inputs that were looked at more closely before what they show counts."""
MOST_LOOKS = 256
LEAST_REFERENCE = 20
ALPHA = 0.001
"""A false alarm in one of all tests of a model, at one look: Holm's correction keeps it below."""
PSI_WATCH, PSI_DRIFTED = 0.1, 0.25
"""The usual readings of PSI (Siddiqi 2006): below the first nothing, from the second on a large change."""
MMD_WATCH, MMD_DRIFTED = 0.01, 0.03
"""The same for the square of the MMD, whose kernel is 1 for equal vectors."""
FIRST_PERMUTATIONS, MORE_PERMUTATIONS = 199, 9999
"""Only where the first permutations leave a doubt are there more (after Besag and Clifford 1991)."""


@dataclass(frozen=True)
class Window:
    """What was answered of late."""

    rows: int
    labels: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, Array] = field(default_factory=dict)
    """Values of `NUMBERS`, each of shape (rows,)."""
    directions: Array | None = None
    """Vectors of the inputs that were looked at, shape (inputs, DIRECTIONS)."""


@dataclass(frozen=True)
class Test:
    """One comparison. Effects without a p value of their own share that of the test beside them."""

    what: str
    method: Literal["psi", "chi-square", "ks", "mmd"]
    value: float
    p: float | None
    """Corrected for the number of tests."""
    verdict: Effect


@dataclass(frozen=True)
class Judged:
    verdict: Verdict
    reason: str
    rows: int
    tests: tuple[Test, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "rows": self.rows,
            "tests": [vars(test) for test in self.tests],
        }


@dataclass(frozen=True)
class Compared:
    """One quantity in both samples: how large the change is, and how likely by chance."""

    what: str
    method: Literal["chi-square", "ks", "mmd"]
    found: drift.Tested
    effect: float
    watch: float
    drifted: float


def judge(reference: Mapping[str, Any], window: Window) -> Judged:
    """Compare recent answers with the reference statistics of a bundle; see `engine/reference.py`.

    What the reference lacks, as that of an older bundle, is left out; with nothing to compare it says `no reference`.
    """
    if not set(reference) & {"predicted", "samples", "directions"}:
        why = (
            "the bundle has no statistics to compare with: writers have none, others get them when they are made again"
        )
        return Judged("no reference", why, window.rows)
    if window.rows < LEAST_ROWS:
        return Judged("waiting", f"{window.rows} of {LEAST_ROWS} answers", window.rows)
    compared = [item for item in (labels(reference, window), *numbers(reference, window)) if item is not None]
    compared += [item for item in [vectors(reference, window)] if item is not None]
    if not compared:
        return Judged("no reference", "too few held-out rows to compare with", window.rows)
    pairs = list(zip(compared, holm([item.found.p for item in compared]), strict=True))
    tests: list[Test] = []
    for item, p in pairs:
        if item.method != "mmd":
            tests.append(Test(item.what, "psi", round(item.effect, 4), None, effect_of(item, p)))
        statistic, rounded = round(item.found.statistic, 4), float(f"{p:.3g}")
        tests.append(Test(item.what, item.method, statistic, rounded, effect_of(item, p)))
    return Judged(*summary(pairs), window.rows, tuple(tests))


def summary(compared: list[tuple[Compared, float]]) -> tuple[Verdict, str]:
    """The worst verdict of all, and why."""
    for verdict in ("drifted", "watch"):
        found = [(item, p) for item, p in compared if effect_of(item, p) == verdict]
        if found:
            parts = [f"{item.what}: {name_of(item)} {item.effect:.2f}, p {at_most(p)}" for item, p in found]
            return ("drifted" if verdict == "drifted" else "watch"), "; ".join(parts)
    return "stable", f"no change of {', '.join(item.what for item, _ in compared)} that matters"


def name_of(item: Compared) -> str:
    return "MMD²" if item.method == "mmd" else "PSI"


def at_most(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"


def effect_of(item: Compared, p: float) -> Effect:
    if p > ALPHA or item.effect < item.watch:
        return "stable"
    return "drifted" if item.effect >= item.drifted else "watch"


def labels(reference: Mapping[str, Any], window: Window) -> Compared | None:
    before: Mapping[str, int] = reference.get("predicted", {})
    if sum(before.values()) < LEAST_REFERENCE or not window.labels:
        return None
    names = sorted({*before, *window.labels})
    table = drift.pooled([before.get(name, 0) for name in names], [window.labels.get(name, 0) for name in names])
    return Compared("labels", "chi-square", drift.chi_square(*table), drift.psi(*table), PSI_WATCH, PSI_DRIFTED)


def numbers(reference: Mapping[str, Any], window: Window) -> list[Compared | None]:
    return [number(name, reference.get("samples", {}).get(name, ()), window.numbers.get(name)) for name in NUMBERS]


def number(name: str, before: list[float], values: Array | None) -> Compared | None:
    if values is None or len(before) < LEAST_REFERENCE or len(values) < LEAST_LOOKS:
        return None
    edges = drift.quantile_bins(before)
    old, new = (np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1) for sample in (before, values))
    found = drift.kolmogorov_smirnov(before, values)
    return Compared(name, "ks", found, drift.psi(*drift.pooled(old, new)), PSI_WATCH, PSI_DRIFTED)


def vectors(reference: Mapping[str, Any], window: Window) -> Compared | None:
    before, now = reference.get("directions", ()), window.directions
    if now is None or len(before) < LEAST_REFERENCE or len(now) < LEAST_LOOKS:
        return None
    now = now[-MOST_LOOKS:]
    found = drift.mmd(before, now, permutations=FIRST_PERMUTATIONS)
    if found.p <= 2 / (FIRST_PERMUTATIONS + 1):
        found = drift.mmd(before, now, permutations=MORE_PERMUTATIONS)
    return Compared("vectors", "mmd", found, found.statistic, MMD_WATCH, MMD_DRIFTED)
