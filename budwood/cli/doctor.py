"""`budwood doctor`: what is wrong with a table, before it costs an afternoon of training."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from budwood.cli.options import Input, Json, Target
from budwood.cli.screen import Screen

if TYPE_CHECKING:
    from budwood.stages.results import Diagnosed

DATA_INVALID = 3
SHOWN_ROWS = 8
STYLES = {"error": "1;31", "warning": "33", "info": "36"}


def doctor(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="A table, a folder or a corpus; without it, this machine.")
    ] = None,
    test: Annotated[Path | None, typer.Option(metavar="DATA", help="Test rows, to look for leaks into them.")] = None,
    target: Target = None,
    input: Input = None,
    fix: Annotated[Path | None, typer.Option(metavar="OUT", help="Write a mended copy of DATA here.")] = None,
    json: Json = False,
) -> None:
    """Look for faults in rows, or in this machine, before training.

    Empty, duplicate, conflicting, leaking, rare, misspelt and too long rows, molecules that cannot be read and boxes
    that cannot be right, each with what mends it. Without DATA: what this machine has of what Budwood uses, and what of
    it is broken.

    Exit code 3 when training on the table would mislead and no mended copy was asked for.
    """
    with Screen(json, f"doctor: {f'reading {data}' if data else 'looking at this machine'}") as screen:
        from budwood import flow

        result = flow.doctor(data, test=test, target=target, input=input, fix=fix)
        if json:
            screen.data(result.to_json())
        else:
            show(screen, result, data, columns_as_typed(target, input) + task_as_typed(result))
    if fix is None and any(finding.severity == "error" for finding in result.findings):
        raise typer.Exit(DATA_INVALID)


def columns_as_typed(target: str | None, input: str | None) -> str:
    """The flags that name columns, for the next command."""
    return "".join(f" {flag} {quote(name)}" for flag, name in (("--target", target), ("--input", input)) if name)


def suffix_of(result: "Diagnosed", data: Path) -> str:
    """What the name of a mended copy ends in: nothing for folders of images."""
    if "image" in (result.facts.get("input") or ()):
        return ""
    return data.suffix if data.is_file() else ".csv"


def task_as_typed(result: "Diagnosed") -> str:
    """The flag for a task that adapt would not guess."""
    return f" --task {result.facts['task']}" if "task" in result.facts else ""


def show(screen: Screen, result: "Diagnosed", data: Path | None, flags: str) -> None:
    """The findings, the gravest first, each with its rows and what mends it."""
    for note in result.notes:
        screen.note(note)
    for finding in result.findings:
        screen.line()
        screen.line(f"{finding.severity}: {finding.message}  [{finding.kind}]", STYLES[finding.severity])
        if finding.rows:
            more = f" and {len(finding.rows) - SHOWN_ROWS:,} more" if len(finding.rows) > SHOWN_ROWS else ""
            screen.line(f"  rows: {', '.join(map(str, finding.rows[:SHOWN_ROWS]))}{more}")
        if finding.fix:
            screen.line(f"  fix: {finding.fix}" + (" (--fix does it)" if finding.fixable else ""))
    counts = {kind: sum(finding.severity == kind for finding in result.findings) for kind in STYLES}
    screen.line()
    if not result.findings:
        screen.line(f"No findings: {'the data look healthy' if data else 'nothing is missing or broken'}.", "32")
    else:
        screen.line(
            ", ".join(f"{count} {name}" + "s" * (count != 1 and name != "info") for name, count in counts.items())
        )
    if data is None:
        screen.next("budwood doctor DATA", "budwood demo")
    elif result.fixed is not None:
        screen.line(f"mended copy: {result.fixed}")
        screen.next(f"budwood doctor {result.fixed}{flags}")
    elif any(finding.fixable for finding in result.findings):
        screen.next(f"budwood doctor {data} --fix {data.stem}-mended{suffix_of(result, data)}{flags}")
    elif not counts["error"]:
        screen.next(f"budwood adapt {data}{flags}")
