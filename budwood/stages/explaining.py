"""Pictures of what answers rest on, asked for with the rows and written into a folder as the answers come."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from budwood.core.commit import write_atomic
from budwood.core.errors import UsageError
from budwood.core.task import Row, Task
from budwood.engine.file_names import FileNames

__all__ = ["explained", "kept"]

SUFFIX = ".heat.png"
"""Another ending than the image's own, so that a map never takes its place."""


def explained(task: Task, rows: Sequence[Row]) -> list[Row]:
    """The rows, each asking for a picture. Raises UsageError where the task draws none."""
    if not task.explains:
        raise UsageError(
            f"{task.name} has no pictures that explain an answer", where="--explain", fix="leave out --explain"
        )
    return [{**row, "explain": True} for row in rows]


def kept(answers: Iterator[Mapping[str, Any]], folder: Path) -> Iterator[Mapping[str, Any]]:
    """The answers, with the path of its picture in the place of each picture; nothing in the folder is overwritten.

    Raises UsageError, before there is an answer, where the folder cannot be used.
    """
    return each(answers, folder, FileNames.beside(folder))


def each(answers: Iterator[Mapping[str, Any]], folder: Path, names: FileNames) -> Iterator[Mapping[str, Any]]:
    for number, answer in enumerate(answers, 1):
        if "explanation" not in answer:
            yield answer
            continue
        source = str(answer.get("image", "data:"))
        stem = f"image-{number}" if source.startswith("data:") else Path(source).stem
        path = folder / names.unused(stem, SUFFIX)
        write_atomic(path, base64.b64decode(str(answer["explanation"]).partition(",")[2]))
        yield {**answer, "explanation": str(path)}
