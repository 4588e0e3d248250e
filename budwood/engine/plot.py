"""The picture of a shrink: score against latency, each candidate with its name, refused ones hollow with the reason.

Writes `pareto.svg` (transparent, readable on light and dark) and `pareto.png` (on a card of its own).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, pi, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budwood.core.errors import require
from budwood.core.report import Candidate, ShrinkReport
from budwood.engine.labels import Box, Spot, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto"]

WIDTH, HEIGHT = 9.2, 5.2
"""Inches."""
DPI = 160
CARD = "#ffffff"
CHOSEN, PASSED, PARENT = "#1f8a4c", "#3d7fc1", "#a8722a"
"""Mid tones: a contrast above 3.5 on white and on near-black, so no style sheet has to guess the background."""
LOG_ABOVE = 5.0
"""From this ratio of the slowest to the fastest on, the latency axis is logarithmic."""
LARGEST_AREA, SMALLEST_AREA = 800.0, 30.0
"""Marker areas in square points."""
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "budwood",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "text.hinting": "none",
}


@dataclass(frozen=True)
class Ink:
    """Colours of texts and lines, for the background that they are on."""

    text: str
    faint: str


ON_ANY = Ink(text="#767b81", faint="#858a91")
ON_WHITE = Ink(text="#30363d", faint="#7a8088")


@dataclass(frozen=True)
class Point:
    """A measured candidate as it is drawn: score and interval in percent, latency in ms, area in square points."""

    item: Candidate
    x: float
    y: float
    low: float
    high: float
    area: float
    color: str
    hollow: bool
    detail: str

    @property
    def radius(self) -> float:
        return sqrt(self.area / pi)


def pareto(report: ShrinkReport, folder: Path, name: str = "") -> tuple[Path, Path]:
    """Draw a report into `folder` as `pareto.svg` and `pareto.png`; the same report always gives the same bytes.

    Latency is p95 when the budget limits it, otherwise p50. Candidates that were not measured are left out.

    Args:
        name: the model's name, for the title.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="train")
    svg, png = folder / "pareto.svg", folder / "pareto.png"
    facts = {"Title": heading(name), "Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(STYLE):
        draw(report, name, ON_ANY).savefig(svg, format="svg", transparent=True, metadata=facts)
        figure = draw(report, name, ON_WHITE)
        figure.patch.set_linewidth(1.2)
        figure.savefig(png, format="png", facecolor=CARD, edgecolor="#d5d9de", metadata={"Software": None})
    return svg, png


def draw(report: ShrinkReport, name: str, ink: Ink) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.075, 0.135, 0.9, 0.65))
    use_p95 = report.budget.max_p95_ms is not None
    points = points_of(report, use_p95, ink)
    set_limits(axes, report, points)
    set_look(axes, "p95" if use_p95 else "p50", ink)
    draw_budget(axes, report)
    frontier = draw_frontier(axes, points, ink)
    for point in points:
        draw_point(axes, point)
    figure.canvas.draw()
    write_labels(axes, points, frontier, ink)
    write_heading(figure, report, name, ink)
    return figure


def points_of(report: ShrinkReport, use_p95: bool, ink: Ink) -> list[Point]:
    """The measured ones, the parent first; marker areas are in proportion to the megabytes."""
    known = [item for item in (report.reference, *report.candidates) if item.score is not None and item.p50_ms]
    largest = max((item.size_mb or 0.0 for item in known), default=0.0) or 1.0
    points = []
    for item in known:
        latency, score = (item.p95_ms if use_p95 else item.p50_ms) or 0.0, item.score or 0.0
        low, high = item.ci or (score, score)
        color = PARENT if item is report.reference else CHOSEN if item.recipe == report.chosen else PASSED
        hollow = not item.within_budget and item is not report.reference
        points.append(
            Point(
                item=item,
                x=latency,
                y=100 * score,
                low=100 * low,
                high=100 * high,
                area=max(SMALLEST_AREA, LARGEST_AREA * (item.size_mb or 0.0) / largest),
                color=ink.faint if hollow else color,
                hollow=hollow,
                detail=detail(item, report),
            )
        )
    return points


def detail(item: Candidate, report: ShrinkReport) -> str:
    """What stands below the name: how much faster and how large, or why it is refused. The axes tell the rest."""
    if not item.within_budget and item is not report.reference:
        return reason(item, report)
    parts = [f"{item.ratio:.1f}x speed"] if item.ratio is not None and item is not report.reference else []
    parts += [f"{item.size_mb:.3g} MB"] if item.size_mb is not None else []
    return "  ·  ".join(parts)


def reason(item: Candidate, report: ShrinkReport) -> str:
    budget = report.budget
    if item.verdict == "FAIL":
        return f"refused: drop of {100 * (item.drop or 0):.1f} points"
    if budget.max_p95_ms is not None and item.p95_ms is not None and item.p95_ms > budget.max_p95_ms:
        return f"refused: p95 above {budget.max_p95_ms:g} ms"
    if budget.max_mb is not None and item.size_mb is not None and item.size_mb > budget.max_mb:
        return f"refused: above {budget.max_mb:g} MB"
    if item.verdict == "UNDECIDED":
        return f"undecided: needs {item.rows_needed:,} rows" if item.rows_needed else "undecided"
    if item.why.startswith("against the parent"):
        return f"refused: {100 * (item.control_drop or 0):.1f} points below the control"
    if item.why.startswith("class "):
        return "refused: a class lost too much"
    if item.rank == "slower":
        return "refused: slower"
    return "not tested" if item.rung and not item.finalist else "refused"


def set_limits(axes: "Axes", report: ShrinkReport, points: Sequence[Point]) -> None:
    """Room for all points, the budget and the labels; a logarithmic latency axis where the latencies differ much."""
    across = [point.x for point in points] + ([report.budget.max_p95_ms] if report.budget.max_p95_ms else [])
    across = across or [1.0]
    up = [value for point in points for value in (point.low, point.high)]
    up += [100 * (report.reference.score - report.budget.max_drop)] if report.reference.score is not None else []
    up = up or [0.0, 100.0]
    if max(across) / min(across) > LOG_ABOVE:
        axes.set_xscale("log")
        reach = (max(across) / min(across)) ** 0.16
        axes.set_xlim(min(across) / reach, max(across) * reach**1.5)
    else:
        reach = max(across) - min(across) or max(across)
        axes.set_xlim(max(0.0, min(across) - 0.22 * reach), max(across) + 0.26 * reach)
    height = max(up) - min(up) or 1.0
    axes.set_ylim(min(up) - 0.16 * height, max(up) + 0.14 * height)


def set_look(axes: "Axes", latency: str, ink: Ink) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(LogLocator(base=10, subs=tuple(range(1, 10))))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel(f"{latency} of one row, end to end (ms)", color=ink.text, labelpad=6)
    axes.set_facecolor("none")
    axes.tick_params(which="both", color=ink.faint, labelcolor=ink.text, length=3, width=0.7)
    axes.grid(which="major", color=ink.faint, alpha=0.22, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=ink.faint, linewidth=0.8)


def draw_budget(axes: "Axes", report: ShrinkReport) -> None:
    """Shade what the budget allows: left of the latency limit, above the parent's score less the largest drop."""
    from matplotlib.patches import Rectangle

    if report.reference.score is None:
        return
    left, right = axes.get_xlim()
    top = axes.get_ylim()[1]
    floor = 100 * (report.reference.score - report.budget.max_drop)
    limit = min(report.budget.max_p95_ms or right, right)
    box = Rectangle((left, floor), limit - left, top - floor, linewidth=0, facecolor=CHOSEN, alpha=0.09)
    box.set_zorder(0.5)
    axes.add_patch(box)
    corner = [(left, floor), (limit, floor)] + ([(limit, top)] if limit < right else [])
    edge: dict[str, Any] = {"color": CHOSEN, "linewidth": 1.0, "linestyle": (0, (5, 3)), "alpha": 0.8, "zorder": 0.6}
    axes.plot([x for x, _ in corner], [y for _, y in corner], **edge)


def draw_frontier(axes: "Axes", points: Sequence[Point], ink: Ink) -> list[Point]:
    """A thin line through those that no other one beats in both score and latency."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one.x, -one.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    dots: dict[str, Any] = {"color": ink.faint, "linewidth": 1.1, "alpha": 0.7, "linestyle": (0, (1, 2)), "zorder": 1.5}
    axes.plot([point.x for point in best], [point.y for point in best], **dots)
    return best


def draw_point(axes: "Axes", point: Point) -> None:
    face = "none" if point.hollow else point.color
    marker: dict[str, Any] = {"facecolor": face, "edgecolor": point.color, "linewidth": 1.4, "zorder": 4}
    axes.scatter([point.x], [point.y], s=point.area, alpha=0.9, **marker)


def write_labels(axes: "Axes", points: Sequence[Point], frontier: Sequence[Point], ink: Ink) -> None:
    unit = axes.figure.dpi / 72
    spots, markers, lines = [], [], []
    for point in points:
        x, y = axes.transData.transform((point.x, point.y))
        low, high = (axes.transData.transform((point.x, end))[1] for end in (point.low, point.high))
        around = point.radius * unit + unit
        spots.append(Spot(x, y, point.radius * unit, *label_size(axes, point)))
        markers.append(Box(x - around, y - around, x + around, y + around))
        lines.append(Box(x - 3 * unit, low, x + 3 * unit, high))
    frame = axes.get_window_extent()
    inside = Box(frame.x0 + 4 * unit, frame.y0 + 4 * unit, frame.x1 + 8 * unit, frame.y1)
    corners = [axes.transData.transform((point.x, point.y)) for point in frontier]
    boxes = place(spots, markers, lines + pieces(corners, unit), inside, unit)
    for point, spot, box in zip(points, spots, boxes, strict=True):
        draw_interval(axes, point, spot, boxes)
        write_label(axes, point, spot, box, ink)


def draw_interval(axes: "Axes", point: Point, spot: Spot, boxes: Sequence[Box]) -> None:
    """The error bar, fainter where it runs behind a label."""
    low, high = (float(axes.transData.transform((point.x, end))[1]) for end in (point.low, point.high))
    behind = [(box.bottom, box.top) for box in boxes if box.left - 2 < spot.x < box.right + 2]
    cuts = sorted({low, high, *(min(max(end, low), high) for pair in behind for end in pair)})
    back = axes.transData.inverted().transform
    for start, end in itertools.pairwise(cuts):
        hidden = any(bottom <= (start + end) / 2 <= top for bottom, top in behind)
        (x0, y0), (x1, y1) = back((spot.x, start)), back((spot.x, end))
        alpha = 0.16 if hidden else 0.5
        axes.plot([x0, x1], [y0, y1], color=point.color, linewidth=1.3, alpha=alpha, zorder=1.8, solid_capstyle="butt")


def label_size(axes: "Axes", point: Point) -> tuple[float, float]:
    name = axes.text(0, 0, shown_name(point), fontsize=9, fontweight="bold")
    rest = axes.text(0, 0, point.detail, fontsize=7.5, linespacing=1.25)
    one, two = name.get_window_extent(), rest.get_window_extent()
    name.remove()
    rest.remove()
    return max(one.width, two.width), one.height + two.height + 2


def pieces(corners: Sequence[Any], unit: float) -> list[Box]:
    """A line through corners as small boxes, one for every ten points of its length."""
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        count = max(1, int(hypot(x1 - x0, y1 - y0) / (10 * unit)))
        for step in range(count + 1):
            x, y = x0 + (x1 - x0) * step / count, y0 + (y1 - y0) * step / count
            boxes.append(Box(x - unit, y - unit, x + unit, y + unit))
    return boxes


def write_label(axes: "Axes", point: Point, spot: Spot, box: Box, ink: Ink) -> None:
    """The name and the figures in their box, and a thin line to the point when they are not beside it."""
    unit = axes.figure.dpi / 72
    back = axes.transData.inverted().transform
    x, y = min(max(spot.x, box.left), box.right), min(max(spot.y, box.bottom), box.top)
    distance = hypot(x - spot.x, y - spot.y)
    if distance > spot.radius + 10 * unit:
        share = (spot.radius + unit) / distance
        start = back((spot.x + (x - spot.x) * share, spot.y + (y - spot.y) * share))
        end = back((x, y))
        axes.plot([start[0], end[0]], [start[1], end[1]], color=ink.faint, linewidth=0.7, alpha=0.8, zorder=2.5)
    align = "left" if box.left >= spot.x else "right" if box.right <= spot.x else "center"
    across = {"left": box.left, "right": box.right, "center": (box.left + box.right) / 2}[align]
    style: dict[str, Any] = {"ha": align, "zorder": 6}
    color = ink.text if point.hollow else point.color
    (name_x, name_y), (rest_x, rest_y) = back((across, box.top)), back((across, box.bottom))
    axes.text(name_x, name_y, shown_name(point), fontsize=9, fontweight="bold", color=color, va="top", **style)
    axes.text(rest_x, rest_y, point.detail, fontsize=7.5, color=ink.text, va="bottom", linespacing=1.25, **style)


def write_heading(figure: "Figure", report: ShrinkReport, name: str, ink: Ink) -> None:
    metric = clean(report.metric.replace("_", " "))
    facts = f"{metric} on {report.n:,} held-out rows, 95 % intervals  ·  area: megabytes served  ·  "
    figure.text(0.028, 0.946, heading(name), fontsize=13, fontweight="bold", color=ink.text, va="center")
    figure.text(0.028, 0.892, f"{facts}hollow: not accepted", fontsize=8.3, color=ink.text, va="center")
    figure.text(0.028, 0.846, f"shaded: the budget, {report.budget}", fontsize=8.3, color=CHOSEN, va="center")
    noise = max((item.noise or 0.0 for item in report.candidates), default=0.0)
    below = [clean(str(report.machine["cpu"]))] if report.machine.get("cpu") else []
    below += [f"the parent against itself differs by up to {100 * noise:.1f} % in time"] if noise else []
    figure.text(0.975, 0.028, "  ·  ".join(below), fontsize=7, color=ink.faint, va="center", ha="right")


def heading(name: str) -> str:
    return f"{clean(name)}: smaller and faster, measured" if name else "Smaller and faster, measured"


def shown_name(point: Point) -> str:
    return clean(point.item.recipe, 34)


def clean(text: str, longest: int = 60) -> str:
    """One line of characters that the font has; anything else becomes a question mark."""
    line = "".join(char if char.isprintable() and ord(char) < 0x250 else "?" for char in " ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
