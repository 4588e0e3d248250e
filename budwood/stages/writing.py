"""`generate`: write texts with a model of the store; as a list, as a stream of pieces, or into files."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from budwood.core.commit import write_atomic
from budwood.core.errors import UsageError
from budwood.core.store import Entry
from budwood.engine.decoding import Piece, Sampling
from budwood.engine.generator import Generator
from budwood.engine.predictor import task_of
from budwood.engine.writing_rows import joined

__all__ = ["Generated", "generate_texts", "stream_texts", "write_texts"]

TASK = "text_generation"


@dataclass(frozen=True)
class Generated:
    """One text that was written."""

    text: str
    finish_reason: str
    prompt_tokens: int
    tokens: int
    seed: int
    sample: int
    """With the same seed, the same sample number gives the same text."""
    truncated: bool
    """The prompt was longer than the model reads, so its beginning was left out."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def generate_texts(
    entry: Entry,
    prompt: str,
    options: Sampling,
    *,
    n: int = 1,
    batch_size: int = 1,
    truncate: str | re.Pattern[str] | None = None,
    include_prefix: bool = True,
    seconds: float | None = None,
) -> list[Generated]:
    """`n` texts that go on from a prompt, which stands before each unless `include_prefix` is off.

    Args:
        entry: a text generator of the store.
        prompt: an empty one begins a new document.
        options: how to choose tokens and when to stop.
        batch_size: texts that are written side by side.
        truncate: a string or a compiled pattern at which a text is cut; what matched is left out.
        seconds: time for all texts.

    Raises:
        UsageError: the model is no text generator, or a number is out of range.
        DataError: the prompt is not valid Unicode.
    """
    check(entry, n, batch_size)
    prompt = prepared(entry, prompt)
    with closing(Generator.open(entry.bundle)) as generator:
        found = generator.complete(
            [prompt],
            options,
            n=n,
            batch_size=batch_size,
            truncate=truncate,
            include_prefix=include_prefix,
            seconds=seconds,
        )
    return [
        Generated(item.text, item.finish, item.prompt_tokens, item.tokens, options.seed, sample, item.cut)
        for sample, item in enumerate(found)
    ]


def stream_texts(
    entry: Entry, prompt: str, options: Sampling, *, n: int = 1, seconds: float | None = None
) -> Iterator[Piece]:
    """Pieces of the texts as they are written. Raises as `generate_texts`."""
    check(entry, n, 1)
    prompt = prepared(entry, prompt)
    with closing(Generator.open(entry.bundle)) as generator:
        yield from generator.stream([prompt], options, n=n, seconds=seconds)


def write_texts(texts: Sequence[Generated], destination: Path, delimiter: str = "=" * 20 + "\n") -> list[Path]:
    """Write texts to files: all into one that ends in .txt, with the delimiter between; else one each into a folder.

    Raises:
        UsageError: a file exists already.
    """
    if destination.suffix == ".txt":
        wanted = {destination: delimiter.join(f"{item.text}\n" for item in texts)}
    else:
        wanted = {destination / f"text-{item.seed}-{item.sample:04d}.txt": item.text + "\n" for item in texts}
    for path in wanted:
        if path.exists():
            raise UsageError("the file exists already", where=str(path), fix="name another file or folder with -o")
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.encode())
    return list(wanted)


def check(entry: Entry, n: int, batch_size: int) -> None:
    task = task_of(entry.bundle)
    if task.name != TASK:
        raise UsageError(
            f"{entry.name} is made for {task.name} and writes no texts", where="MODEL", fix="budwood predict answers it"
        )
    for name, value in (("n", n), ("batch_size", batch_size)):
        if not 1 <= value <= 10_000:
            raise UsageError(f"{name} is {value}", where=f"--{name.replace('_', '-')}", fix="give 1 to 10000")


def prepared(entry: Entry, prompt: str) -> str:
    """The prompt in the form that training had: a model of prompts and completions had a separator after each."""
    return joined(prompt) if prompt and task_of(entry.bundle).to_json()["kind"] == "completions" else prompt
