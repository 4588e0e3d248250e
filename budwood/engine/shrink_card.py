"""What a shrink has to tell, for the model card and the report page: what was done, what it cost and what it won."""

from collections.abc import Sequence

from budwood.core.report import Candidate, ClassChange, ShrinkReport
from budwood.engine.machine import WATTS_PER_CORE
from budwood.engine.markup import fenced, markdown_table, text

__all__ = ["class_table", "refusals", "sentences", "shrink_section"]

SHOWN_CLASSES = 10


def sentences(report: ShrinkReport) -> list[str]:
    """How the candidates were judged, each fact in one sentence."""
    told = [
        f"Budget: {report.budget}.",
        "A candidate passes only when the upper bound of the one-sided 95 % interval of its drop, paired on "
        f"{report.n:,} locked test rows, is below the limit; the 5 % are divided among the finalists.",
    ]
    if report.validation_rows:
        told.append(
            f"Candidates were made with the training rows and picked by time, size and {report.validation_rows:,} "
            "validation rows, before the test rows were opened."
        )
    if report.openings > 1:
        told.append(
            f"The test rows were opened {report.openings} times for this parent: each further budget that is tried on "
            "them proves a little less."
        )
    told.append("Speed is end to end, measured in turns with the parent; the parent against itself shows the noise.")
    told.append(f"Energy is time with an assumed {WATTS_PER_CORE:g} W for each core.")
    if report.control is not None:
        told.append(control_sentence(report.control))
    if chosen := report.chosen_candidate:
        told += [f"Won by {chosen.recipe}: {report.won()}."] + [f"{note}." for note in chosen.notes]
        if chosen.flips is not None:
            told.append(f"It answers {100 * chosen.flips:.1f} % of the test rows differently, right or wrong.")
    return told


def control_sentence(control: Candidate) -> str:
    gained = -100 * (control.drop or 0.0)
    return (
        f"The parent itself, trained on for as long as the candidates were, gains {gained:+.2f} points; what was "
        "trained had to pass against that one as well, so that further training hides no loss."
    )


def class_table(changes: Sequence[ClassChange]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the classes that changed the most, the largest loss first; unchanged ones are left out."""
    moved = sorted((item for item in changes if item.drop), key=lambda item: -abs(item.drop))[:SHOWN_CLASSES]
    rows = [
        [
            item.label,
            f"{100 * item.parent:.1f} %",
            f"{100 * item.child:.1f} %",
            f"{-100 * item.drop:+.1f}",
            f"{item.p:.2g}",
            str(item.n),
        ]
        for item in sorted(moved, key=lambda item: -item.drop)
    ]
    return ["class", "parent", "this model", "points", "p, corrected", "rows"], rows


def refusals(report: ShrinkReport) -> list[Candidate]:
    """The candidates that were not accepted. Other runtimes of the parent are none."""
    return [item for item in report.candidates if not item.within_budget and item.why and item.rung != 0]


def shrink_section(report: ShrinkReport | None) -> str:
    """The card's section on the candidates, as Markdown; empty for a model that was not shrunk."""
    if report is None:
        return ""
    headers, rows = report.table()
    lines = ["## Candidates", "", "![Score against latency of the parent and every candidate](pareto.svg)", ""]
    lines += markdown_table([text(item) for item in headers], [[text(cell) for cell in row] for row in rows])
    lines += ["", " ".join(text(item) for item in sentences(report))]
    refused = refusals(report)
    lines += ["", *(f"- {text(item.recipe)}: {text(item.why)}" for item in refused)] if refused else []
    headers, rows = class_table(report.classes)
    if rows:
        lines += ["", "What the classes lost and won, where that changed:", ""]
        lines += markdown_table(headers, [[text(cell) for cell in row] for row in rows])
    if report.command:
        lines += ["", "Made by:", "", *fenced(report.command, "sh")]
    return "\n".join(lines) + "\n"
