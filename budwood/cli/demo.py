"""`budwood demo`: the whole path on the example tickets, each stage as the command that one would type."""

import time
from typing import TYPE_CHECKING, Any

from budwood.cli.options import Json, Store
from budwood.cli.progress import duration
from budwood.cli.screen import Screen, percent, span

if TYPE_CHECKING:
    from budwood.core.store import Entry
    from budwood.stages.demo import Answered, Stage

NAME = "tickets"
ADAPT_MINUTES = 1.0
SHRINK_MINUTES = 1.0
MAX_DROP = 0.1
TEXTS = (
    "my parcel should have been here on monday",
    "I was charged twice, please send one of the payments back",
    "the app closes as soon as I open a saved route",
)


def demo(store: Store = None, json: Json = False) -> None:
    """Adapt, shrink, serve and ask, on the example tickets.

    It takes a few minutes, leaves its models in the store as versions of `tickets`, and prints what each stage gained.
    """
    with Screen(json, "demo: the example tickets") as screen:
        from budwood import flow
        from budwood.stages import demo as parts

        began = time.monotonic()
        data = parts.example_table()
        made = adapt_and_shrink(screen, data, store)
        final = made[-1][1]
        say(screen, "budwood serve tickets", "the same server, in the background on a free port")
        with parts.served(final) as url:
            answered = parts.ask(url, TEXTS)
        tell(screen, url, answered)
        stages = parts.race(made, flow.models(store), progress=screen.progress)
        seconds = time.monotonic() - began
        if json:
            screen.data(
                {
                    "stages": [stage.to_json() for stage in stages],
                    "max_drop": MAX_DROP,
                    "within_budget": len(made) == 3,
                    "http_p50_ms": answered.p50_ms,
                    "answers": list(answered.answers),
                    "seconds": round(seconds, 2),
                }
            )
        else:
            show(screen, stages, answered, seconds)


def adapt_and_shrink(screen: Screen, data: Any, store: str | None) -> "list[tuple[str, Entry, float]]":
    """Baseline, adapted and shrunk model with the seconds of each; without the last where none was accepted."""
    from budwood import flow

    say(
        screen,
        f"budwood adapt {data} --name {NAME} --method head",
        "the baseline: a linear head, no training of the encoder",
    )
    head = flow.adapt(data, name=NAME, method="head", store=store, progress=screen.progress)
    screen.note(f"{head.metric} {percent(head.score)} % {span(head.ci)} after {duration(head.seconds)}")
    say(screen, f"budwood adapt {data} --name {NAME} --max-minutes {ADAPT_MINUTES:g}", "ships only what is not worse")
    adapted = flow.adapt(data, name=NAME, max_minutes=ADAPT_MINUTES, store=store, progress=screen.progress)
    screen.note(f"{adapted.metric} {percent(adapted.score)} % {span(adapted.ci)} after {duration(adapted.seconds)}")
    screen.note(f"verdict: {adapted.verdict}")
    model = f"{adapted.name}:{adapted.version}"
    limit = f"--max-drop {MAX_DROP:g} --max-minutes {SHRINK_MINUTES:g}"
    say(
        screen,
        f"budwood shrink {model} {limit}",
        f"what {adapted.n_test} test rows can prove; 0.01 takes far more rows",
    )
    small = flow.shrink(model, max_drop=MAX_DROP, max_minutes=SHRINK_MINUTES, store=store, progress=screen.progress)
    made = [
        ("baseline head", flow.entry(f"{head.name}:{head.version}", store), head.seconds),
        (f"adapted, {adapted.method}", flow.entry(model, store), adapted.seconds),
    ]
    for item in small.report.candidates:
        screen.note(f"{item.recipe}: {'chosen: ' if item.recipe == small.report.chosen else ''}{item.why}")
    if small.within_budget:
        entry = flow.entry(f"{small.name}:{small.version}", store)
        made.append((f"shrunk, {small.report.chosen}", entry, small.seconds))
    else:
        screen.note("no smaller model is proven to be within the budget, so the adapted one is served")
    return made


def say(screen: Screen, command: str, why: str) -> None:
    screen.note("")
    screen.note(f"$ {command}  # {why}")


def tell(screen: Screen, url: str, answered: "Answered") -> None:
    for text, answer in zip(TEXTS, answered.answers, strict=True):
        screen.note(f'POST {url}/predict  {{"text": "{text}"}}')
        screen.note(f"     {answer['label']} {percent(answer['score'], 1)} %")


def show(screen: Screen, stages: "list[Stage]", answered: "Answered", seconds: float) -> None:
    """What each stage gained, in one table."""
    screen.note("")
    headers = ("stage", "model", "score %", "95 % interval", "p50 ms", "p95 ms", "items/s", "MB", "RAM MB", "took")
    rows = [
        (
            stage.stage,
            stage.model,
            percent(stage.score),
            span(stage.ci, 1),
            f"{stage.p50_ms:.2f}",
            f"{stage.p95_ms:.2f}",
            f"{stage.items_per_s:,.0f}",
            f"{stage.size_mb:.1f}",
            "" if stage.memory_mb is None else f"{stage.memory_mb:.0f}",
            duration(stage.seconds),
        )
        for stage in stages
    ]
    screen.table(headers, rows)
    screen.line()
    screen.line(f"over HTTP, one request at a time: p50 {answered.p50_ms:.1f} ms; all of this took {duration(seconds)}")
    screen.next(
        f"budwood serve {NAME}  # then open http://127.0.0.1:8000",
        f"budwood models lineage {NAME}",
        "budwood adapt YOUR_TABLE.csv",
    )
