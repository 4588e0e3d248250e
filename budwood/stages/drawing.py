"""Images with the boxes of what was found in them, written into a folder as the answers come."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from budwood.core.errors import UsageError
from budwood.core.task import Row, Task
from budwood.engine.box_drawing import save_drawing
from budwood.engine.file_names import FileNames

__all__ = ["drawn", "from_score"]


def from_score(task: Task, rows: Sequence[Row], min_score: float) -> list[Row]:
    """The rows, each asking for objects from this score on. Raises UsageError where the task finds no objects."""
    refuse_without_objects(task, "--min-score")
    if not 0 <= min_score <= 1:
        raise UsageError(f"no object can have the score {min_score:g}", where="--min-score", fix="give 0 to 1")
    return [{**row, "min_score": min_score} for row in rows]


def drawn(
    task: Task, answers: Iterator[Mapping[str, Any]], rows: Sequence[Row], folder: Path
) -> Iterator[Mapping[str, Any]]:
    """The answers, each with the path of its `drawing`, `NUMBER-NAME.jpg`; nothing in the folder is overwritten.

    Raises UsageError as `from_score`, and where the folder cannot be used.
    """
    refuse_without_objects(task, "--draw")
    labels = task.to_json()["labels"]
    return each(answers, rows, labels, folder, FileNames.beside(folder))


def each(
    answers: Iterator[Mapping[str, Any]], rows: Sequence[Row], labels: Sequence[str], folder: Path, names: FileNames
) -> Iterator[Mapping[str, Any]]:
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), 1):
        if "objects" not in answer:
            yield answer
            continue
        image = row["image"]
        stem = Path(image).stem if isinstance(image, str) and not image.startswith("data:") else "image"
        path = folder / names.unused(f"{number:05}-{stem}", ".jpg")
        save_drawing(image, answer["objects"], labels, path)
        yield {**answer, "drawing": str(path)}


def refuse_without_objects(task: Task, flag: str) -> None:
    if not task.finds_objects:
        raise UsageError(f"{task.name} finds no objects", where=flag, fix=f"leave out {flag}")
