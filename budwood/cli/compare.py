"""`budwood compare`: a paired test of two models on the same rows."""

from typing import TYPE_CHECKING, Annotated

import typer

from budwood.cli.options import Data, Input, Json, Store, Target
from budwood.cli.screen import Screen, percent, points

if TYPE_CHECKING:
    from budwood.stages.results import Compared

SHOWN = 20
"""Rows that a terminal gets; `--json` gives all."""


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A model, as the reference.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The model that is compared with it.")],
    data: Data,
    target: Target = None,
    input: Input = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Compare two models on the same rows by a paired test.

    Gives the difference B - A, its interval, p, and the rows on which they differ.
    """
    with Screen(json, f"compare: {a} and {b} on {data}") as screen:
        from budwood import flow

        result = flow.compare(a, b, data, target=target, input=input, store=store)
        if json:
            screen.data(result.to_json())
        else:
            show(screen, result, a, b)


def show(screen: Screen, result: "Compared", a: str, b: str) -> None:
    """The difference first, then the rows where one is right and the other wrong."""
    headers = (f"{result.metric} %: {a}", b, "B - A, points", "p", "rows", "differ on")
    cells = (percent(result.a), percent(result.b), points(result.difference, result.ci), f"{result.p:.3g}")
    screen.table(headers, [(*cells, f"{result.n:,}", f"{result.n_differ:,}")])
    for name, key in ((a, "a"), (b, "b")):
        if seen := result.rows_seen_in_training.get(key):
            screen.note(f"{seen:,} of {result.n:,} rows were seen in the training of {name}, which flatters it")
    screen.line()
    screen.line(verdict(result, a, b))
    if not result.rows:
        return
    screen.line()
    names = list(result.rows[0])
    rows = [[short(row.get(name)) for name in names] for row in result.rows[:SHOWN]]
    screen.table([{"a": a, "b": b}.get(name, name) for name in names], rows)
    if len(result.rows) > SHOWN:
        screen.note(f"{len(result.rows) - SHOWN:,} more such rows: --json gives all")


def verdict(result: "Compared", a: str, b: str) -> str:
    if result.ci[0] <= 0 <= result.ci[1]:
        return f"These rows do not tell {a} and {b} apart: the interval of the difference holds 0."
    better, worse = (b, a) if result.difference > 0 else (a, b)
    return f"{better} is better than {worse} on these rows."


def short(value: object, limit: int = 60) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
