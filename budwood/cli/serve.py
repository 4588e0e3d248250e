"""`budwood serve`: models behind an HTTP API on this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from budwood.cli.options import Store, choices
from budwood.cli.screen import Screen

if TYPE_CHECKING:
    from budwood.core.store import Entry
    from budwood.core.store import Store as Models
    from budwood.serving.prediction_log import LogOptions

KEYS = (
    "File with the hashes of API keys; then only requests that carry a key are answered. Needed when other machines "
    "can reach --host. `budwood keys make FILE NAME` makes a key and adds its hash."
)

HOSTS = "A name under which the server is reached; others are refused. Repeat it for several."
ACCESS = "Write a JSON line for each request to standard error, without texts or keys."
WORKERS = "Processes that share the cores; auto measures what answers the most, once for each model, and remembers."
MEMORY = (
    "Megabytes that open models may take, over all workers; beyond it the least recently used are closed, and opened "
    "again when they are asked for. auto is 60 % of the machine's. All stay open without it."
)
LOG = (
    "SQLite file, or a folder that exists for it, that keeps each answer: when, by which version, label or value, "
    "confidence and milliseconds. Nothing is logged without it."
)
SAMPLE = "Share of the answers that is logged."
INPUTS = "What is logged of the inputs: nothing, their SHA-256, or all."
RUNTIME = "What computes; auto measures the installed ones once for each model, and remembers."


def serve(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Models; the first one answers /predict.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[str, typer.Option(metavar="auto|N", help=WORKERS)] = "auto",
    runtime: Annotated[str, typer.Option(metavar=choices("runtimes"), help=RUNTIME)] = "auto",
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help=KEYS)] = None,
    max_queue: Annotated[int, typer.Option(metavar="N", min=1, help="While so many inputs wait, more get 503.")] = 100,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help=HOSTS)] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help=ACCESS)] = False,
    memory: Annotated[str | None, typer.Option(metavar="MB|auto", help=MEMORY)] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE|DIR", help=LOG)] = None,
    log_sample: Annotated[float, typer.Option(metavar="SHARE", help=SAMPLE)] = 1.0,
    log_inputs: Annotated[str, typer.Option(metavar="off|hash|all", help=INPUTS)] = "off",
    log_days: Annotated[float, typer.Option(metavar="DAYS", help="Older answers are forgotten.")] = 30.0,
    log_mb: Annotated[float, typer.Option(metavar="MB", help="So are the oldest of a log that is larger.")] = 1000.0,
    store: Store = None,
    json: Annotated[
        bool, typer.Option("--json", help='{"url", "models"} on standard output when the server is ready.')
    ] = False,
) -> None:
    """Serve models over HTTP, with a page to try them.

    A name begins with its newest version, NAME@live with the one that was promoted. Both follow the alias `live`: when
    it is moved, the other version takes over. NAME:VERSION stays.

    Ctrl-C or SIGTERM ends it, after the requests that were accepted are answered.
    """
    with Screen(json, f"serve: starting {', '.join(models)}") as screen:
        from budwood import flow

        kept = log_options(log, log_sample, log_inputs, log_days, log_mb)
        entries = [flow.entry(name, store) for name in models]

        def ready(url: str) -> None:
            if json:
                screen.data({"url": url, "models": models})
                screen.out.flush()
            else:
                announce(screen, url, entries, needs_key=keys is not None)
                for line in behind(models, entries, flow.models(store)):
                    screen.note(line)
                screen.note("Ctrl-C ends it")

        flow.serve(
            *models,
            host=host,
            port=port,
            workers=number_of(workers),
            runtime=runtime,
            keys=keys,
            max_queue=max_queue,
            hosts=allow_host or (),
            access_log=access_log,
            memory=memory,
            log=kept,
            store=store,
            on_ready=ready,
            progress=screen.progress,
        )


def log_options(path: Path | None, sample: float, inputs: str, days: float, megabytes: float) -> "LogOptions | None":
    """What is logged; nothing without a path. Raises UsageError for values that make no sense, or that need a path."""
    from budwood.core.errors import UsageError
    from budwood.serving.prediction_log import LogOptions

    if path is not None:
        return LogOptions(path, sample, inputs, days, megabytes)
    given = {"sample": sample != 1.0, "inputs": inputs != "off", "days": days != 30.0, "mb": megabytes != 1000.0}
    for name, asked in given.items():
        if asked:
            raise UsageError("nothing is logged without a file", where=f"--log-{name}", fix="--log FILE beside it")
    return None


def number_of(workers: str) -> "int | Literal['auto']":
    """`auto`, or a number. Raises UsageError."""
    from budwood.core.errors import UsageError

    if workers == "auto":
        return "auto"
    if not (workers.isascii() and workers.isdigit()):
        raise UsageError(f"{workers!a} is no number of workers", where="--workers", fix="--workers auto, or a number")
    return int(workers)


def announce(screen: Screen, url: str, entries: "Sequence[Entry]", needs_key: bool) -> None:
    """The address, and a line to paste that asks the first model something."""
    from budwood.serving.model import served_name

    names = [served_name(entry.name) for entry in entries]
    for place, (name, entry) in enumerate(zip(names, entries, strict=True)):
        version = f"{name}:{entry.version}"
        if place == 0:
            screen.note(f"{version} answers at {url}  # a page to try it; {url}/docs has all routes")
        else:  # by its name where that is enough: a version may change while it is served
            screen.note(f"{version} answers at {url}/models/{version if name in names[:place] else name}/predict")
    screen.note(curl(url, entries[0], needs_key))


def behind(references: "Sequence[str]", entries: "Sequence[Entry]", store: "Models") -> "Iterator[str]":
    """What is worth knowing where a bare name begins with another version than its alias `live` names."""
    for reference, entry in zip(references, entries, strict=True):
        live = store.aliases(reference).get("live") if store.versions(reference) else None
        if live not in (None, entry.version):
            yield f"{reference}@live is {reference}:{live}  # budwood serve {reference}@live begins with that one"


def curl(url: str, entry: "Entry", needs_key: bool) -> str:
    """A command that asks for one answer."""
    import json
    import shlex

    from budwood.engine.predictor import task_of

    task = task_of(entry.bundle)
    key = "-H 'authorization: Bearer KEY' " if needs_key else ""
    if task.files:
        return f"curl -s {url}/predict {key}-F {task.inputs[0]}=@FILE"
    body = json.dumps(sample(entry), ensure_ascii=False)
    return f"curl -s {url}/predict -H 'content-type: application/json' {key}-d {shlex.quote(body)}"


def sample(entry: "Entry") -> dict[str, object]:
    """One request that suits the model: one of its golden rows, else of the task's example."""
    from budwood.engine import conformance
    from budwood.engine.predictor import task_of

    task = task_of(entry.bundle)
    rows = conformance.read(entry.bundle)["inputs"] if conformance.FILE in entry.bundle.names else task.example()[1]
    found = {name: rows[len(rows) // 2][name] for name in task.inputs}
    if task.writes:  # to go on from; a whole document would fill the screen
        found = {name: " ".join(text.split()[:WORDS]) for name, text in found.items()}
    return found


WORDS = 8
