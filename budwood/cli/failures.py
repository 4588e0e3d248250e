"""What a failed command prints: the cause, the place and what to type next; the traceback only with `--debug`."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import typer

from budwood.cli.text import clear_line, paint, printable
from budwood.core.errors import BudwoodError, UsageError

__all__ = ["Outcome", "reported"]

INTERRUPTED = 130
TERMINATED = 143


@dataclass
class Outcome:
    """The exit code of a command line."""

    code: int = 0


@contextmanager
def reported(command: str, as_json: bool, debug: bool, farewell: str) -> Iterator[Outcome]:
    """Catch whatever ends a command, print it to standard error, and note the exit code.

    Args:
        command: such as `budwood adapt`.
        farewell: what to say when a signal ended the command.
    """
    from budwood.engine.signals import Terminated

    outcome = Outcome()
    try:
        yield outcome
        if outcome.code == INTERRUPTED:  # the parser has caught the KeyboardInterrupt
            show(BudwoodError(farewell), as_json, mark="")
    except KeyboardInterrupt:
        outcome.code = INTERRUPTED
        show(BudwoodError(farewell), as_json, mark="")
    except Terminated:
        outcome.code = TERMINATED
        show(BudwoodError(farewell), as_json, mark="")
    except BrokenPipeError:
        outcome.code = 128 + signal.SIGPIPE
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # noqa: BLE001  # the last line of defence of a command line
        if debug:
            traceback.print_exc()
        told = explain(error, command)
        outcome.code = told.exit_code
        show(told, as_json)


def explain(error: Exception, command: str) -> BudwoodError:
    """Any error as cause, place and fix."""
    if isinstance(error, BudwoodError):
        return error
    if isinstance(error, typer.TyperException):
        return usage(error, command)
    if isinstance(error, MemoryError):
        return BudwoodError(
            "the memory is used up", fix="close other programs, or take fewer rows or a smaller base model"
        )
    if isinstance(error, OSError) and error.strerror:
        return BudwoodError(error.strerror.lower(), where=str(error.filename or ""), fix="check the path with `ls -l`")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return BudwoodError(
        f"an unexpected {type(error).__name__}: {error}",
        where=f"{frame.filename}:{frame.lineno} in {frame.name}",
        fix="run it again with --debug for the traceback, and report it",
    )


def usage(error: typer.TyperException, command: str) -> BudwoodError:
    """What the parser refused. It knows the options that look alike."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else command
    near = get_close_matches(getattr(error, "option_name", ""), getattr(error, "possibilities", None) or (), 2, 0.75)
    fix = f"did you mean {' or '.join(near)}?" if near else f"{command} --help"
    cause = error.message if near else error.format_message()
    cause, _, better = cause.partition(" Did you mean ")
    return UsageError(cause.rstrip("."), where=command, fix=f"did you mean {better}" if better else fix)


def show(error: BudwoodError, as_json: bool, mark: str = "error: ") -> None:
    if as_json:
        sys.stderr.write(json.dumps(error.to_json()) + "\n")
        return
    clear_line(sys.stderr)
    lines = [printable(line) for line in str(error).splitlines() or [""]]
    sys.stderr.write(paint(mark, "1;31", sys.stderr) + "\n".join(lines) + "\n")
