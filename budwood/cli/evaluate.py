"""`budwood evaluate`: how right a model is on labelled rows."""

from typing import TYPE_CHECKING

from budwood.cli.options import Data, Input, Json, Model, Store, Target
from budwood.cli.screen import Screen, percent, span

if TYPE_CHECKING:
    from budwood.stages.results import Evaluated

SEEN = "rows_seen_in_training"


def evaluate(
    model: Model, data: Data, target: Target = None, input: Input = None, store: Store = None, json: Json = False
) -> None:
    """Score a model on labelled rows, with a 95 % interval."""
    with Screen(json, f"evaluate: {model} on {data}") as screen:
        from budwood import flow

        result = flow.evaluate(model, data, target=target, input=input, store=store)
        if json:
            screen.data(result.to_json())
        else:
            show(screen, result)


def show(screen: Screen, result: "Evaluated") -> None:
    """The headline metric with its interval first, the others below it, with theirs where they have one."""
    rows = [(result.metric, percent(result.score), span(result.ci), f"{result.n:,}")]
    others = [(name, value) for name, value in result.metrics.items() if name not in (result.metric, SEEN)]
    for name, value in others:
        bounds = result.intervals.get(name)
        between = f"[{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""
        rows.append((name, f"{value:.4f}", between, f"{result.n:,}" if bounds else ""))
    screen.table(("metric", "value", "95 % interval", "rows"), rows)
    if seen := result.metrics.get(SEEN):
        screen.note(f"{seen:,.0f} of {result.n:,} rows were seen in training, so the score flatters the model")
