"""What the pictures of a report share: one look, margins in inches, labels that the font can write, SVG and PNG.

Each figure is drawn once and kept twice: as SVG that takes the colours of the page that it stands in, and as PNG on a
card of its own. The same figure always gives the same bytes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from budwood.engine.plot import CARD, CHOSEN, ON_ANY, ON_WHITE, PARENT, PASSED, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "WIDTH",
    "WRONG",
    "Picture",
    "beside",
    "blank",
    "dot",
    "finish",
    "inline",
    "legend",
    "legible",
    "look",
    "one_plot",
    "percent",
    "plain_numbers",
]

WIDTH = 8.0
"""Inches."""
PNG_DPI = 120
WRONG = "#c4493c"
LONGEST_LABEL = 28
COLORS = {
    **dict.fromkeys((ON_WHITE.text, ON_ANY.text), "currentColor"),
    **dict.fromkeys((ON_WHITE.faint, ON_ANY.faint), "var(--quiet)"),
    CHOSEN: "var(--good)",
    WRONG: "var(--wrong)",
    PARENT: "var(--first)",
    PASSED: "var(--second)",
}
"""What the page calls the colours of a drawing; there they are others on light and on dark."""


@dataclass(frozen=True)
class Picture:
    name: str
    """The file's stem."""
    title: str
    svg: str
    """One `<svg>` element for a page, in the page's colours."""
    png: bytes


def finish(name: str, title: str, figure: "Figure") -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    svg, png = StringIO(), BytesIO()
    facts = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(svg, format="svg", transparent=True, metadata=facts)
    figure.set(dpi=PNG_DPI, facecolor=CARD)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    return Picture(name, title, inline(svg.getvalue(), name, title), png.getvalue())


def inline(svg: str, name: str, title: str) -> str:
    """The drawing as an element of a page: with ids of its own, the page's colours, and no style sheet."""
    box = re.search(r'viewBox="[^"]*"', svg)
    if box is None:
        raise ValueError("a drawing without a view box")
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(
        r"<metadata>.*?</metadata>|<title>.*?</title>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL
    )
    body = re.sub(r"<defs>\s*</defs>\s*", "", body)
    body = re.sub(r'(?<=[ \n]id=")', f"{name}-", body)
    body = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", body)
    for color, name_there in COLORS.items():
        body = body.replace(color, name_there)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg {box[0]} role="img" aria-label="{escape(title)}">{body}'


def one_plot(
    height: float, left: float, bottom: float, *, right: float = 0.3, top: float = 0.25
) -> tuple["Figure", "Axes"]:
    """A figure of the usual width with one pair of axes; margins in inches."""
    figure = blank(height)
    box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
    return figure, look(figure.add_axes(box))


def blank(height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure


def look(axes: "Axes") -> "Axes":
    axes.set_facecolor("none")
    axes.tick_params(which="both", color=ON_WHITE.faint, labelcolor=ON_WHITE.text, length=3, width=0.7)
    axes.grid(color=ON_WHITE.faint, alpha=0.22, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=ON_WHITE.faint, linewidth=0.8)
    return axes


def percent(axis: Any, digits: int = 0) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:.{digits}f} %" if digits else f"{100 * value:g} %")
    )


def beside(axes: "Axes", x: float, y: float, text: str, color: str, *, bold: bool = False) -> None:
    """A text right of the axes, level with a value."""
    weight = "bold" if bold else "normal"
    axes.text(x, y, text, color=color, va="center", fontweight=weight, transform=axes.get_yaxis_transform())


def dot(axes: "Axes", x: Sequence[float], y: Sequence[float], color: str, label: str = "") -> None:
    axes.plot(x, y, "o", color=color, markersize=7, label=label or "_", zorder=3)


def legend(axes: "Axes", **place: Any) -> None:
    axes.legend(frameon=False, labelcolor=ON_WHITE.text, handlelength=1.6, borderaxespad=0.2, **place)


def plain_numbers() -> Callable[[float, Any], str]:
    return lambda value, _: f"{value:,.0f}"


def legible(labels: Sequence[str]) -> list[str]:
    """Labels on one line, shortened; one that the font cannot write is called by its number, from 1."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=STYLE["font.family"])))  # type: ignore[arg-type]
    found = []
    for number, label in enumerate(labels, 1):
        line = " ".join(label.split())
        line = line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…"
        known = line.isprintable() and all(font.get_char_index(ord(char)) for char in line)
        found.append(line if known and line else f"no. {number}")
    return found
