"""What was measured of one model, or of a parent and its shrunk candidates, on one machine: plain numbers.

Frozen dataclasses that go into `bundle.json`, `--json`, the plot and the model card, and show themselves in a notebook.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from budwood.core.budget import Budget
from budwood.core.errors import BundleError, UsageError

__all__ = ["Candidate", "ClassChange", "ShrinkReport", "Speed", "html_table"]

Span = tuple[float, float]


@dataclass(frozen=True)
class Speed:
    """End-to-end speed (encode, run, decode) of one model beside a reference in the same minutes on this machine."""

    p50_ms: float
    """Median time of a single row, in milliseconds."""
    p95_ms: float
    items_per_s: float
    """Rows a second in batches of `batch_size`."""
    size_mb: float
    """What a server loads, in megabytes (10^6 bytes)."""
    memory_mb: float | None
    """Resident memory of a fresh process that serves this model alone, in megabytes; None when it was not measured."""
    memory_growth_mb: float | None
    """How much of `memory_mb` came with opening and using the model."""
    samples: int
    """Single rows that were timed."""
    ratio: float
    """How many times as fast as the reference with single rows: the median over interleaved blocks."""
    ratio_ci: Span
    """95 % interval of that median."""
    batch_ratio: float
    """How many times as fast as the reference with batches."""
    batch_ratio_ci: Span
    noise: float
    """How far from 1 the reference may seem to be from itself (single rows); no smaller difference is ranked."""
    batch_noise: float
    threads: int
    batch_size: int

    @property
    def rank(self) -> Literal["faster", "slower", "equal"]:
        """Against the reference with single rows; `equal` when the difference is within the noise."""
        if self.ratio_ci[0] > 1 and self.ratio > 1 + self.noise:
            return "faster"
        if self.ratio_ci[1] < 1 and self.ratio < 1 - self.noise:
            return "slower"
        return "equal"


@dataclass(frozen=True)
class Candidate:
    """One way to shrink a model, measured; the field names are the keys of `shrink --json`. None: not measured."""

    recipe: str
    score: float | None = None
    ci: Span | None = None
    drop: float | None = None
    """The parent's score minus this one, on the same rows."""
    drop_ci: Span | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    items_per_s: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    within_budget: bool = False
    why: str = ""
    """Why it is, or is not, within the budget."""
    verdict: Literal["PASS", "FAIL", "UNDECIDED"] | None = None
    rows_needed: int | None = None
    """Rows that would decide an UNDECIDED with 80 % power."""
    flips: float | None = None
    """Share of rows whose score changed, in either direction."""
    ratio: float | None = None
    """How many times as fast as the parent with single rows."""
    ratio_ci: Span | None = None
    batch_ratio: float | None = None
    rank: Literal["faster", "slower", "equal"] | None = None
    noise: float | None = None
    """The A/A control: differences of speed below this share are not ranked."""
    rung: int | None = None
    """Where it stood in the search: 0 runtime, 1 smaller base, 2 quantized, 3 cut, 4 cut and quantized, 5 trained to be
    quantized, 6 packed."""
    finalist: bool = False
    """Whether its test could decide; settled before the test rows were opened."""
    validation_drop: float | None = None
    """The drop on the validation rows that it was picked by."""
    control_drop: float | None = None
    """The drop against the dense control: the parent, trained on for as long as this candidate was."""
    control_drop_ci: Span | None = None
    energy_wh_per_1000: float | None = None
    """Energy of a thousand rows in batches, in watt-hours, from their time and an assumed power of a core."""
    load_s: float | None = None
    """Seconds to open it, in a process that has everything imported."""
    notes: tuple[str, ...] = ()
    """What its steps decided, such as the layers that stay in float."""

    def to_json(self) -> dict[str, Any]:
        """Every field; tuples become lists and a number that is not finite becomes None."""
        return {name: plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ClassChange:
    """What one class lost: scores of the parent and of the chosen candidate on its test rows."""

    label: str
    n: int
    parent: float
    child: float
    p: float
    """Of no loss, one-sided; corrected for the number of classes (Holm)."""

    @property
    def drop(self) -> float:
        return self.parent - self.child

    def with_p(self, p: float) -> Self:
        return replace(self, p=p)


@dataclass(frozen=True)
class ShrinkReport:
    """The parent, every candidate, and which one was chosen."""

    reference: Candidate
    candidates: tuple[Candidate, ...]
    chosen: str | None
    """The recipe that was chosen; None when nothing met the budget."""
    budget: Budget
    metric: str
    n: int
    """Rows of the locked test, which neither training nor selection saw."""
    seed: int = 0
    machine: Mapping[str, Any] = field(default_factory=dict)
    control: Candidate | None = None
    """The dense control; None where nothing that was trained came to the test."""
    classes: tuple[ClassChange, ...] = ()
    """What each class lost by the chosen candidate, the largest loss first."""
    validation_rows: int = 0
    """Rows of the search: candidates were picked by them, and not by the test rows."""
    openings: int = 1
    """How often the test rows were opened for this parent: a budget that is changed until one fits proves less."""
    stopped: str = ""
    """Why the search ended."""
    command: str = ""
    """What makes the chosen model again."""

    @property
    def within_budget(self) -> bool:
        return any(item.recipe == self.chosen and item.within_budget for item in self.candidates)

    def to_json(self) -> dict[str, Any]:
        return {
            "chosen": self.chosen,
            "within_budget": self.within_budget,
            "reference": self.reference.to_json(),
            "candidates": [item.to_json() for item in self.candidates],
            "budget": asdict(self.budget),
            "metric": self.metric,
            "n": self.n,
            "seed": self.seed,
            "machine": dict(self.machine),
            "control": self.control.to_json() if self.control else None,
            "classes": [asdict(item) for item in self.classes],
            "validation_rows": self.validation_rows,
            "openings": self.openings,
            "stopped": self.stopped,
            "command": self.command,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; further keys, such as `name` and `path` of the command's output, are ignored.

        Raises:
            BundleError: a key is missing or of the wrong type.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(values))
        except (ValidationError, UsageError) as error:
            raise BundleError("not the report of a shrink", where=str(error).splitlines()[0]) from error

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers and rows as text, the parent first: for the terminal, the notebook and the model card."""
        headers = [
            "model",
            self.metric,
            "drop, points",
            "p50 ms",
            "p95 ms",
            "speed",
            "items/s",
            "MB",
            "RAM MB",
            "result",
        ]
        rows = (self.reference, *((self.control,) if self.control else ()), *self.candidates)
        return headers, [table_row(item, item.recipe == self.chosen) for item in rows]

    @property
    def chosen_candidate(self) -> Candidate | None:
        return next((item for item in self.candidates if item.recipe == self.chosen), None)

    def won(self) -> str:
        """What the chosen candidate costs beside its parent, in one line; empty where none was chosen."""
        new, old = self.chosen_candidate, self.reference
        if new is None:
            return ""
        figures = (
            ("p50", old.p50_ms, new.p50_ms, "ms"),
            ("items", old.items_per_s, new.items_per_s, "a second"),
            ("size", old.size_mb, new.size_mb, "MB"),
            ("memory", old.memory_mb, new.memory_mb, "MB"),
            ("energy", old.energy_wh_per_1000, new.energy_wh_per_1000, "Wh for 1,000 rows"),
        )
        parts = [
            f"{name} from {a:,.4g} to {b:,.4g} {unit}"
            for name, a, b, unit in figures
            if a is not None and b is not None
        ]
        return "; ".join(parts)

    def _repr_html_(self) -> str:
        headers, rows = self.table()
        return html_table(headers, rows, caption=f"shrink: {self.metric} on {self.n} rows") + scatter(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        headers, rows = self.table()
        text = "\n".join("  ".join(cells) for cells in [headers, *rows])
        return {"text/plain": text, "text/html": self._repr_html_()}


def table_row(item: Candidate, chosen: bool) -> list[str]:
    drop = number(item.drop and 100 * item.drop, 2)
    if item.drop_ci:
        drop += f" [{100 * item.drop_ci[0]:.2f}, {100 * item.drop_ci[1]:.2f}]"
    return [
        item.recipe,
        number(item.score and 100 * item.score, 2),
        drop,
        number(item.p50_ms, 2),
        number(item.p95_ms, 2),
        f"{item.ratio:.2f}x" if item.ratio is not None else "",
        number(item.items_per_s, 0),
        number(item.size_mb, 1),
        number(item.memory_mb, 0),
        "chosen" if chosen else outcome(item),
    ]


def outcome(item: Candidate) -> str:
    if item.verdict is None:
        return item.why
    if item.verdict == "PASS" and not item.within_budget:
        return item.why.split("; ")[0]
    return f"{item.verdict}, slower" if item.rank == "slower" else item.verdict


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A small table for notebooks: everything escaped, no script, readable on light and dark."""
    cell = 'style="padding:2px 10px;text-align:left;border-bottom:1px solid rgba(128,128,128,.3)"'
    head = "".join(f"<th {cell}>{escape(text)}</th>" for text in headers)
    body = "".join("<tr>" + "".join(f"<td {cell}>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    title = f'<caption style="text-align:left;opacity:.7">{escape(caption)}</caption>' if caption else ""
    return f'<table style="border-collapse:collapse">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def scatter(report: ShrinkReport) -> str:
    """Score against p50 as a small inline SVG; each point tells its name when one hovers over it."""
    points = [item for item in (report.reference, *report.candidates) if item.score is not None and item.p50_ms]
    if not points:
        return ""
    width, height, edge = 420, 200, 24
    across = [math.log(item.p50_ms or 1.0) for item in points]
    up = [item.score or 0.0 for item in points]
    parts = []
    for item, x, y in zip(points, place(across, edge, width - edge), place(up, height - edge, edge), strict=True):
        fill = "#2e7d32" if item.recipe == report.chosen else "#888" if item is report.reference else "none"
        title = escape(f"{item.recipe}: {100 * (item.score or 0):.2f} at {item.p50_ms:.2f} ms")
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="{fill}" stroke="#888" stroke-width="1.5">'
        parts.append(f"{circle}<title>{title}</title></circle>")
    label = f'<text x="{edge}" y="{height - 4}" font-size="11" fill="#888">'
    parts.append(f"{label}{escape(report.metric)} (up) against p50 ms (right, logarithmic)</text>")
    return f'<svg width="{width}" height="{height}" role="img" aria-label="candidates">{"".join(parts)}</svg>'


def place(values: Sequence[float], start: float, end: float) -> list[float]:
    low, high = min(values), max(values)
    return [start + (end - start) * (0.5 if high == low else (value - low) / (high - low)) for value in values]
