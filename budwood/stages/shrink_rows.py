"""The rows of a shrink: the very ones of the parent's training, from the store or made again from the user's files."""

from dataclasses import replace
from pathlib import Path

from budwood.core.bundle import DataRecord
from budwood.core.dataset import ReadOptions, Splits
from budwood.core.errors import DataError, NotFoundError, UsageError
from budwood.core.step import Progress
from budwood.core.store import Store
from budwood.engine.predictor import task_of
from budwood.engine.reading import read_dataset
from budwood.stages import choosing
from budwood.stages.shrink_bench import Job

__all__ = ["rows_of"]


def rows_of(job: Job, store: Store, progress: Progress) -> Splits:
    """The very rows of the parent's training; `--data` gives them anew when the store does not have them.

    Raises:
        NotFoundError, DataError, UsageError: the rows are not there, or are not those that the parent was trained on.
    """
    record = job.entry.bundle.manifest.data
    if record is None:
        if job.data is None:
            raise NotFoundError("the model names no data", where=str(job.entry.bundle.path), fix="pass --data DATA")
        return splits_of(job, job.data, job.seed, ReadOptions())
    if job.data is None:
        return replace(kept(job, store, record), options=record.options)
    if job.test is not None or not record.options.test:
        splits = splits_of(job, job.data, record.seed, record.options)
        if splits.fingerprint == record.fingerprint:
            return replace(splits, options=record.options)
    try:
        own = store.load_splits(record.fingerprint)
    except NotFoundError:
        raise other_rows(job, record) from None
    progress("data", 0, 0, "data=the rows of the training  # they are in the store; those given are others")
    return replace(own, options=record.options)


def splits_of(job: Job, data: Path | str, seed: int, options: ReadOptions) -> Splits:
    """The rows of `--data` and `--test`, read and split as for the training of the parent."""
    columns = (options.target, options.input, options.group)
    kind = task_of(job.entry.bundle)
    try:
        rows = read_dataset(data, *columns, task=kind.name).dataset
        test = None if job.test is None else read_dataset(job.test, *columns, task=kind.name).dataset
    except DataError as error:
        if options == ReadOptions():
            raise
        raise DataError(error.cause, where=error.where, fix="pass the very files that were given to adapt") from error
    return choosing.split_rows(type(kind), rows, test, options, seed)


def kept(job: Job, store: Store, record: DataRecord) -> Splits:
    try:
        return store.load_splits(record.fingerprint)
    except NotFoundError as error:
        raise NotFoundError(error.cause, where=error.where, fix=f"pass {files_of(record)}") from error


def files_of(record: DataRecord) -> str:
    """What to pass, so that the rows of the training are made again: `--data tickets.csv --test test.csv (…)`."""
    tests = ", ".join(f"{name} (SHA-256 {sha256[:12]}…)" for name, sha256 in record.options.test)
    return f"--data {', '.join(record.sources) or 'DATA'}" + (f" --test {tests}" if tests else "")


def other_rows(job: Job, record: DataRecord) -> UsageError:
    if record.options.test and job.test is None:
        return UsageError(
            "the model has a test set of its own, which is not in this store",
            where="--test",
            fix=f"pass {files_of(record)}",
        )
    return UsageError(
        "these are not the rows that the model was trained on, so its test rows are unknown",
        where=f"{job.data}" + (f", {job.test}" if job.test is not None else ""),
        fix=f"pass the files that were given to adapt: {files_of(record)}; or leave --data out",
    )
