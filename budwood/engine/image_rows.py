"""Image files to labelled rows: each file is decoded and hashed, and one that is broken is left out with a note."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from budwood.core.dataset import Dataset
from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.images import SUFFIXES, Source, open_image, read_source
from budwood.engine.pixels import usable_cores
from budwood.engine.reading import Reading
from budwood.engine.table import Place, note

__all__ = ["Item", "check", "image_files", "is_image_name", "naming_table", "reading_of"]

CHECKED_EDGE = 64
"""JPEGs are checked at an eighth of their size: all of the file is read, and most of the arithmetic is saved."""
LISTED = 10
TABLES = (".csv", ".tsv", ".jsonl")
HEAD = 1 << 16
"""Bytes in which the name of an image must turn up."""
NAMED = re.compile(rf"[\w)\]]({'|'.join(re.escape(suffix) for suffix in SUFFIXES)})\b", re.IGNORECASE)
JUNK = frozenset({"thumbs.db", "desktop.ini"})


class Item(NamedTuple):
    """One image before it is checked."""

    source: Source
    place: Place
    fields: dict[str, Any]
    """`label`, and `split` and `group` where they are known."""


def reading_of(
    items: Sequence[Item],
    path: Path,
    notes: Sequence[str],
    facts: dict[str, Any],
    refused: Sequence[tuple[Place, str]] = (),
) -> Reading:
    """Check every image and make rows `{"image", "sha256", "label"}`, the image being its absolute path.

    Args:
        facts: added to the reading's own, which name `path` and a hash of all images and labels as the source.
        refused: items that were left out before, and why.

    Raises:
        DataError: not one image can be decoded; `where` names the first.
    """
    with ThreadPoolExecutor(usable_cores(), "check") as pool:
        checked = list(pool.map(check, (item.source for item in items)))
    rows: list[Row] = []
    places: list[Place] = []
    skipped = list(refused)
    for item, (sha256, problem) in zip(items, checked, strict=True):
        if problem:
            skipped.append((item.place, problem))
            continue
        source = str(item.source.absolute()) if isinstance(item.source, Path) else item.source
        rows.append({"image": source, "sha256": sha256, **item.fields})
        places.append(item.place)
    if not rows:
        raise DataError(
            "not one image can be read" if skipped else "there are no images",
            where=f"{skipped[0][0].source}: {skipped[0][1]}" if skipped else str(path),
            fix="give JPEG, PNG, WebP or TIFF files",
        )
    lines = [*notes, *class_notes(rows), *skip_notes(skipped)]
    origin = {"path": str(path), "sha256": digest(rows), "rows": len(rows)}
    known = {"sources": [origin], "input": ["image"], "target": "label", "group": None, "rows": len(rows)}
    return Reading(Dataset(tuple(rows), (path.name,)), tuple(places), tuple(lines), known | facts, tuple(skipped))


def digest(rows: Sequence[Row]) -> str:
    """One hash of all images and their labels; where the files lie does not matter."""
    contents = sorted(f"{row['sha256']} {row['label']}" for row in rows)
    return hashlib.sha256("\n".join(contents).encode("utf-8", "surrogatepass")).hexdigest()


def check(source: Source) -> tuple[str, str]:
    """The SHA-256 of the file, and what is wrong with it: nothing, or why it cannot be used."""
    try:
        content = read_source(source)
        open_image(content, CHECKED_EDGE)
    except DataError as error:
        return "", error.cause
    return hashlib.sha256(content).hexdigest(), ""


def class_notes(rows: Sequence[Row]) -> Iterator[str]:
    counts = Counter(row["label"] for row in rows if isinstance(row.get("label"), str))
    if 1 < len(counts) <= LISTED:
        yield note("classes", len(counts), ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))


def skip_notes(skipped: Sequence[tuple[Place, str]]) -> Iterator[str]:
    for place, problem in skipped[:LISTED]:
        yield note("skipped", place.source, problem)
    if len(skipped) > LISTED:
        yield note("skipped", f"{len(skipped):,} images", "in all; `budwood doctor` lists them")


def naming_table(path: Path) -> Path | None:
    """The path itself where it is a table, or the one table of a folder, if it mentions an image file."""
    try:
        found = [path] if path.is_file() else sorted(path.iterdir())
        tables = [file for file in found if file.suffix.lower() in TABLES and file.is_file()]
        if len(tables) != 1:
            return None
        with tables[0].open("rb") as file:
            return tables[0] if NAMED.search(file.read(HEAD).decode("utf-8", "replace")) else None
    except OSError:
        return None  # whoever reads the path says what is wrong with it


def is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def image_files(folder: Path, wanted: Callable[[str], bool] = is_image_name) -> list[Path]:
    """Files below a folder whose names are wanted, sorted; hidden files and folders are left out.

    Links to folders are followed, each folder once, but not to one that holds `folder`.

    Raises:
        DataError: the folder cannot be read.
    """
    root = os.path.realpath(folder)
    seen: set[str] = set()
    links: list[Path] = []
    found: list[Path] = []
    try:
        found += files_below(folder, wanted, seen, links)
        while links:  # folders come before links to them, so that files go by their own names
            link = links.pop(0)
            real = os.path.realpath(link)
            if real not in seen and os.path.commonpath([root, real]) != real:
                found += files_below(link, wanted, seen, links)
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", where=str(folder), fix="check it") from error
    return sorted(found)


def files_below(folder: Path, wanted: Callable[[str], bool], seen: set[str], links: list[Path]) -> list[Path]:
    """Files in a folder and in folders of it; the folders are added to `seen`, links to further ones to `links`."""
    seen.add(os.path.realpath(folder))
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")) or path.name.lower() in JUNK:
            continue
        if path.is_dir():
            if path.is_symlink():
                links.append(path)
            elif os.path.realpath(path) not in seen:
                found += files_below(path, wanted, seen, links)
        elif path.is_file() and wanted(path.name):
            found.append(path)
    return found
