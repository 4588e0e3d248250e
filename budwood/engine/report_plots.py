"""The pictures of a report: baseline against adapted, confusions, calibration, training, the learning curve."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from budwood.core.errors import require
from budwood.core.task import plain_number
from budwood.engine.drawing import (
    WIDTH,
    WRONG,
    Picture,
    beside,
    blank,
    dot,
    finish,
    legend,
    legible,
    look,
    one_plot,
    percent,
    plain_numbers,
)
from budwood.engine.plot import CHOSEN, ON_WHITE, PARENT, PASSED, STYLE
from budwood.engine.report_boxes import Curves
from budwood.engine.report_facts import Outcome, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["HEAT_LABELS", "Compared", "Progressed", "draw_pictures"]

Span = tuple[float, float]

HEAT_LABELS = 20
"""Labels up to which every cell of the confusion matrix is drawn; above, the largest confusions."""
MOST_BARS = 15
CURVE_METRICS = {"accuracy": "right", "roc_auc": "ROC AUC", "r2": "R²"}
"""What the vertical axis of a learning curve is called."""
MOST_POINTS = 2000
WIDE = 50.0
"""The greatest number by the least from which a logarithmic axis has enough powers of ten to read it by."""
MOST_CURVES = 8
"""Labels whose precision is drawn against their recall."""


@dataclass(frozen=True)
class Compared:
    """One line of the comparison: a model's score and its 95 % interval, in [0, 1]."""

    name: str
    value: float
    ci: Span


@dataclass(frozen=True)
class Progressed:
    """How a training went, and what more rows would bring."""

    history: Sequence[Sequence[tuple[int, float]]] = ()
    """(step, validation score) of each evaluation, for each fit that had held-out rows."""
    curve: Mapping[str, Any] | None = None
    """`sizes`, `scores`, `gain` and `ci` as `engine/forecast.py` gives them."""


def draw_pictures(
    metric: str,
    compared: Sequence[Compared],
    outcome: Outcome,
    progressed: Progressed,
    embedding: Picture | None = None,
) -> dict[str, Picture]:
    """Every picture that the facts have something for, by name; that of the embeddings is drawn before.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="train")
    with matplotlib.rc_context(STYLE):
        found = {picture.name: picture for picture in each(metric, compared, outcome, progressed)}
    return found | ({embedding.name: embedding} if embedding else {})


def each(metric: str, compared: Sequence[Compared], outcome: Outcome, progressed: Progressed) -> Iterator[Picture]:
    if len(compared) > 1:
        title = f"{metric} of each model with its 95 % interval"
        yield finish("compared", title, draw_compared(compared))
    if outcome.confusion is not None and len(outcome.labels) <= HEAT_LABELS:
        yield finish("confusion", "confusion matrix", draw_heat(outcome))
    elif outcome.confusion is not None and (found := top_confusions(outcome)):
        yield finish("confusion", "the most frequent confusions", draw_confusions(found, outcome.labels))
    if outcome.multi_label:
        yield finish("classes", "recall and precision of each label", draw_labels(outcome))
    if outcome.numbers is not None:
        yield finish("numbers", "given number against true number", draw_numbers(outcome))
    if outcome.curves is not None and outcome.curves.by_label:
        yield finish("precision", "precision against recall", draw_precision(outcome.curves))
    if outcome.after is not None:
        yield finish("calibration", "accuracy against confidence", draw_reliability(outcome))
    if any(len(fit) > 1 for fit in progressed.history):
        yield finish("training", "score on held-out rows during the training", draw_history(progressed.history))
    if progressed.curve:
        yield finish("learning", "learning curve", draw_curve(progressed.curve))


def draw_compared(compared: Sequence[Compared]) -> "Figure":
    names = [legible([item.name])[0] for item in compared]
    figure, axes = one_plot(0.75 + 0.42 * len(compared), 0.35 + 0.075 * max(map(len, names)), 0.4, right=0.9, top=0.1)
    low, high = min(item.ci[0] for item in compared), max(item.ci[1] for item in compared)
    margin = 0.08 * max(high - low, 0.02)
    axes.set(xlim=(low - margin, high + margin), ylim=(len(compared) - 0.5, -0.5))
    for place, item in enumerate(compared):
        color = CHOSEN if place == len(compared) - 1 else PARENT
        axes.plot(item.ci, [place, place], color=color, linewidth=5, alpha=0.3, solid_capstyle="round")
        axes.plot([item.value], [place], "o", color=color, markersize=8)
        beside(axes, 1.02, place, f"{100 * item.value:.2f} %", color, bold=True)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    percent(axes.xaxis)
    return figure


def draw_heat(outcome: Outcome) -> "Figure":
    """Each cell is coloured by its share of the true label's rows, and tells how many rows they are."""
    from matplotlib.patches import Rectangle

    if outcome.confusion is None:
        raise ValueError("there is no confusion matrix")
    counts, names = outcome.confusion, legible(outcome.labels)
    size, reach = len(names), 0.25 + 0.07 * max(map(len, names))
    side = min(0.62, (WIDTH - reach - 1.0) / size)
    height = side * size + reach + 0.45
    figure, axes = one_plot(height, reach + 0.45, reach, right=WIDTH - reach - 0.45 - side * size, top=0.1)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        share, color = float(shares[row, column]), CHOSEN if row == column else WRONG
        box = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, linewidth=0, facecolor=color, alpha=0.1 + 0.5 * share)
        axes.add_patch(box)
        text = f"{counts[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8 if size <= 12 else 6.5, color=ON_WHITE.text)
    turned = max(map(len, names)) * 0.075 > side
    axes.set_xticks(range(size), names, rotation=90 if turned else 0)
    axes.set_yticks(range(size), names)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("answer", color=ON_WHITE.text)
    axes.set_ylabel("true", color=ON_WHITE.text)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def top_confusions(outcome: Outcome) -> list[tuple[int, int, int, float]]:
    """True label, given label, rows, and their share of the true label's rows; the most frequent first."""
    if outcome.confusion is None:
        return []
    wrong = outcome.confusion - np.diag(np.diag(outcome.confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_BARS]
    found = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if count := int(wrong[row, column]):
            found.append((int(row), int(column), count, count / int(outcome.confusion[row].sum())))
    return found


def draw_confusions(found: Sequence[tuple[int, int, int, float]], labels: Sequence[str]) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    names = legible(labels)
    figure, axes = one_plot(0.75 + 0.29 * len(found), 0.55 + 0.072 * widest(found, names), 0.42, right=0.95, top=0.08)
    axes.barh(range(len(found)), [count for _, _, count, _ in found], height=0.62, color=WRONG, alpha=0.55)
    axes.set_yticks(range(len(found)), [f"{names[row]} → {names[column]}" for row, column, _, _ in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    for place, (_, _, count, share) in enumerate(found):
        beside(axes, 1.015, place, f"{count}  ({100 * share:.0f} %)", ON_WHITE.text)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("rows", color=ON_WHITE.text)
    return figure


def widest(found: Sequence[tuple[int, int, int, float]], names: Sequence[str]) -> int:
    return max(len(names[row]) + len(names[column]) for row, column, _, _ in found)


def draw_labels(outcome: Outcome) -> "Figure":
    """Recall and precision of up to 20 labels, those with the worst recall."""
    worst = outcome.classes[:HEAT_LABELS]
    names = legible([item.label for item in worst])
    figure, axes = one_plot(0.95 + 0.29 * len(worst), 0.35 + 0.075 * max(map(len, names)), 0.4, right=0.9, top=0.4)
    for place, item in enumerate(worst):
        recall, precision = item.recall or 0.0, item.precision
        if precision is not None:
            axes.plot([recall, precision], [place, place], color=ON_WHITE.faint, linewidth=1.2, alpha=0.6, zorder=1)
            dot(axes, [precision], [place], PASSED, "precision" if place == 0 else "")
        dot(axes, [recall], [place], CHOSEN, "recall" if place == 0 else "")
        beside(axes, 1.02, place, f"{item.n:,} rows", ON_WHITE.faint)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(worst) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    percent(axes.xaxis)
    legend(axes, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure


def draw_numbers(outcome: Outcome) -> "Figure":
    from matplotlib.ticker import LogLocator

    if outcome.numbers is None:
        raise ValueError("there are no numbers")
    points = outcome.numbers[:MOST_POINTS]
    low, high = float(points.min()), float(points.max())
    letters = max(len(plain_number(value)) for value in (low, high, (low + high) / 2))
    figure, axes = one_plot(4.6, 0.55 + 0.085 * letters, 0.5, right=2.9)
    margin = 0.04 * ((high - low) or 1.0)
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=ON_WHITE.faint, linewidth=1, linestyle=(0, (5, 3)))
    axes.plot(points[:, 0], points[:, 1], "o", color=CHOSEN, markersize=4, alpha=0.45, markeredgewidth=0)
    axes.set(xlim=ends, ylim=ends)
    if outcome.logarithmic and low > 0:
        scale = (low / 1.15, high * 1.15)
        axes.set(xscale="log", yscale="log", xlim=scale, ylim=scale)
        if high < WIDE * low:  # one power of ten or none lies between
            for one in (axes.xaxis, axes.yaxis):
                one.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.locator_params(nbins=6)
    for one in (axes.xaxis, axes.yaxis):
        one.set_major_formatter(lambda value, _: plain_number(value))
        one.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel("true", color=ON_WHITE.text)
    axes.set_ylabel("answer", color=ON_WHITE.text)
    return figure


def draw_precision(curves: Curves) -> "Figure":
    """Precision against recall of up to `MOST_CURVES` labels; the dot is what the model reports."""
    figure, axes = one_plot(3.4, 0.8, 0.5, right=2.6)
    colors = (CHOSEN, PASSED, PARENT, WRONG)
    names = list(curves.by_label)[:MOST_CURVES]
    for number, (name, shown) in enumerate(zip(names, legible(names), strict=True)):
        precision, color = curves.by_label[name], colors[number % len(colors)]
        style = "-" if number < len(colors) else (0, (4, 2))
        label = f"{shown}, AP50 {float(precision.mean()):.3f}"
        recall = np.linspace(0, 1, len(precision))
        axes.plot(recall, precision, color=color, linewidth=1.6, linestyle=style, label=label)
        if name in curves.reported:
            axes.plot(*([part] for part in curves.reported[name]), "o", color=color, markersize=7)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.04))
    axes.set_xlabel("recall", color=ON_WHITE.text)
    axes.set_ylabel("precision", color=ON_WHITE.text)
    percent(axes.xaxis)
    percent(axes.yaxis)
    legend(axes, loc="upper left", bbox_to_anchor=(1.03, 1.0))
    return figure


def draw_reliability(outcome: Outcome) -> "Figure":
    """Accuracy against confidence before and after the calibration, above how many answers have such a confidence."""
    height = 4.3
    figure = blank(height)
    axes = look(figure.add_axes((0.09, 0.34, 0.6, 0.62)))
    below = look(figure.add_axes((0.09, 0.115, 0.6, 0.16)))
    axes.plot([0, 1], [0, 1], color=ON_WHITE.faint, linewidth=1, linestyle=(0, (5, 3)), label="honest")
    same = outcome.before == outcome.after
    if outcome.before is not None and not same:
        line(axes, outcome.before, PARENT, "before calibration")
    if outcome.after is not None:
        line(axes, outcome.after, CHOSEN, "as it answers")
        width = 0.8 / 15
        below.bar(outcome.after.confidence, outcome.after.rows, width=width, color=CHOSEN, alpha=0.5)
    for one in (axes, below):
        one.set_xlim(0, 1.02)
        percent(one.xaxis)
    axes.set_ylim(0, 1.04)
    axes.tick_params(labelbottom=False)
    percent(axes.yaxis)
    below.set_yscale("log")
    below.yaxis.set_major_formatter(plain_numbers())
    below.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_ylabel("right" if outcome.labels else "came true", color=ON_WHITE.text)
    below.set_ylabel("answers", color=ON_WHITE.text)
    below.set_xlabel("confidence" if outcome.labels else "risk", color=ON_WHITE.text)
    legend(axes, loc="upper left", bbox_to_anchor=(1.03, 1.0))
    return figure


def line(axes: "Axes", found: Reliability, color: str, name: str) -> None:
    """Bins as dots whose areas grow with their rows: what few rows say is small."""
    label = f"{name}\nECE {100 * found.ece:.1f} %, Brier {found.brier:.3f}"
    areas = 8 + 90 * np.sqrt(np.asarray(found.rows) / max(found.rows))
    axes.plot(found.confidence, found.accuracy, "-", color=color, linewidth=1.2, alpha=0.6)
    axes.scatter(found.confidence, found.accuracy, s=areas, color=color, alpha=0.8, linewidths=0, label=label, zorder=3)


def draw_history(history: Sequence[Sequence[tuple[int, float]]]) -> "Figure":
    """Score on held-out rows after each epoch, one line a fit; the epoch that was kept is ringed."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = one_plot(2.9, 0.8, 0.5)
    for fit in history:
        steps, scores = zip(*fit, strict=True)
        best = int(np.argmax(scores))
        axes.plot(
            steps, scores, "o-", color=CHOSEN, linewidth=1.5, markersize=4, alpha=1.0 if len(history) == 1 else 0.6
        )
        axes.plot(
            [steps[best]], [scores[best]], "o", color=CHOSEN, markersize=11, fillstyle="none", markeredgewidth=1.5
        )
    axes.set_xlabel("updates of the weights", color=ON_WHITE.text)
    axes.set_ylabel("score on held-out rows", color=ON_WHITE.text)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(plain_numbers())
    percent(axes.yaxis)
    return figure


def draw_curve(curve: Mapping[str, Any]) -> "Figure":
    """The baseline's score by the rows it learnt from, and what twice the rows are expected to bring."""
    figure, axes = one_plot(2.9, 0.8, 0.5)
    sizes, scores = [float(size) for size in curve["sizes"]], [float(score) for score in curve["scores"]]
    axes.plot(sizes, scores, "o-", color=PASSED, linewidth=1.6, markersize=6, label="the baseline, measured")
    more, last = 2 * sizes[-1], scores[-1]
    low, high = (min(last + float(bound), 1.0) for bound in curve["ci"])
    hoped = min(last + float(curve["gain"]), 1.0)
    axes.plot([sizes[-1], more], [last, hoped], color=CHOSEN, linewidth=1.4, linestyle=(0, (4, 2)))
    axes.plot([more, more], [low, high], color=CHOSEN, linewidth=5, alpha=0.3, solid_capstyle="round")
    axes.plot([more], [hoped], "o", color=CHOSEN, markersize=7, label="twice the rows, expected, with its interval")
    axes.set_xscale("log", base=2)
    axes.set_xticks([*sizes, more], [f"{size:,.0f}" for size in [*sizes, more]])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("rows learnt from", color=ON_WHITE.text)
    metric = str(curve.get("metric", "accuracy"))
    named = CURVE_METRICS.get(metric, metric)
    axes.set_ylabel(f"{named} on held-out rows", color=ON_WHITE.text)
    if metric == "accuracy":
        percent(axes.yaxis)
    legend(axes, loc="lower right")
    return figure
