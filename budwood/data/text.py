"""Texts to learn writing from: one .txt file, or a folder of them. UTF-8, UTF-16 or Western Windows text.

    <|startoftext|>It was a dark night.<|endoftext|>The second document.

`<|endoftext|>` ends a document; without it, each file is one. A few long documents are cut at blank lines into parts,
so that some can be held out; the parts know that they neither begin nor end a document.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, UsageError
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.columns import choose_columns
from budwood.engine.encoding import decode
from budwood.engine.reading import Reading, load, read_source, split_of, texts_of
from budwood.engine.table import Place, note

__all__ = ["Text"]

END = "<|endoftext|>"
MARKS = re.compile(r"<\|startoftext\|>")
BLANK = re.compile(r"\n[ \t]*\n+")
SUFFIX = ".txt"
NOTES = ".md"
"""A README beside the texts is no text to learn."""
PARTS = 200
"""Parts into which a corpus of few documents is cut, so that a tenth of them says something."""
SHORTEST = 2_000
"""Characters of a part, at least: parts must be longer than what a model looks back on."""
FEW = 50
"""Documents below which long ones are cut."""
TABLE_SHARE = 0.75
"""Share of lines with the same number of tabs (or commas, …) from which a .txt file is a table."""


class Part(NamedTuple):
    text: str
    starts: bool
    ends: bool
    line: int


@final
@dataclass(frozen=True)
class Text(Collection):
    def claims(self, path: Path) -> bool:
        """Whether `path` is a .txt file of prose, or a folder in which all files (hidden ones and notes aside) are."""
        if path.is_dir():
            # Lazily: the first file that is no text ends it, so a folder of a million images is passed by at once.
            kinds = (item.suffix.lower() for item in path.rglob("*") if shown(item, path) and item.is_file())
            if any(kind not in (SUFFIX, NOTES) for kind in kinds):
                return False
            files = visible(path)
        else:
            files = [path] if path.is_file() and path.suffix.lower() == SUFFIX else []
        return bool(files) and not any(is_table(file) for file in files[:3])

    def read(
        self, path: Path, target: str | None = None, input: str | None = None, group: str | None = None
    ) -> Reading:
        """Rows `{"text"}` with `starts` or `ends` False for parts of documents, and `split` for files named so.

        Raises:
            DataError: a file is not text, or there is no text at all.
            UsageError: a column is named; texts have none.
        """
        if target or input or group:
            raise UsageError("texts have no columns", where="--target, --input, --group", fix="leave them out")
        files = visible(path) if path.is_dir() else [path]
        texts, notes, sources = [], [], []
        for file in files:
            content, _ = load(file)
            text, encoding = decode(content, file.name)
            texts.append(text.replace("\r\n", "\n"))
            notes.append(f"{file.name}: {encoding}" if len(files) > 1 else encoding)
            sources.append({"path": str(file), "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
        documents = [list(documents_of(text)) for text in texts]
        count = sum(map(len, documents))
        if count == 0:
            raise DataError("there is no text", where=str(path), fix="give a .txt file with something to learn from")
        size = max(SHORTEST, sum(map(len, texts)) // PARTS) if count < FEW else None
        rows: list[Row] = []
        places: list[Place] = []
        for file, own in zip(files, documents, strict=True):
            split = split_of(file, path) if path.is_dir() else None
            parts = [part for document in own for part in (cut(document, size) if size else [document])]
            rows += [row_of(part, split) for part in parts]
            places += [Place(file.name, part.line) for part in parts]
        notes.append(note("documents", f"{count:,}", f"split at {END}" if count > len(files) else "one a file"))
        if size and len(rows) > count:
            notes.append(note("parts", f"{len(rows):,}", f"cut at blank lines, about {size:,} characters each"))
        facts: dict[str, Any] = {"sources": sources, "input": ["text"], "target": None, "group": None}
        names = tuple(file.name for file in files)
        return Reading(Dataset(tuple(rows), names), tuple(places), tuple(notes), facts | {"rows": len(rows)})

    def inputs(self, path: Path, input: str | None = None) -> list[Row]:
        """One row a line, as tables without a delimiter have them: prompts, or texts to label, no documents."""
        rows: list[Row] = []
        for file in visible(path) if path.is_dir() else [path]:
            source = read_source(file, None, skip_bad=False)
            columns = choose_columns(source.table, file.name, input=input, labelled=False)
            rows += [{"text": text} for text in texts_of(source, columns)]
        return rows


def visible(folder: Path) -> list[Path]:
    """The files of a folder and of its sub-folders, sorted; hidden ones and those of hidden folders left out."""
    found = (item for item in folder.rglob(f"*{SUFFIX}") if shown(item, folder) and item.is_file())
    return sorted(found)


def shown(item: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in item.relative_to(folder).parts)


def is_table(file: Path) -> bool:
    """Whether most lines have the same number of some delimiter: then it holds labelled rows, not prose."""
    with file.open("rb") as stream:
        head = stream.read(1 << 16)
    lines = [line for line in head.split(b"\n")[:500] if line.strip()]
    if END.encode() in head or len(lines) < 2:
        return False
    for delimiter in (b"\t", b";", b"|", b","):
        counts = [line.count(delimiter) for line in lines]
        usual = max(set(counts), key=counts.count, default=0)
        if usual > 0 and counts.count(usual) >= TABLE_SHARE * len(counts):
            return True
    return False


def documents_of(text: str) -> Iterator[Part]:
    """The documents of a file, without their marks and the blank lines around them."""
    line = 1
    for piece in text.split(END):
        body = MARKS.sub("", piece)
        if body.strip():
            yield Part(body.strip("\n"), True, True, line + (len(piece) - len(piece.lstrip("\n"))))
        line += piece.count("\n")


def cut(document: Part, size: int) -> Sequence[Part]:
    """A document in parts of about `size` characters; each ends after a blank line, where there is one in reach."""
    text, parts, start = document.text, [], 0
    while start < len(text):
        stop = len(text)
        if stop - start > 1.5 * size:
            blank = BLANK.search(text, start + size, start + 2 * size)
            newline = text.find("\n", start + size, start + 2 * size) + 1
            stop = blank.end() if blank else newline or start + size
        line = document.line + text.count("\n", 0, start)
        parts.append(Part(text[start:stop], start == 0, stop == len(text), line))
        start = stop
    return parts


def row_of(part: Part, split: str | None) -> Row:
    row: dict[str, Any] = {"text": part.text}
    if not part.starts:
        row["starts"] = False
    if not part.ends:
        row["ends"] = False
    return row | ({"split": split} if split else {})
