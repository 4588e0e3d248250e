"""The product on one page: read a table, adapt a pretrained model to it, shrink it to a budget, serve it.

Every function here is a verb of the command line, with the same parameters and defaults.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from budwood.core.budget import Budget
from budwood.core.step import Progress, silent
from budwood.core.store import Entry, Store
from budwood.stages.results import Adapted, Compared, Diagnosed, Evaluated, Planned, Shrunk

if TYPE_CHECKING:
    from budwood.engine.screening import Screened
    from budwood.serving.prediction_log import LogOptions
    from budwood.stages.screening import Question
    from budwood.stages.writing import Generated

__all__ = [
    "adapt",
    "compare",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "models",
    "plan",
    "predict",
    "serve",
    "shrink",
]


def adapt(
    data: Path | str,
    *,
    task: str = "auto",
    base: str = "auto",
    name: str | None = None,
    target: str | None = None,
    input: str | None = None,
    group: str | None = None,
    test: Path | str | None = None,
    split: str | None = None,
    method: str = "auto",
    shots: int | None = None,
    options: Mapping[str, Any] | None = None,
    unlabelled: Path | str | None = None,
    seed: int = 0,
    max_minutes: float | None = None,
    fresh: bool = False,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> Adapted:
    """Adapt a pretrained model to a table, and publish the better of baseline and adapted model.

    Running the same call again resumes what was interrupted; `fresh` starts over. `options` go to the task:
    `{"flip": False, "rotate": True}` for images. `unlabelled` is a folder or table of further rows: the surest answers
    on them are learnt too, where that is better on held-out rows.

    Raises:
        DataError: the data cannot be used. UsageError: a parameter is off. NotFoundError: data or base is not there.
    """
    from budwood.stages.adapting import run
    from budwood.stages.workbench import Job

    extra = options or {}
    job = Job(data, task, base, name, target, input, group, test, method, shots, seed, max_minutes, fresh, split, extra)
    return run(replace(job, unlabelled=unlabelled), Store.default(store), progress)


def plan(
    data: Path | str,
    *,
    task: str = "auto",
    base: str = "auto",
    target: str | None = None,
    input: str | None = None,
    group: str | None = None,
    test: Path | str | None = None,
    split: str | None = None,
    method: str = "auto",
    shots: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_minutes: float | None = None,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> Planned:
    """What `adapt` with the same parameters would do, its time, memory and energy, and the gain of twice the labels.

    Raises:
        DataError: the data cannot be used. UsageError: a parameter is off. NotFoundError: data or base is not there.
    """
    from budwood.stages.planning import run
    from budwood.stages.workbench import Job

    extra = options or {}
    job = Job(data, task, base, None, target, input, group, test, method, shots, seed, max_minutes, False, split, extra)
    return run(job, Store.default(store), progress)


def evaluate(
    model: str,
    data: Path | str,
    *,
    target: str | None = None,
    input: str | None = None,
    store: Path | str | None = None,
) -> Evaluated:
    """Score a model on labelled rows, with a 95 % confidence interval.

    `metrics["rows_seen_in_training"]` counts the rows that the model learnt from or was chosen by, where the store has
    the rows of its training.
    """
    from budwood.stages.asking import evaluate_model

    home = Store.default(store)
    return evaluate_model(home.resolve(model), data, target, input, home)


def predict(
    model: str,
    inputs: Sequence[Any] | Path = (),
    *,
    file: Path | str | None = None,
    input: str | None = None,
    top: int | None = None,
    by: str | None = None,
    ascending: bool = False,
    target: str | None = None,
    explain: Path | str | None = None,
    draw: Path | str | None = None,
    min_score: float | None = None,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> Iterator[Mapping[str, Any]]:
    """Answer inputs (texts, paths of images, or request objects) and the rows of a table or folder, in their order.

    `top` labels come with each answer, 3 when left out. A molecule model that is given `top`, `by`, `ascending` or
    `target` ranks the library `file` instead and gives its best molecules.

    Args:
        top: of a ranking, how many molecules, 1,000 when left out.
        by: the property to rank by, the first one when left out.
        ascending: the smallest values first.
        target: the column that says which molecules are known to be active; `screening` gives the enrichment.
        explain: of images, a folder for heat maps of what each answer rests on; `explanation` is the path of its map.
        draw: of a detector, the folder for images with their boxes.
        min_score: of a detector, the score from which objects are reported; the model's own when left out.
    """
    from budwood.stages.asking import answers
    from budwood.stages.screening import Question, rows_of

    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    question = Question(top, by, ascending, target, input)
    made = screening(model, inputs, file, question, store=store, progress=progress)
    if made is not None:
        return rows_of(made)
    return answers(
        Store.default(store).resolve(model), inputs, file, input, top, explain=explain, draw=draw, min_score=min_score
    )


def generate(
    model: str,
    prompt: str = "",
    *,
    max_tokens: int = 256,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] | None = None,
    truncate: str | None = None,
    n: int = 1,
    batch_size: int = 1,
    include_prefix: bool = True,
    seed: int = 0,
    store: Path | str | None = None,
) -> "Sequence[Generated]":
    """Write `n` texts that go on from a prompt. Equal seeds give equal texts.

    Raises:
        UsageError: the model writes no texts, or an option is out of range. DataError: the prompt is not valid Unicode.
    """
    from budwood.engine.decoding import Sampling
    from budwood.stages.writing import generate_texts

    options = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop or ()),
        seed=seed,
    )
    entry = Store.default(store).resolve(model)
    return generate_texts(
        entry, prompt, options, n=n, batch_size=batch_size, truncate=truncate, include_prefix=include_prefix
    )


def compare(
    a: str,
    b: str,
    data: Path | str,
    *,
    target: str | None = None,
    input: str | None = None,
    store: Path | str | None = None,
) -> Compared:
    """Compare two models on the same rows: the difference B - A, its interval, p, and the rows on which they differ."""
    from budwood.stages.asking import compare_models

    home = Store.default(store)
    return compare_models(home.resolve(a), home.resolve(b), data, target, input, home)


def shrink(
    model: str,
    *,
    max_drop: float = 0.01,
    max_p95_ms: float | None = None,
    max_mb: float | None = None,
    max_class_drop: float = 0.1,
    max_minutes: float | None = None,
    explore: bool = False,
    student: str | Sequence[str] | None = None,
    unlabelled: Path | str | None = None,
    data: Path | str | None = None,
    test: Path | str | None = None,
    name: str | None = None,
    seed: int = 0,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> Shrunk:
    """Search for the smallest model within a budget, measured here, and publish it when a paired test accepts it.

    With a limit of time or size the search stops at the first rung that keeps it, unless `explore`; without one it
    tries every rung. `student` names smaller bases to adapt or distil into; `unlabelled` is a folder or table of
    further rows to learn from.

    `data` and `test` are the files that were given to `adapt`; they are needed only where the store does not have the
    rows any more. They are read with the columns, the shots and the seed that the model names.
    """
    from budwood.stages.shrinking import Job, run

    home = Store.default(store)
    budget = Budget(max_drop, max_p95_ms, max_mb, max_class_drop)
    students = (student,) if isinstance(student, str) else tuple(student or ())
    job = Job(home.resolve(model), budget, max_minutes, data, test, name, seed, explore, students, unlabelled)
    return run(job, home, progress)


def serve(
    *references: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int | Literal["auto"] = "auto",
    runtime: str = "auto",
    keys: Path | str | None = None,
    max_queue: int = 100,
    hosts: Collection[str] = (),
    access_log: bool = False,
    memory: float | str | None = None,
    log: "LogOptions | Path | str | None" = None,
    store: Path | str | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
    progress: Progress = silent,
) -> None:
    """Serve models over HTTP until a signal ends it: `/predict`, `/v1`, `/v2`, `/metrics`, and a page at `/`.

    A name follows its alias `live`, and `name@alias` that alias: when it moves, the other version takes over without
    a failed request. `name:version` stays. With `memory`, in megabytes or `auto`, models that were not used for the
    longest time are closed, and opened again when they are asked for.

    `log` is a file or a folder in which each answer is kept, or `LogOptions` that say what of it and for how long.

    `on_ready` is told the address as soon as every worker answers. `auto` measures installed runtimes on models
    that are served here for the first time, and numbers of processes on the first one; `progress` is told.
    """
    from budwood.engine.runtime_choice import decide
    from budwood.serving.follow import follows
    from budwood.serving.prediction_log import LogOptions
    from budwood.serving.server import Served, check
    from budwood.serving.server import serve as serve_entries
    from budwood.serving.worker_choice import decide as decide_workers

    home = Store.default(store)
    followed = [follows(reference, home) for reference in references]  # first: a move from now on is seen
    entries = [home.resolve(reference) for reference in references]
    pairs = zip(entries, followed, strict=True)
    served = [Served(entry.name, str(entry.version), entry.bundle, alias) for entry, alias in pairs]
    keys = Path(keys) if keys is not None else None
    log = LogOptions(Path(log)) if isinstance(log, Path | str) else log
    check(served, host, port, runtime, keys, hosts, memory, log)  # first: what follows may take a minute
    for entry in entries if runtime == "auto" else ():
        decide(entry.bundle, progress=progress)
    if workers == "auto" and served:
        workers = decide_workers(served[0].bundle, runtime, progress)
    serve_entries(
        served,
        host=host,
        port=port,
        workers=workers,
        runtime=runtime,
        keys=keys,
        max_queue=max_queue,
        hosts=hosts,
        access_log=access_log,
        memory=memory,
        log=log,
        on_ready=on_ready,
    )


def models(store: Path | str | None = None) -> Store:
    """The store: `list`, `lineage`, `promote`, `rollback`, `verify` and `remove` are its methods."""
    return Store.default(store)


def export(
    model: str,
    out: Path | str,
    *,
    format: str = "onnx",
    image: str = "",
    store: Path | str | None = None,
    progress: Progress = silent,
) -> Path:
    """Copy a model to a folder outside the store, in a format (`onnx` makes the graph when there is none).

    `edge` writes a folder with a runner that needs onnxruntime and numpy only, `browser` one with a page that runs it,
    `docker` one from which an image is built on top of `image`, `systemd` one with a unit.
    """
    from budwood.stages.asking import export_model

    home = Store.default(store)
    return export_model(home.resolve(model), Path(out), format, home, progress, image)


def doctor(
    data: Path | str | None = None,
    *,
    test: Path | str | None = None,
    target: str | None = None,
    input: str | None = None,
    fix: Path | str | None = None,
) -> Diagnosed:
    """Look for faults in a table: empty, duplicate, conflicting, leaking, misspelt, too long; `fix` mends a copy.

    Without data, look at this machine: what is installed, and whether it loads.
    """
    from budwood.stages.diagnosing import diagnose_data

    return diagnose_data(data, test, target, input, fix)


def entry(reference: str, store: Path | str | None = None) -> Entry:
    """Find a model: `name`, `name:version`, `name@alias` or a folder."""
    return Store.default(store).resolve(reference)


def screening(
    model: str,
    inputs: Sequence[Any],
    file: Path | str | None,
    question: "Question",
    *,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> "AbstractContextManager[Screened] | None":
    """The ranking of a library of molecules, with what there is to tell of it beside the rows.

    Use it as a context; its checkpoints stay until the context is left. None where the model, or the question, asks for
    answers in the order of the inputs.
    """
    from budwood.stages.screening import open_ranking

    home = Store.default(store)
    return open_ranking(home.resolve(model), inputs, file, question, home, progress)
