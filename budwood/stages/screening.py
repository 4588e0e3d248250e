"""Ranking a library of molecules with a model: what `predict` does where it is asked for the best of a file.

It streams: memory stays flat over millions of rows, and a run that was killed goes on from its last checkpoint.
"""

import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from budwood.core.bundle import digest
from budwood.core.commit import remove_folder
from budwood.core.errors import DataError, UsageError
from budwood.core.step import Progress
from budwood.core.store import Entry, Store
from budwood.engine.library import Library, open_library
from budwood.engine.predictor import task_of
from budwood.engine.screening import MAX_TOP, Screened, screen
from budwood.engine.screening_worker import Ranks

__all__ = ["Question", "open_ranking", "rows_of"]

TOP = 1_000
"""How many of the best are listed where only another question about the ranking is asked."""
ACTIVE = "1"


@dataclass(frozen=True)
class Question:
    """How to rank; the fields are those of `budwood.predict`."""

    top: int | None = None
    by: str | None = None
    ascending: bool = False
    target: str | None = None
    input: str | None = None

    @property
    def flag(self) -> str | None:
        """The first flag that speaks of a ranking and of nothing else."""
        given = {"--by": self.by is not None, "--ascending": self.ascending, "--target": self.target is not None}
        return next((name for name, there in given.items() if there), None)

    @property
    def asked(self) -> bool:
        """Whether a molecule model should rank, and not answer in order."""
        return self.top is not None or self.flag is not None

    @property
    def size(self) -> int:
        """How many of the best."""
        return TOP if self.top is None else self.top

    def check(self, task: Ranks) -> None:
        """Raise UsageError when the size is out of range, or the task has no such property."""
        task.column(self.by)
        if not 1 <= self.size <= MAX_TOP:
            raise UsageError(f"--top {self.size} is out of range", where="--top", fix=f"give 1 to {MAX_TOP:,}")


def open_ranking(
    entry: Entry,
    inputs: Sequence[Any],
    file: Path | str | None,
    question: Question,
    store: Store,
    progress: Progress,
) -> AbstractContextManager[Screened] | None:
    """A ranking that is made when the context is entered; None where answers in the order of the rows are asked for.

    Raises:
        UsageError: the model ranks no molecules, or the question is off. NotFoundError, DataError: as `open_library`.
    """
    task = task_of(entry.bundle)
    if not isinstance(task, Ranks):
        if (flag := question.flag) is not None:
            cause = f"{flag} is for ranking molecules, and this is a {task.name} model"
            raise UsageError(cause, where=flag, fix="leave it out")
        return None
    if not question.asked:
        return None
    question.check(task)
    library = open_library(library_path(inputs, file), question.input, question.target)
    return ranking(entry, library, question, store, progress)


def library_path(inputs: Sequence[Any], file: Path | str | None) -> Path:
    """The one file that is ranked. Raises UsageError when there is another number of inputs, or no file."""
    given = [*inputs, *([file] if file is not None else [])]
    fix = "budwood predict MODEL --file library.smi --top 1000; without --top each molecule is answered in its order"
    if len(given) != 1:
        found = "nothing is" if not given else f"{len(given)} inputs are"
        raise UsageError(f"one library is ranked at a time, and {found} given", where="--file", fix=fix)
    item = given[0].get("smiles") if isinstance(given[0], Mapping) else given[0]
    path = Path(str(item))
    if path.is_dir() or (file is None and not path.is_file()):
        raise UsageError("a file of molecules is ranked, and this is none", where=str(item)[:200], fix=fix)
    return path


@contextmanager
def ranking(entry: Entry, library: Library, question: Question, store: Store, progress: Progress) -> Iterator[Screened]:
    """Screen the library. The checkpoints go when the caller is done with the result, and stay when it failed."""
    task = task_of(entry.bundle)
    labels = task.to_json().get("labels") or ()
    asked = {"model": entry.bundle.id, "file": str(library.path.resolve()), **asdict(question)}
    if library.smiles:
        progress("library", 0, 0, f"input={library.smiles}  # the column with the SMILES")
    with store.lock(f"screen-{digest(asked)[:24]}") as folder:
        found = screen(
            entry.bundle,
            library,
            top=question.size,
            by=question.by,
            ascending=question.ascending,
            positive=labels[1] if labels else ACTIVE,
            work=folder,
            progress=counted(library.path, progress),
        )
        if found.screened == found.invalid:
            remove_folder(folder)
            cause = f"none of the {found.screened:,} rows is a molecule" if found.screened else "the file is empty"
            raise DataError(cause, where=str(library.path), fix="give SMILES; name their column with --input")
        yield found
        remove_folder(folder)


def rows_of(made: AbstractContextManager[Screened]) -> Iterator[Mapping[str, Any]]:
    with made as found:
        yield from found.rows


def counted(path: Path, progress: Progress) -> Progress:
    """The same progress with a total: the lines of the file, which are counted when the first chunk is done."""

    @cache
    def lines() -> int:
        with opened(path) as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) + 1

    def report(what: str, done: int, total: int, note: str) -> None:
        progress(what, done, max(lines(), done), note)

    return report


def opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]
