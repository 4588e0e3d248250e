"""`budwood keys`: API keys of a server: make, list, rotate and revoke them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budwood.cli.options import Json
from budwood.cli.screen import Screen

if TYPE_CHECKING:
    from budwood.serving.keys import Key

__all__ = ["keys"]

keys = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

MOST_DAYS = 36_500

File = Annotated[Path, typer.Argument(metavar="FILE", help="The keys file.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: letters, digits, underscores.")]
Allowed = Annotated[
    str, typer.Option(metavar="predict|admin", help="admin also reads /metrics, /grafana.json and reports.")
]
Rate = Annotated[int, typer.Option(metavar="N", help="Requests a minute, over all workers; 0 is no limit.")]
Days = Annotated[float, typer.Option(metavar="D", help="Refused after so many days; 0 is never.")]
Overlap = Annotated[float, typer.Option(metavar="H", help="The old key is good for so many hours more.")]


@keys.callback(invoke_without_command=True)
def every(context: typer.Context, json: Json = False) -> None:
    """Make, list, rotate and revoke API keys.

    FILE is what `budwood serve --keys` reads; it holds hashes only.
    """
    if context.invoked_subcommand is None:
        from budwood.core.errors import UsageError

        fix = "budwood keys make FILE NAME, or list, rotate, revoke"
        raise UsageError("what is to be done with the keys?", where="budwood keys", fix=fix)


@keys.command()
def make(
    file: File, name: Name, scope: Allowed = "predict", per_minute: Rate = 0, days: Days = 0, json: Json = False
) -> None:
    """Make a key, print it once, and add its hash to the file."""
    with Screen(json) as screen:
        import math
        import time

        from budwood.core.errors import UsageError
        from budwood.serving.keys import create_key

        if not 0 <= days <= MOST_DAYS:
            fix = f"1 to {MOST_DAYS:,}, or leave it out for a key without an end"
            raise UsageError(f"a key is not good for {days:g} days", where="--days", fix=fix)
        until = time.time() + days * 86400 if days > 0 else math.inf
        told(screen, name, create_key(file, name, scope, per_minute, until))
        screen.next(f"budwood serve MODEL --keys {shlex.quote(str(file))}")


@keys.command()
def rotate(file: File, name: Name, overlap_hours: Overlap = 24, json: Json = False) -> None:
    """Make a successor with the same scope and limit; the older keys of this name end after the overlap."""
    with Screen(json) as screen:
        from budwood.core.errors import UsageError
        from budwood.serving.keys import rotate_key

        if not 0 <= overlap_hours <= MOST_DAYS * 24:
            fix = "--overlap-hours 24; 0 ends the old key at once"
            raise UsageError(f"an overlap of {overlap_hours:g} hours cannot be kept", where="--overlap-hours", fix=fix)
        told(screen, name, rotate_key(file, name, overlap_hours * 3600))


@keys.command()
def revoke(file: File, name: Name, json: Json = False) -> None:
    """Take all keys of a name out of the file; a running server refuses them within two seconds."""
    with Screen(json) as screen:
        from budwood.serving.keys import revoke_keys

        count = revoke_keys(file, name)
        if json:
            screen.data({"name": name, "revoked": count})
        else:
            screen.line(f"{count} {'key' if count == 1 else 'keys'} of {name} revoked")


@keys.command("list")
def list_keys(file: File, json: Json = False) -> None:
    """List the keys: names, first characters, scopes, limits and ends."""
    with Screen(json) as screen:
        from budwood.serving.keys import read_keys

        found = [summary(key) for key in read_keys(file)]
        if json:
            screen.data({"keys": found})
            return
        rows = [[str(value or "") for value in item.values()] for item in found]
        screen.table(("name", "begins with", "scope", "per minute", "until"), rows)


def told(screen: Screen, name: str, key: str) -> None:
    if screen.as_json:
        screen.data({"name": name, "key": key})
    else:
        screen.line(key)
        screen.note("this is the only time that it is shown; the file has its hash")


def summary(key: "Key") -> dict[str, Any]:
    """What may be shown of a key."""
    import math

    from budwood.serving.keys import written_time

    until = written_time(key.until) if key.until < math.inf else None
    return {
        "name": key.name,
        "prefix": key.prefix,
        "scope": key.scope,
        "per_minute": key.per_minute or None,
        "until": until,
    }
