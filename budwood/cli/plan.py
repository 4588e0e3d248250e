"""`budwood plan`: what `adapt` would do and cost, and what more labels would bring."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budwood.cli.options import (
    Bins,
    Data,
    Dropout,
    Group,
    Hidden,
    Horizon,
    ImageSize,
    Input,
    Json,
    MaxMinutes,
    Method,
    NoFlip,
    Positive,
    Rotate,
    Seed,
    Shots,
    Split,
    Store,
    Target,
    Task,
    Test,
    task_options,
    typed_flags,
)
from budwood.cli.progress import duration
from budwood.cli.screen import Screen, points

if TYPE_CHECKING:
    from budwood.stages.results import Planned


METRICS = {"roc_auc": "ROC AUC", "r2": "R²"}


def plan(
    context: typer.Context,
    data: Data,
    task: Task = "auto",
    base: Annotated[str, typer.Option(metavar="BASE", help="The pretrained model: a folder or a name.")] = "auto",
    target: Target = None,
    input: Input = None,
    group: Group = None,
    test: Test = None,
    split: Split = None,
    method: Method = "auto",
    shots: Shots = None,
    no_flip: NoFlip = False,
    rotate: Rotate = False,
    image_size: ImageSize = None,
    bins: Bins = None,
    hidden: Hidden = None,
    dropout: Dropout = None,
    horizon: Horizon = None,
    positive: Positive = None,
    seed: Seed = 0,
    max_minutes: MaxMinutes = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Tell what adapt would do, and its cost.

    A probe of a minute or less reads and learns from a few rows on this machine. Nothing is published.
    """
    with Screen(json, f"plan: reading {data}") as screen:
        from budwood import flow

        result = flow.plan(
            data,
            task=task,
            base=base,
            target=target,
            input=input,
            group=group,
            test=test,
            split=split,
            method=method,
            shots=shots,
            options=task_options(context),
            seed=seed,
            max_minutes=max_minutes,
            store=store,
            progress=screen.progress,
        )
        if json:
            screen.data(result.to_json())
        else:
            show(screen, result, f"budwood adapt {shlex.quote(str(data))}{typed_flags(context, 'json')}")


def show(screen: Screen, result: "Planned", next_command: str) -> None:
    """The choices, the time of each stage, and the learning curve."""
    rows = ", ".join(f"{count:,} {split}" for split, count in result.rows.items())
    screen.line(f"task      {result.task}; rows: {rows}")
    screen.line(f"base      {result.base}, {result.parameters / 1e6:.1f} M parameters, license {result.license}")
    screen.line(f"method    {result.method}: {result.why}")
    screen.line()
    screen.table(("stage", "at most"), [(name, duration(seconds)) for name, seconds in result.stages.items()])
    screen.line()
    over = "" if result.fits else f"; {duration(result.seconds_wanted)} would be needed for all epochs"
    screen.line(f"time      {duration(result.seconds)} on {result.cores} cores{over}")
    screen.line(f"memory    {result.memory_mb:,.0f} MB")
    screen.line(f"energy    {result.energy_wh:.2f} Wh, {result.co2_g:.2f} g of CO2 ({result.energy_method})")
    for line in curve_lines(result.curve):
        screen.line(line)
    screen.next(next_command)


def curve_lines(curve: "Mapping[str, Any] | None") -> list[str]:
    """The baseline's learning curve and its next step, or that there is none."""
    if curve is None:
        return ["labels    no learning curve: too few rows, or no quick baseline with one right answer a row"]
    metric = curve["metric"]
    shares = metric == "accuracy"
    shown = ", ".join(
        f"{size:,}: {f'{100 * score:.1f} %' if shares else f'{score:.3f}'}"
        for size, score in zip(curve["sizes"], curve["scores"], strict=True)
    )
    low, high = curve["ci"]
    gain = (
        f"{points(curve['gain'], (low, high))} points" if shares else f"{curve['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    named = "" if shares else f", {METRICS.get(metric, metric)}"
    return [f"labels    the baseline by rows learnt from{named}: {shown}", f"          twice the labels: {gain}"]
