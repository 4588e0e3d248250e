"""The command line: one file per verb, which parses, calls its function in `budwood.flow`, and prints."""

import sys
from collections.abc import Sequence

__all__ = ["VERBS", "main"]

VERBS = (
    "doctor",
    "plan",
    "adapt",
    "evaluate",
    "predict",
    "generate",
    "shrink",
    "compare",
    "serve",
    "keys",
    "models",
    "export",
    "demo",
)
"""In the order of use, as `--help` lists them. Each is a file here with a function or a `Typer` of its name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; `arguments` are those of the process when left out."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    greet(given)
    from budwood.cli.program import run

    return run(given)


def greet(arguments: Sequence[str]) -> None:
    """Show a terminal that something happens before even the parser is loaded. What comes next takes it away."""
    working = arguments and arguments[0] in VERBS and not {"--json", "--help", "-h"} & set(arguments)
    if working and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2Kbudwood {arguments[0]} …")
        sys.stderr.flush()
