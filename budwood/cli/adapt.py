"""`budwood adapt`: learn the labels of a table, and say whether that beat the baseline."""

from typing import TYPE_CHECKING, Annotated

import typer

from budwood.cli.options import (
    Base,
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
    Unlabelled,
    task_options,
)
from budwood.cli.progress import duration
from budwood.cli.screen import Screen, percent, span

if TYPE_CHECKING:
    from budwood.engine.bases import Known
    from budwood.stages.results import Adapted, Baseline


def show_bases(wanted: bool) -> None:
    """The table of `bases.toml`, with what is installed here."""
    if not wanted:
        return
    from budwood.core import registry
    from budwood.engine.bases import catalogue

    defaults = {registry.get("tasks", task).default_base for task in registry.names("tasks")}
    with Screen(False, "") as screen:
        rows = [
            (item.name, ", ".join(item.tasks), f"{item.parameters / 1e6:.1f} M", item.license, about(item, defaults))
            for item in catalogue().values()
        ]
        screen.table(("base", "task", "parameters", "license", "what for"), rows)
        screen.line("A folder, or any other name on the Hugging Face hub, works as well.")
    raise typer.Exit


def about(base: "Known", defaults: set[str]) -> str:
    """What a base is for, and whether it is what `--base auto` takes."""
    return f"{base.about}; the default" if base.name in defaults else base.about


ListBases = Annotated[
    bool,
    typer.Option("--list-bases", is_eager=True, callback=show_bases, help="Show what is known by name, and end."),
]

Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Of the model.  [default: from DATA]")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, where an interrupted run would go on.")]


def adapt(
    context: typer.Context,
    data: Data,
    task: Task = "auto",
    base: Base = "auto",
    list_bases: ListBases = False,
    name: Name = None,
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
    unlabelled: Unlabelled = None,
    seed: Seed = 0,
    max_minutes: MaxMinutes = None,
    fresh: Fresh = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Adapt a pretrained model to a table of labelled rows.

    A baseline is kept unless something better is found. The same command goes on after an interruption.
    """
    with Screen(json, f"adapt: reading {data}") as screen:
        from budwood import flow

        result = flow.adapt(
            data,
            task=task,
            base=base,
            name=name,
            target=target,
            input=input,
            group=group,
            test=test,
            split=split,
            method=method,
            shots=shots,
            options=task_options(context),
            unlabelled=unlabelled,
            seed=seed,
            max_minutes=max_minutes,
            fresh=fresh,
            store=store,
            progress=screen.progress,
        )
        if json:
            screen.data(result.to_json())
        else:
            show(screen, result)


def show(screen: Screen, result: "Adapted") -> None:
    """The model beside its baseline, why it was kept, and where the time went."""
    model, base = f"{result.name}:{result.version}", result.baseline
    rows = f"{result.n_test:,}"
    headers = ["model", "method", f"{result.metric} %", "95 % interval", *map(title, numbers(result)), "rows"]
    first = ["baseline", base.method, percent(base.score), span(base.ci), *beside(result, base), rows]
    second = [model, result.method, percent(result.score), span(result.ci), *beside(result, result), rows]
    if result.split:
        for cells, cell in ((headers, "split"), (first, result.split), (second, result.split)):
            cells.append(cell)
    screen.table(headers, [first, second])
    screen.line()
    screen.line(f"verdict   {result.verdict}")
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in result.stages.items())
    screen.line(f"time      {duration(result.seconds)}" + (f"  ({stages})" if stages else ""))
    energy = f", {result.energy_wh:.2f} Wh" if result.energy_wh else ""
    screen.line(f"used      {result.peak_memory_mb:,.0f} MB of memory at most{energy}; {result.n_train:,} rows learnt")
    screen.line(f"saved     {result.path}")
    screen.line(f"report    {result.report}")
    if writes(result.task):
        screen.next(f'budwood generate {result.name} "…"', f"budwood serve {result.name}")
    elif shrinks(result.task):
        screen.next(f"budwood shrink {result.name}", f'budwood predict {result.name} "…"')
    else:
        screen.next(f'budwood predict {result.name} "…"', f"budwood serve {result.name}")


def shrinks(task: str) -> bool:
    """Whether models of a task can be shrunk."""
    from budwood.core import registry

    return not registry.get("tasks", task).no_shrink


def writes(task: str) -> bool:
    """Whether models of a task write texts."""
    from budwood.core import registry

    return bool(registry.get("tasks", task).writes)


def title(metric: str) -> str:
    from budwood.engine.card import title_of

    return title_of(metric)


def numbers(result: "Adapted") -> list[str]:
    """Names of the metrics that are printed beside the score; few rows give some of them no interval."""
    from budwood.engine.card import BESIDE

    return list(dict.fromkeys([*result.intervals, *(name for name in BESIDE if name in result.metrics)]))


def beside(result: "Adapted", model: "Adapted | Baseline") -> list[str]:
    """The metrics that are printed beside the score, each with its interval where it has one."""
    found = []
    for name in numbers(result):
        value, bounds = model.metrics.get(name), model.intervals.get(name)
        interval = "" if bounds is None else f" [{short(bounds[0])}, {short(bounds[1])}]"
        found.append("" if value is None else f"{short(value)}{interval}")
    return found


def short(value: float) -> str:
    """Three decimals; from a thousand on none."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
