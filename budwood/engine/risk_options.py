"""What a user may say of a regression beside the data, checked; and what is said back of how the labels were read."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from budwood.core.errors import UsageError
from budwood.engine.molecule_labels import as_class
from budwood.engine.risk_labels import NUMBER, RISK, SURVIVAL, outcome_told
from budwood.engine.table import note

__all__ = ["OPTIONS", "checked", "method_for", "notes"]

OPTIONS = ("bins", "hidden", "dropout", "horizon", "positive")
MOST_BINS = 20
MOST_HIDDEN = 4096
METHODS = ("auto", "head", "full")


def checked(
    options: Mapping[str, Any], *, kind: str, outcomes: tuple[str, ...], periods: tuple[float, ...]
) -> dict[str, Any]:
    """The task's fields that the options set. Raises UsageError when one does not suit the kind or is out of range."""
    found: dict[str, Any] = {}
    if "bins" in options:
        found["bins"] = edges_of(options["bins"], kind)
    hidden, dropout = options.get("hidden", 0), options.get("dropout", 0.0)
    if "hidden" in options and (type(hidden) is not int or not 2 <= hidden <= MOST_HIDDEN):
        raise UsageError(
            f"a hidden layer has 2 to {MOST_HIDDEN:,} units, not {hidden!r}", where="--hidden", fix="--hidden 37"
        )
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UsageError(f"dropout is a share below 1, not {dropout!r}", where="--dropout", fix="--dropout 0.5")
    if "dropout" in options and not hidden:
        raise UsageError("dropout belongs to a hidden layer", where="--dropout", fix="--hidden 37 --dropout 0.75")
    if "horizon" in options:
        found["horizon"] = horizon_of(options["horizon"], kind, periods)
    if "positive" in options:
        found["outcomes"] = turned(str(options["positive"]), kind, outcomes)
    return found | {"hidden": hidden, "dropout": float(dropout)}


def edges_of(value: Any, kind: str) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    try:
        edges = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        edges = ()
    rising = all(low < high for low, high in pairwise(edges)) and all(map(math.isfinite, edges))
    inside = kind == NUMBER or all(0 < edge < 1 for edge in edges)
    if not 1 <= len(edges) < MOST_BINS or not rising or not inside:
        limits = "rising numbers" if kind == NUMBER else "rising shares between 0 and 1"
        raise UsageError(
            f"the edges of bins are {limits}, not {value!r}", where="--bins", fix="--bins 0.06,0.1,0.16,0.35"
        )
    return edges


def horizon_of(value: Any, kind: str, periods: Sequence[float]) -> float:
    if kind != SURVIVAL:
        raise UsageError("a horizon is for times to an event", where="--horizon", fix="--target days,died")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= periods[-1]:
        raise UsageError(
            f"the horizon must be above 0 and at most {periods[-1]:g}, the last time of an event, not {value!r}",
            where="--horizon",
            fix=f"--horizon {periods[len(periods) // 2]:g}",
        )
    return float(value)


def turned(positive: str, kind: str, outcomes: tuple[str, ...]) -> tuple[str, ...]:
    positive = as_class(positive)
    if kind == NUMBER or positive not in outcomes:
        known = f"choose one of: {', '.join(outcomes)}" if outcomes else "leave it out: these labels are numbers"
        raise UsageError(f"no label is called {positive!r}", where="--positive", fix=known)
    return outcomes if outcomes[1] == positive else outcomes[::-1]


def notes(
    kind: str, log: bool, outcomes: Sequence[str], columns: Sequence[str], periods: Sequence[float], horizon: float
) -> tuple[str, ...]:
    """How the labels were read, as `key=value  # why`."""
    if kind == NUMBER:
        why = "the numbers are above 0 and lean far to the right" if log else "the numbers do not lean far to the right"
        return (note("scale", "logarithm" if log else "as it is", why),)
    why = f"the other: --positive {outcomes[0]!r}"
    if not outcome_told(*outcomes):
        why = f"neither word says which of them happens, so look at this; {why}"
    found = (note("risk", f"of {outcomes[1]!r} against {outcomes[0]!r}", why),)
    if kind == RISK:
        return found
    why = f"hazards of {len(periods)} periods up to {periods[-1]:g}; another with --horizon"
    return (note("time", columns[0], f"{columns[1]} says what ended it"), *found, note("horizon", f"{horizon:g}", why))


def method_for(asked: str, n_rows: int, least: int, *, hidden: int) -> tuple[str, str]:
    """The method to try beside the linear head, and why. Raises UsageError when it is not for numbers."""
    if asked not in METHODS:
        raise UsageError(
            f"{asked} is not for numbers and risks", where="--method", fix=f"choose one of: {', '.join(METHODS)}"
        )
    if asked == "head" and hidden:
        raise UsageError("a hidden layer is learnt by fine-tuning", where="--hidden", fix="--method full, or auto")
    if asked != "auto":
        return asked, "asked for"
    if hidden:
        return "full", f"a hidden layer of {hidden} units is learnt by fine-tuning"
    if n_rows < least:
        return "head", f"{n_rows:,} rows; fine-tuning is tried from {least:,} on, or with --method full"
    return "full", f"{n_rows:,} rows"
