"""What the verbs give back: plain facts, the same in Python, in `--json` and in a notebook."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from budwood.core.report import ShrinkReport, html_table

__all__ = ["Adapted", "Baseline", "Compared", "Diagnosed", "Evaluated", "Planned", "Shrunk"]

Span = tuple[float, float]


def facts(result: Any) -> dict[str, Any]:
    """A result as JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(result).items()}


@dataclass(frozen=True)
class Baseline:
    """The frozen encoder with a linear head, on the same test rows."""

    method: str
    score: float
    ci: Span
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Span] = field(default_factory=dict)
    """As of `Adapted`."""


@dataclass(frozen=True)
class Adapted:
    """A published model, what it scored on rows that the training never saw, and how it compares with the baseline."""

    name: str
    version: int
    id: str
    path: Path
    report: Path
    """The page with all that was measured, in the bundle."""
    task: str
    base: str
    method: str
    metric: str
    score: float
    ci: Span
    n_train: int
    n_test: int
    baseline: Baseline
    verdict: str
    seconds: float
    peak_memory_mb: float
    energy_wh: float
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    split: str = ""
    """How the test rows were set apart, where a score means little without it."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further metrics on the same rows."""
    intervals: Mapping[str, Span] = field(default_factory=dict)
    """95 % intervals of those that are printed beside the score."""
    unlabelled: Mapping[str, Any] | None = None
    """Of rows without labels: how many `rows` there were, how many were `added`, `per_class`, the `threshold` of the
    probability, the `gain` on held-out rows with its `gain_ci` and `p`, and whether that model was `shipped`."""

    def to_json(self) -> dict[str, Any]:
        return facts(self)

    def _repr_html_(self) -> str:
        return html_table(
            ("model", "method", self.metric, "95 % interval", "baseline", "seconds"),
            [
                (
                    f"{self.name}:{self.version}",
                    self.method,
                    f"{self.score:.4f}",
                    f"{self.ci[0]:.4f} to {self.ci[1]:.4f}",
                    f"{self.baseline.score:.4f}",
                    f"{self.seconds:.0f}",
                )
            ],
        )


@dataclass(frozen=True)
class Planned:
    """What `adapt` would do and cost, estimated from a probe on this machine."""

    task: str
    base: str
    license: str
    parameters: int
    method: str
    why: str
    rows: Mapping[str, int]
    seconds: float
    """Expected of the whole run, within the minutes that were granted."""
    seconds_wanted: float
    """Expected without a limit: what the method's full number of epochs takes."""
    fits: bool
    """Whether the minutes that were granted are enough for that."""
    stages: Mapping[str, float]
    memory_mb: float
    """Peak of the probe, which holds the model with its gradients."""
    energy_wh: float
    co2_g: float
    energy_method: str
    curve: Mapping[str, Any] | None
    """The baseline's learning curve (`sizes`, `scores`) and the `gain` of twice the labels with its `ci`."""
    probe_seconds: float
    cores: int

    def to_json(self) -> dict[str, Any]:
        return facts(self)

    def _repr_html_(self) -> str:
        rows = [(name, f"{seconds:.0f} s") for name, seconds in self.stages.items()]
        return html_table(("stage", "expected"), [*rows, ("together", f"{self.seconds:.0f} s")])


@dataclass(frozen=True)
class Evaluated:
    """A model's score on labelled rows."""

    metric: str
    score: float
    ci: Span
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Span] = field(default_factory=dict)
    """95 % intervals of those metrics that have one."""

    def to_json(self) -> dict[str, Any]:
        return facts(self)

    def _repr_html_(self) -> str:
        interval = f"{self.ci[0]:.4f} to {self.ci[1]:.4f}"
        return html_table((self.metric, "95 % interval", "rows"), [(f"{self.score:.4f}", interval, str(self.n))])


@dataclass(frozen=True)
class Compared:
    """Two models on the same rows; `difference` is B minus A."""

    metric: str
    a: float
    b: float
    difference: float
    ci: Span
    p: float
    n: int
    n_differ: int
    rows: Sequence[Mapping[str, Any]]
    """The rows on which one is right and the other wrong: number, input, label and both answers."""
    rows_seen_in_training: Mapping[str, int] = field(default_factory=dict)
    """How many of the rows `a` and `b` learnt from or were chosen by; left out where the store cannot tell."""

    def to_json(self) -> dict[str, Any]:
        return facts(self)

    def _repr_html_(self) -> str:
        interval = f"{self.ci[0]:+.4f} to {self.ci[1]:+.4f}"
        cells = (f"{self.a:.4f}", f"{self.b:.4f}", f"{self.difference:+.4f}", interval, f"{self.p:.3g}", str(self.n))
        return html_table(("A", "B", "B - A", "95 % interval", "p", "rows"), [cells])


@dataclass(frozen=True)
class Shrunk:
    """The candidates of a shrink, and the version that was published when one met the budget."""

    report: ShrinkReport
    name: str | None
    version: int | None
    id: str | None
    path: Path | None
    plot: Path | None
    """The Pareto picture: in the bundle, or in the work folder when nothing was published."""
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def within_budget(self) -> bool:
        return self.report.within_budget

    def to_json(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "report"}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}
        return self.report.to_json() | plain

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True)
class Diagnosed:
    """What the data doctor found."""

    findings: Sequence[Any]
    notes: Sequence[str]
    facts: Mapping[str, Any]
    fixed: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
            "facts": dict(self.facts),
            "fixed": str(self.fixed) if self.fixed else None,
        }

    def _repr_html_(self) -> str:
        rows = [(item.severity, item.kind, item.message, item.fix) for item in self.findings]
        return html_table(("severity", "kind", "what", "fix"), rows)
