"""Rows without labels to learn from: read, checked, and without those that a labelled row already has."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from budwood.core.dataset import Dataset
from budwood.core.errors import DataError
from budwood.core.task import Row, Task
from budwood.engine.image_rows import check
from budwood.engine.pixels import usable_cores
from budwood.engine.reading import read_inputs
from budwood.engine.table import note

__all__ = ["Unlabelled", "read_unlabelled"]

LISTED = 5


@dataclass(frozen=True)
class Unlabelled:
    """What `--unlabelled` names."""

    dataset: Dataset
    """Rows with the task's input fields only, in an order that depends on nothing but them; images with `sha256`."""
    notes: tuple[str, ...]
    """What was found out and left out, to be printed."""


def read_unlabelled(path: Path | str, input: str | None, task: Task, labelled: Sequence[Row]) -> Unlabelled:
    """The rows of a folder or a table, whatever labels it may carry.

    Rows that cannot be read are left out, and so are those with the content of another row or of a labelled one: what
    is tested on must not be learnt.

    Raises:
        NotFoundError: there is no such folder or file.
        DataError: its rows have other fields than the task reads, or none is left.
    """
    found = read_inputs(path, input, skip_bad=True)
    missing = [field for field in task.inputs if found and field not in found[0]]
    if missing:
        cause = f"its rows have no {missing[0]}, which {task.name} learns from"
        raise DataError(cause, where=str(path), fix="give data of the same kind as the labelled rows")
    rows, problems = checked(task, found)
    seen = {task.identity(row) for row in labelled}
    fresh = []
    for row in rows:
        key = task.identity(row)
        if key not in seen:
            seen.add(key)
            fresh.append(row)
    if not fresh:
        fix = "give rows that are not among the labelled ones"
        raise DataError("not one row without a label can be used", where=str(path), fix=fix)
    name = Path(path).name
    notes = [note("unlabelled", f"{len(fresh):,} rows", f"of {len(found):,} in {name}")]
    if len(rows) > len(fresh):
        why = "their content is that of another row or of a labelled one"
        notes.append(note("unlabelled", f"{len(rows) - len(fresh):,} left out", why))
    notes += [note("skipped", where, problem) for where, problem in problems[:LISTED]]
    if len(problems) > LISTED:
        notes.append(note("skipped", f"{len(problems):,} unlabelled rows", "in all"))
    # What is learnt depends on the order, and results are known by the rows alone.
    return Unlabelled(Dataset(tuple(fresh), (name,)).canonical(), tuple(notes))


def checked(task: Task, rows: Sequence[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    """The rows that the task can read, and for the others their name and what is wrong."""
    if "image" in task.inputs:
        return hashed(rows)
    good: list[Row] = []
    bad = []
    for number, row in enumerate(rows, 1):
        try:
            good.append(dict(task.parse({field: row[field] for field in task.inputs})))
        except DataError as error:
            bad.append((f"unlabelled row {number}", error.cause))
    return good, bad


def hashed(rows: Sequence[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Images with the hash of their content; they are decoded once, so that a broken one stops nothing later."""
    with ThreadPoolExecutor(usable_cores(), "check") as pool:
        found = list(pool.map(lambda row: check(row["image"]), rows))
    good = [{"image": row["image"], "sha256": key} for row, (key, bad) in zip(rows, found, strict=True) if not bad]
    named = [(str(row["image"])[:200], bad) for row, (_, bad) in zip(rows, found, strict=True) if bad]
    return list(good), [(re.split(r"[\\/]", name)[-1], bad) for name, bad in named]
