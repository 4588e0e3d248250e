"""`budwood shrink`: the smallest model within a budget, measured here and accepted only by a test."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budwood.cli.options import Json, MaxMinutes, Model, Seed, Store
from budwood.cli.progress import duration
from budwood.cli.screen import Screen, percent, points

if TYPE_CHECKING:
    from budwood.core.report import Candidate, ShrinkReport
    from budwood.stages.results import Shrunk

NOT_WITHIN_BUDGET = 5
WIDER = 1.15


MaxDrop = Annotated[float, typer.Option(metavar="SHARE", help="The largest drop of the score; 0.01 is one point.")]
MaxTime = Annotated[float | None, typer.Option(metavar="MS", help="The largest p95 time of one row, on this machine.")]
MaxSize = Annotated[float | None, typer.Option(metavar="MB", help="The largest size of what a server loads.")]
ClassFloor = Annotated[
    float, typer.Option(metavar="SHARE", help="The largest drop of a single class; 1 sets no floor.")
]
Explore = Annotated[bool, typer.Option("--explore", help="Try every rung, though an earlier one keeps the limits.")]
Student = Annotated[
    list[str] | None, typer.Option(metavar="NAME|DIR", help="A smaller base to try as well; may be repeated.")
]
Unlabelled = Annotated[
    Path | None, typer.Option(metavar="DATA", help="Rows without labels for students to learn from.")
]


def shrink(
    model: Model,
    max_drop: MaxDrop = 0.01,
    max_p95_ms: MaxTime = None,
    max_mb: MaxSize = None,
    max_class_drop: ClassFloor = 0.1,
    max_minutes: MaxMinutes = None,
    explore: Explore = False,
    student: Student = None,
    unlabelled: Unlabelled = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DATA", help="The rows of the training, where the store has them no more.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(metavar="DATA", help="The test rows beside --data, where adapt was given --test.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Of the result.  [default: MODEL's]")] = None,
    seed: Seed = 0,
    store: Store = None,
    json: Json = False,
) -> None:
    """Make a model smaller and faster within a budget, with proof.

    The proof is a test on rows that neither training nor choosing saw. Exit code 5, and no new version, when no
    candidate is shown to be within the budget.
    """
    with Screen(json, f"shrink: opening {model}") as screen:
        from budwood import flow

        result = flow.shrink(
            model,
            max_drop=max_drop,
            max_p95_ms=max_p95_ms,
            max_mb=max_mb,
            max_class_drop=max_class_drop,
            max_minutes=max_minutes,
            explore=explore,
            student=student,
            unlabelled=unlabelled,
            data=data,
            test=test,
            name=name,
            seed=seed,
            store=store,
            progress=screen.progress,
        )
        if json:
            screen.data(result.to_json())
        else:
            show(screen, result, model)
    if not result.within_budget:
        raise typer.Exit(NOT_WITHIN_BUDGET)


def show(screen: Screen, result: "Shrunk", model: str) -> None:
    """Every candidate beside its parent, why each was taken or not, and what to do next."""
    report = result.report
    candidates(screen, report, model)
    screen.line()
    for item in report.candidates:
        screen.line(f"{item.recipe}: {in_words(item, item.recipe == report.chosen)}")
    screen.line()
    for line in facts(report):
        screen.line(line)
    if result.plot is not None:
        screen.line(f"plot      {result.plot}")
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in result.stages.items())
    screen.line(f"time      {duration(result.seconds)}" + (f"  ({stages})" if stages else ""))
    if result.within_budget:
        screen.line(f"chosen    {report.chosen}, saved as {result.name}:{result.version} in {result.path}")
        screen.next(f"budwood serve {result.name}", f"budwood models lineage {result.name}")
        return
    screen.line(f"chosen    none: {shortfall(report)}", "1;33")
    screen.next(*alternatives(report, model))


def candidates(screen: Screen, report: "ShrinkReport", model: str) -> None:
    """One line a model; the chosen one is marked."""
    headers = (
        "model",
        f"{report.metric} %",
        "drop, points",
        "p50 ms",
        "p95 ms",
        "speed",
        "items/s",
        "MB",
        "RAM MB",
    )
    rows = [
        (
            f"{model}, as it is" if item is report.reference else item.recipe + " *" * (item.recipe == report.chosen),
            percent(item.score),
            points(item.drop, item.drop_ci),
            number(item.p50_ms, 2),
            number(item.p95_ms, 2),
            speed(item),
            number(item.items_per_s, 0),
            number(item.size_mb, 1),
            number(item.memory_mb, 0),
        )
        for item in (report.reference, *((report.control,) if report.control else ()), *report.candidates)
    ]
    screen.table(headers, rows)
    mark = "; * is chosen" if report.chosen else ""
    screen.line(f"{report.n:,} test rows; intervals are 95 %; speed is against {model}, measured in turns{mark}", "2")


def facts(report: "ShrinkReport") -> list[str]:
    """How the search went, what the chosen model wins and which class pays most for it."""
    searched = f"search    {report.stopped or 'ended'}; picked by {report.validation_rows:,} validation rows"
    lines = [searched]
    if report.openings > 1:
        lines.append(
            f"test      opened {report.openings} times for this model: each further budget proves a little less"
        )
    if won := report.won():
        lines.append(f"won       {won}")
    if report.classes and report.classes[0].drop > 0:
        worst = report.classes[0]
        share = f"{100 * worst.parent:.1f} to {100 * worst.child:.1f} % of {worst.n} rows"
        lines.append(f"classes   {worst.label} lost the most: {share} (p={worst.p:.2g}, corrected)")
    return lines


def speed(item: "Candidate") -> str:
    if item.ratio is None:
        return ""
    return f"{item.ratio:.2f}x" + (" slower" if item.rank == "slower" else "")


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def in_words(item: "Candidate", chosen: bool) -> str:
    """What became of a candidate, and why."""
    if chosen:
        result = "chosen"
    elif item.rung == 0:
        result = "the model as it is"
    elif item.score is None:
        result = "left out"
    elif item.within_budget:
        result = "within the budget, not chosen"
    else:
        result = {"FAIL": "refused", "UNDECIDED": "undecided"}.get(item.verdict or "", "over the budget")
    return f"{result}: {item.why}" if item.why else result


def shortfall(report: "ShrinkReport") -> str:
    """Why nothing was chosen, in one sentence."""
    undecided = [item.rows_needed for item in report.candidates if item.verdict == "UNDECIDED" and item.rows_needed]
    if undecided:
        return (
            f"{report.n:,} test rows cannot show that the drop is below {100 * report.budget.max_drop:g} points; "
            f"about {min(undecided):,} would"
        )
    return "no candidate is within the budget"


def alternatives(report: "ShrinkReport", model: str) -> list[str]:
    """Commands that have a chance: a wider limit that the measured intervals would pass, and more rows."""
    budget = report.budget
    bounds = [
        bound
        for item in report.candidates
        if item.finalist and not budget.check(item.p95_ms or 0.0, item.size_mb or 0.0)
        if (bound := upper_bound(item)) is not None
    ]
    limit = math.ceil(200 * min(bounds, default=1)) / 200
    more = "budwood adapt DATA --test MORE_TEST_ROWS  # more test rows prove a smaller drop"
    if budget.max_drop < limit < 0.5:
        kept = f" --max-p95-ms {budget.max_p95_ms:g}" if budget.max_p95_ms is not None else ""
        kept += f" --max-mb {budget.max_mb:g}" if budget.max_mb is not None else ""
        return [f"budwood shrink {model} --max-drop {limit:g}{kept}  # what these rows can show", more]
    return [more]


def upper_bound(item: "Candidate") -> float | None:
    """The drop that a finalist's test could exclude, against its parent and against the control; None without a test.

    Candidates are tested together, with bounds a little wider than the interval that is shown.
    """
    pairs = ((item.drop, item.drop_ci), (item.control_drop, item.control_drop_ci))
    found = [drop + WIDER * (span[1] - drop) for drop, span in pairs if drop is not None and span is not None]
    return max(found, default=None)
