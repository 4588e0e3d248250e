"""`evaluate`, `predict`, `compare` and `export`: what one asks of finished models."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from budwood.core import registry
from budwood.core.bundle import Bundle, digest
from budwood.core.commit import remove_folder
from budwood.core.dataset import Dataset
from budwood.core.errors import BundleError, DataError, NotFoundError, UsageError
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Progress
from budwood.core.store import Entry, Store
from budwood.core.task import Row, Task, brief
from budwood.engine.measure import Scores, score
from budwood.engine.predictor import Predictor, task_of
from budwood.engine.reading import read_dataset, read_inputs
from budwood.engine.statistics import better
from budwood.stages.drawing import drawn, from_score
from budwood.stages.explaining import explained, kept
from budwood.stages.export_folders import FOLDERS
from budwood.stages.results import Compared, Evaluated

__all__ = ["answers", "compare_models", "evaluate_model", "export_model"]

SEEN = "rows_seen_in_training"
FEW = 16
"""Rows that are answered at a time where each answer holds a picture."""
CHUNK = 1024
"""Rows that are answered at a time, so that answers come before the last row is done and are not held together.

The table itself is held: all its inputs are read and checked before the first answer.
"""


def evaluate_model(entry: Entry, data: Path | str, target: str | None, input: str | None, store: Store) -> Evaluated:
    dataset = scored_rows(entry, data, target, input)
    known = known_rows(task_of(entry.bundle), dataset)
    unknown = len(dataset) - len(known)
    if task_of(entry.bundle).head != "classes":  # an unknown class is a wrong answer; what is no number is none
        dataset = known
    scores = score_on(entry, dataset)
    seen = rows_seen(entry, dataset, store)
    metrics = {
        **scores.metrics,
        **({"rows_with_unknown_label": float(unknown)} if unknown else {}),
        **({} if seen is None else {SEEN: float(seen)}),
    }
    intervals = task_of(entry.bundle).intervals(scores.answers, dataset.rows)
    return Evaluated(scores.metric, scores.value, scores.ci, len(scores), metrics, intervals)


def rows_seen(entry: Entry, dataset: Dataset, store: Store) -> int | None:
    """How many rows a model was trained on or chosen by, itself or a model it was made from.

    None when it names its data and the store does not have them, so that nobody can tell.
    """
    records = [entry.bundle.manifest.data]
    records += [ancestor.entry.bundle.manifest.data for ancestor in store.lineage(entry) if ancestor.entry]
    task = task_of(entry.bundle)
    learnt: set[str] = set()
    for fingerprint in {record.fingerprint for record in records if record is not None}:
        try:
            splits = store.load_splits(fingerprint)
        except (NotFoundError, BundleError):
            return None
        rows = (row for row in (*splits.train, *splits.validation) if all(field in row for field in task.inputs))
        learnt |= {task.identity(row) for row in rows}
    return sum(task.identity(row) in learnt for row in dataset)


def scored_rows(entry: Entry, data: Path | str, target: str | None, input: str | None) -> Dataset:
    """The labelled rows of a table; only its test rows where it names some, because models learn from the others."""
    dataset = read_as_learnt(entry, data, target, input)
    tested = tuple(row for row in dataset if row.get("split") == "test")
    return Dataset(tested, dataset.sources) if tested else dataset


def read_as_learnt(entry: Entry, data: Path | str, target: str | None, input: str | None) -> Dataset:
    """Rows with the columns that are named, else those that the model was told to learn from, else what is found.

    Found is only what known labels can confirm: any column of numbers would do for a model of numbers.
    """
    task, record = task_of(entry.bundle).name, entry.bundle.manifest.data
    told = (target or record.options.target, input or record.options.input) if record is not None else (target, input)
    try:
        return read_dataset(data, *told, task=task).dataset
    except DataError:
        if told == (target, input) or (target is None and task_of(entry.bundle).head != "classes"):
            raise
        return read_dataset(data, target, input, task=task).dataset


def score_on(entry: Entry, dataset: Dataset) -> Scores:
    with closing(Predictor.open(entry.bundle)) as predictor:
        return score(predictor, dataset.rows)


def known_rows(task: Task, dataset: Dataset) -> Dataset:
    """The rows whose labels the model knows; one by one only where not all are.

    Raises:
        DataError: it knows none of them: the wrong column, or another task.
    """
    try:
        task.targets(dataset.rows)
        return dataset
    except DataError as error:
        known = tuple(row for row in dataset if fits(task, row))
        if not known:
            raise DataError(
                "none of the labels is known to the model",
                where=", ".join(dataset.sources),
                fix=f"name the label column with --target; {error.fix}",
            ) from error
        return Dataset(known, dataset.sources)


def fits(task: Task, row: Row) -> bool:
    try:
        task.targets([row])
    except DataError:
        return False
    return True


def answers(
    entry: Entry,
    inputs: Sequence[Any],
    file: Path | str | None,
    input: str | None,
    top: int | None,
    *,
    explain: Path | str | None = None,
    draw: Path | str | None = None,
    min_score: float | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Answers in the order of the inputs. Every input is checked before the first answer is given.

    What shows only when a file is decoded stops nothing: its answer is `{"error": …}`. `explain` is a folder for
    pictures of what each answer rests on; of detectors, `draw` is one for images with their boxes, and `min_score` the
    score from which objects are reported.

    Raises:
        UsageError: there is nothing to answer, or no picture. DataError: an input is not what the task takes.
    """
    if top is not None and top < 1:
        raise UsageError(f"--top {top} makes no sense", where="--top", fix="give 1 or more")
    task = task_of(entry.bundle)
    rows = [checked(task, item, f"input {i}") for i, item in enumerate(inputs, 1)]
    if file is not None:
        rows += [checked(task, row, f"{file}, row {i}") for i, row in enumerate(read_inputs(file, input), 1)]
    if not rows:
        raise UsageError("there is nothing to answer", fix='budwood predict MODEL "a text", or --file TABLE')
    if min_score is not None:
        rows = from_score(task, rows, min_score)
    if explain is None:
        found = chunked(entry.bundle, rows, top, CHUNK if draw is None else FEW)
        return found if draw is None else drawn(task, found, rows, Path(draw))
    return kept(chunked(entry.bundle, explained(task, rows), top, FEW), Path(explain))


def checked(task: Task, item: Any, where: str) -> Row:
    """An argument, a path, or an object with the task's fields, as a row."""
    main = task.inputs[0]
    if isinstance(item, str | Path):
        item = {main: item}
    if isinstance(item, Mapping) and isinstance(item.get(main), str):
        item = {**item, main: task.typed(item[main])}
    try:
        return task.parse(item)
    except DataError as error:
        raise DataError(error.cause, where=f"{where}: {error.where}", fix=error.fix) from error


def chunked(bundle: Bundle, rows: Sequence[Row], top: int | None, size: int) -> Iterator[Mapping[str, Any]]:
    remaining = iter(rows)
    fields = task_of(bundle).inputs
    with closing(Predictor.open(bundle)) as predictor:
        while chunk := list(islice(remaining, size)):
            for row, answer in zip(chunk, tolerant(predictor, chunk, top), strict=True):
                shown = {name: row[name] for name in fields if isinstance(row.get(name), str)}
                yield {**shown, **answer}


def tolerant(predictor: Predictor, rows: Sequence[Row], top: int | None) -> Sequence[Mapping[str, Any]]:
    """Answers; where an input turns out to be broken, it alone has no answer."""
    try:
        return predictor.predict_all(rows, top=top)
    except DataError as error:
        if len(rows) == 1:
            return [{"error": f"{error.cause} ({error.where})" if error.where else error.cause}]
    half = len(rows) // 2
    return [*tolerant(predictor, rows[:half], top), *tolerant(predictor, rows[half:], top)]


def compare_models(
    a: Entry, b: Entry, data: Path | str, target: str | None, input: str | None, store: Store
) -> Compared:
    """Both models on the same rows. Raises UsageError when their tasks or metrics differ."""
    if task_of(a.bundle).name != task_of(b.bundle).name:
        raise UsageError("the two models have different tasks", where=f"{a.name}, {b.name}")
    dataset = scored_rows(a, data, target, input)
    for entry in (a, b):
        known_rows(task_of(entry.bundle), dataset)
    first, second = score_on(a, dataset), score_on(b, dataset)
    if first.metric != second.metric:
        raise UsageError(f"{first.metric} cannot be compared with {second.metric}", where=f"{a.name}, {b.name}")
    found = better(first.per_row, second.per_row)
    field = task_of(a.bundle).inputs[0]
    differ = [
        {
            "row": i + 1,
            field: row[field],
            "label": row.get("label"),
            "a": brief(first.answers[i]),
            "b": brief(second.answers[i]),
        }
        for i, row in enumerate(dataset.rows)
        if first.per_row[i] != second.per_row[i]
    ]
    return Compared(
        metric=first.metric,
        a=first.value,
        b=second.value,
        difference=found.difference,
        ci=found.ci,
        p=found.p,
        n=found.n,
        n_differ=found.n_differ,
        rows=differ,
        rows_seen_in_training={
            name: seen for name, entry in (("a", a), ("b", b)) if (seen := rows_seen(entry, dataset, store)) is not None
        },
    )


def export_model(entry: Entry, out: Path, format: str, store: Store, progress: Progress, image: str = "") -> Path:
    """Copy the bundle to `out`, after making the format when it is not there yet; or write a folder of `FOLDERS`.

    Raises:
        UsageError: `out` exists, there is no such format, or `image` is given for another one than `docker`.
    """
    if image and format != "docker":
        raise UsageError(f"{format} is built on no image", where="--image", fix="budwood export docker NAME --image …")
    if out.exists():
        raise UsageError(f"{out.name} already exists", where=str(out), fix="name a folder that does not exist yet")
    wanted = "onnx" if format in FOLDERS else format
    there = bool(entry.bundle.formats - {"torch"}) if format in FOLDERS else format in entry.bundle.formats
    with nullcontext(entry.bundle) if there else made(entry.bundle, wanted, store, progress) as bundle:
        if format not in FOLDERS:
            bundle.copy(out)
            return out
        return write_folder(bundle, out, entry.name, format, image)


def write_folder(bundle: Bundle, out: Path, name: str, kind: str, image: str) -> Path:
    """Write one of `FOLDERS`; `image` is what a container is built on, empty for the usual one."""
    from budwood.engine.browser import write_browser
    from budwood.engine.deployment import BASE_IMAGE, write_docker, write_systemd
    from budwood.engine.edge import write_edge

    if kind == "docker":
        return write_docker(bundle, out, name, image or BASE_IMAGE)
    writers = {"edge": write_edge, "browser": write_browser, "systemd": write_systemd}
    return writers[kind](bundle, out, name)


@contextmanager
def made(bundle: Bundle, format: str, store: Store, progress: Progress) -> Iterator[Bundle]:
    """The bundle with a format that it lacks, in a folder that is there for as long as the block."""
    kind = registry.get("steps/export", format)
    key = f"export-{digest({'id': bundle.id, 'format': format})[:24]}"
    with store.lock(key) as folder:
        context = Context(out=folder / "unused", work=folder / "run", progress=progress)
        yield Recipe((kind(),)).run(bundle, context, folder / "steps")
        remove_folder(folder)
