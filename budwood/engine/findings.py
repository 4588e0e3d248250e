"""What the data doctor found: a frozen record a finding, as text for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from budwood.engine.table import Place

__all__ = ["IMBALANCE", "LEAK_GATE", "NO_LABEL", "Finding", "Severity", "as_text", "gravest_first"]

Severity = Literal["error", "warning", "info"]
"""error: training on it would mislead; warning: it costs accuracy or trust; info: good to know."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
IMBALANCE = 20
"""The largest class over the smallest from which accuracy alone misleads."""
NO_LABEL = "there is no label"
"""Why an image was left out that can be read."""
LEAK_GATE = 0.01
"""Share of the test rows that may be leaked before it is an error: more would flatter the score visibly."""


@dataclass(frozen=True)
class Finding:
    kind: str
    """One of: broken_line, empty_text, empty_label, single_class, duplicate, near_duplicate, conflict, leakage,
    near_leakage, rare_class, imbalance, label_spelling, similar_labels, unknown_class, too_long, label_error;
    of texts without labels also little_text, too_short, mojibake, control, markup; of molecules also unparsable_smiles,
    unusable_label, salt; of images broken_image, tiny_image; of numbers
    not_a_number, placeholder, impossible_value, outlier, bad_time, few_events; of boxes
    broken_annotation, image_size, box_convention, box_inverted, box_outside, box_over_edge, box_tiny, box_duplicate,
    box_conflict, no_objects, no_annotation; of this machine torchvision, missing_extra, missing_base."""
    severity: Severity
    message: str
    rows: tuple[Place, ...] = ()
    """All rows that it concerns; where `fixable`, those that `mend` drops or changes."""
    fix: str = ""
    fixable: bool = False
    """Whether `mend` repairs it without asking."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """For label_spelling: the variant and the spelling that replaces it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "severity": self.severity,
            "message": self.message,
            "rows": [{"source": place.source, "number": place.number} for place in self.rows],
            "fix": self.fix,
            "fixable": self.fixable,
            "rename": dict(self.rename),
        }


def gravest_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def as_text(findings: Sequence[Finding], limit: int = 10) -> str:
    """The findings with at most `limit` rows each, for a terminal."""
    if not findings:
        return "No findings: the data looks healthy."
    return "\n".join(line for finding in findings for line in finding_lines(finding, limit))


def finding_lines(finding: Finding, limit: int) -> list[str]:
    lines = [f"{finding.severity}: {finding.message} [{finding.kind}]"]
    if finding.rows:
        more = f", and {len(finding.rows) - limit:,} more" if len(finding.rows) > limit else ""
        lines.append(f"  rows: {', '.join(map(str, finding.rows[:limit]))}{more}")
    if finding.fix:
        lines.append(f"  fix: {finding.fix}{' (done by --fix)' if finding.fixable else ''}")
    return lines
