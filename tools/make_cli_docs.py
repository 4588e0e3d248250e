"""Write docs/cli.md from the commands' own `--help`. A test fails when the two differ; `make docs` mends it."""

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from typer import Context
from typer.main import get_command

from budwood.cli import main as budwood
from budwood.cli.program import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
COLUMNS = "100"
HEAD = """# Command line

This page is the commands' own `--help`, written by `make docs`.

- `MODEL` is `name` (its newest version), `name:version`, `name@alias` or a folder.
- With `--json`, standard output is JSON only. Messages and progress go to standard error.
- Exit codes: 0 ok, 1 failure, 2 usage, 3 data invalid, 4 not found, 5 budget not met, 130 interrupted.
- An error is three lines: the cause, the place, and what to type next. `--debug` adds the traceback.
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command and sub-command, in the order in which the help lists them."""
    yield path
    if hasattr(command, "list_commands"):
        context = Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


def help_of(path: tuple[str, ...]) -> str:
    """What `budwood PATH --help` prints on a terminal of 100 columns."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with redirect_stdout(io.StringIO()) as screen:
            status = budwood([*path, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    if status != 0:
        raise SystemExit(f"budwood {' '.join(path)} --help ended with {status}")
    return "\n".join(line.rstrip() for line in screen.getvalue().strip().splitlines())


def page() -> str:
    parts = [HEAD]
    for path in commands(get_command(app)):
        parts.append(f"## {' '.join(('budwood', *path))}\n\n```text\n{help_of(path)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")
