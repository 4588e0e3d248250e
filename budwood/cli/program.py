"""The command `budwood`: finds the verb's file, runs it, and turns every failure into three lines and an exit code."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from budwood.cli import VERBS, failures
from budwood.core.errors import UsageError

__all__ = ["app", "run"]

SAVED = "interrupted; what was done is saved, and the same command goes on from there"
FAREWELLS = {"adapt": SAVED, "shrink": SAVED, "demo": SAVED, "serve": "stopped; what was accepted is answered"}
"""What a verb says when a signal ended it."""

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verbs(TyperGroup):
    """Imports only the files of the verbs that are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in VERBS:
            return load(cmd_name)
        near = get_close_matches(cmd_name, VERBS, n=2)
        fix = f"did you mean budwood {' or '.join(near)}?" if near else "budwood --help"
        raise UsageError(f"there is no verb {cmd_name!a}", where="budwood", fix=fix)


def load(verb: str) -> Any:
    """The parser of one verb."""
    found = getattr(import_module(f"budwood.cli.{verb}"), verb)
    if not isinstance(found, typer.Typer):
        function, found = found, plain_app()
        found.command(verb)(function)
    command = get_command(found)
    command.name = verb
    return command


def plain_app(**settings: Any) -> typer.Typer:
    """A Typer whose help is plain text: it renders in a fifth of the time of boxes, and copies well into documents."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, context_settings=SETTINGS, **settings)


app = typer.Typer(
    cls=Verbs, name="budwood", rich_markup_mode=None, context_settings=SETTINGS, pretty_exceptions_enable=False
)


def show_version(value: bool) -> None:
    if value:
        from budwood import __version__

        typer.echo(f"budwood {__version__}")
        raise typer.Exit


@app.callback(epilog="MODEL is a name, name:version, name@alias or a folder. Begin with: budwood demo")
def budwood(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works after a verb too.")
    ] = False,
) -> None:
    """From a pretrained model and a small data set to a small, fast model behind an API that scales."""


def run(given: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    own = given[: given.index("--")] if "--" in given else given
    debug, as_json = "--debug" in own, "--json" in own
    rest = [item for item in own if item != "--debug"] + list(given[len(own) :]) or ["--help"]
    never_fail_to_print()
    known = rest[0] in VERBS
    command = f"budwood {rest[0]}" if known else "budwood"
    farewell = FAREWELLS.get(rest[0], "interrupted")
    with failures.reported(command, as_json, debug, farewell) as outcome, quiet_libraries(debug):
        # A verb goes past the group, whose options for shell completion take a tenth of a second to parse.
        parser, words = (load(rest[0]), rest[1:]) if known else (get_command(app), rest)
        outcome.code = parser.main(words, prog_name=command, standalone_mode=False) or 0
        sys.stdout.flush()
    return outcome.code


def never_fail_to_print() -> None:
    """A terminal that cannot show a character gets it escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def quiet_libraries(debug: bool) -> Iterator[None]:
    """Hide the warnings that libraries mean for developers; `--debug` and `python -W` show them."""
    import warnings

    with warnings.catch_warnings():
        if not debug and not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
