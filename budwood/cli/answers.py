"""What `predict` reads besides tables, and the files that it writes."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from budwood.core.commit import write_atomic
from budwood.core.errors import DataError, UsageError

__all__ = ["Part", "check_out", "sources", "write"]


class Part(NamedTuple):
    """Inputs that are answered together: texts and images, or a table."""

    texts: Sequence[str | Path]
    table: Path | None


def sources(arguments: Sequence[str], file: Path | None, note: Callable[[str], None]) -> list[Part]:
    """The arguments and `--file` as parts in their order; neighbouring texts and images share a part.

    An argument that is the path of a file is read: .txt as one text a line, images as they are, anything else as a
    table. `-` is standard input, one text a line.
    """
    from budwood.engine.images import SUFFIXES

    parts: list[Part] = []
    given: list[str | Path] = [*arguments, *([file] if file is not None else [])]
    for argument in given:
        path = argument if isinstance(argument, Path) else existing(argument)
        image = path is not None and path.suffix.lower() in SUFFIXES and path.is_file()
        table = None if image else table_of(argument)
        if table is not None:
            parts.append(Part((), table))
            continue
        texts: list[str | Path] = [path] if image and path is not None else [*texts_of(argument, note)]
        if parts and parts[-1].table is None:
            texts = [*parts.pop().texts, *texts]
        if texts:
            parts.append(Part(texts, None))
    return parts


def table_of(argument: str | Path) -> Path | None:
    if isinstance(argument, Path):
        return None if argument.suffix.lower() == ".txt" and argument.is_file() else argument
    path = existing(argument)
    return path if path is not None and path.suffix.lower() != ".txt" else None


def existing(argument: str) -> Path | None:
    """The file that an argument names; None for a text, which may be longer than any path."""
    try:
        return Path(argument) if argument != "-" and Path(argument).is_file() else None
    except (OSError, ValueError):
        return None


def texts_of(argument: str | Path, note: Callable[[str], None]) -> list[str]:
    if argument == "-":
        return lines(sys.stdin.buffer.read(), "standard input", note)
    path = argument if isinstance(argument, Path) else existing(argument)
    return [str(argument)] if path is None else lines(path.read_bytes(), str(path), note)


def lines(content: bytes, name: str, note: Callable[[str], None]) -> list[str]:
    """The lines that hold a text. Raises DataError when they are not UTF-8."""
    try:
        # Not splitlines: form feeds and the like are part of a text.
        found = [line.removesuffix("\r") for line in content.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            "the text is not UTF-8", where=f"{name}: line {number}", fix=f"iconv -t utf-8 {name}"
        ) from error
    texts = [line for line in found if line.strip()]
    empty = len(found) - len(texts) - (found[-1] == "")
    if empty:
        note(f"{name}: {empty:,} empty lines are left out")
    return texts


def write(answers: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Write a file that appears complete or not at all, and say how many answers it holds.

    Raises:
        UsageError: its suffix is none of .csv, .tsv, .jsonl.
    """
    check_out(out)
    rows = list(answers)
    write_atomic(out, WRITERS[out.suffix.lower()](rows).encode())
    return len(rows)


def check_out(out: Path, source: Path | None = None) -> None:
    """Raise UsageError, before any work, when the suffix is unknown or the file is the one that is read."""
    if out.suffix.lower() not in WRITERS:
        raise UsageError(f"{out.name} has no known suffix", where="-o", fix="call it .csv, .tsv or .jsonl")
    if source is not None and source.exists() and out.exists() and out.samefile(source):
        raise UsageError("it would overwrite the file that is read", where=f"-o {out}", fix="choose another name")


def as_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    return delimited(rows, ",")


def as_tsv(rows: Sequence[Mapping[str, Any]]) -> str:
    return delimited(rows, "\t")


def delimited(rows: Sequence[Mapping[str, Any]], delimiter: str) -> str:
    """Plain values as they are; lists and objects, such as all the scores, as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    table.writerow(names)
    for row in rows:
        table.writerow([cell(row.get(name, "")) for name in names])
    return text.getvalue()


def cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


WRITERS = {".csv": as_csv, ".tsv": as_tsv, ".jsonl": as_jsonl, ".json": as_jsonl}
