"""The data doctor for images: broken files, repeats, labels that disagree, leaks, look-alikes and tiny images."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from budwood.core.commit import staged
from budwood.core.errors import DataError, UsageError
from budwood.core.task import Row
from budwood.engine.doctor import Part, class_sizes, merged, spellings, unknown_classes
from budwood.engine.file_names import FileNames
from budwood.engine.findings import LEAK_GATE, NO_LABEL, Finding, gravest_first
from budwood.engine.images import inspect_image, open_image
from budwood.engine.label_check import spelling_variants
from budwood.engine.mending import write_table
from budwood.engine.number_doctor import diagnose_numbers
from budwood.engine.pixels import usable_cores
from budwood.engine.reading import Reading
from budwood.engine.risk_labels import are_amounts
from budwood.engine.splits import labels_of
from budwood.engine.table import Place, Table, Value

__all__ = ["diagnose_images", "write_images"]

TINY = 32
"""Shorter side in pixels below which little can be seen."""
NEAR_BITS = 3
"""Bits of 64 in which the fingerprints of two nearly equal images may differ."""
NEAR_IMAGES = 10_000
"""Images that are compared with each other; the time grows with the square."""
EDGE = 64


@dataclass(frozen=True)
class Images(Part):
    """Images that are learnt from, or tested on; two with the same bytes are the same image."""

    @cached_property
    def keys(self) -> list[str]:
        return [str(row["sha256"]) for row in self.rows]

    @classmethod
    def of(cls, reading: Reading, *, tested: bool) -> "Images":
        pairs = zip(reading.dataset.rows, reading.places, strict=True)
        chosen = [(row, place) for row, place in pairs if (row.get("split") == "test") is tested]
        return cls(tuple(row for row, _ in chosen), tuple(place for _, place in chosen))


def diagnose_images(reading: Reading, test: Reading | None = None) -> list[Finding]:
    """All findings, the gravest first. `test` are other test images than those that carry the split test."""
    train = Images.of(reading, tested=False)
    held = Images.of(reading, tested=True) if test is None else Images(test.dataset.rows, test.places)
    found = [
        *broken([*reading.skipped, *(test.skipped if test is not None else ())]),
        *of_labels(train, held),
        *repeats(train),
        *conflicts(train),
        *leakage(train, held),
        *near_copies(train, held),
        *tiny(train),
    ]
    return gravest_first(found)


def of_labels(train: Images, held: Images) -> Iterable[Finding]:
    """Numbers and times are looked at as such, all else as classes."""
    if are_amounts(train.rows):
        yield from diagnose_numbers(train.rows, train.places)
        return
    labels = Counter(label for row in train.rows for label in labels_of(row))
    variants = spelling_variants(labels)
    yield from spellings(train, labels, variants)
    yield from class_sizes(train, merged(labels, variants))
    yield from unknown_classes(held, labels, variants)


def broken(skipped: Sequence[tuple[Place, str]]) -> Iterable[Finding]:
    if bare := tuple(place for place, reason in skipped if reason == NO_LABEL):
        message = f"{len(bare):,} images have no label"
        yield Finding("empty_label", "error", message, bare, "label them, or leave them out", True)
    unreadable = [(place, reason) for place, reason in skipped if reason != NO_LABEL]
    if unreadable:
        place, reason = unreadable[0]
        message = f"{len(unreadable):,} files cannot be read as images; {place}: {reason}"
        rows = tuple(place for place, _ in unreadable)
        yield Finding("broken_image", "error", message, rows, "save them again, or leave them out", True)


def repeats(part: Images) -> Iterable[Finding]:
    seen: set[tuple[str, str, object]] = set()
    again = []
    for index, row in enumerate(part.rows):
        key = (part.keys[index], str(row["label"]), row.get("split"))
        if key in seen:
            again.append(index)
        seen.add(key)
    if again:
        message = f"{len(again):,} images repeat an earlier one, bytes and label"
        yield Finding("duplicate", "warning", message, part.at(again), "drop the repeats", True)


def conflicts(part: Images) -> Iterable[Finding]:
    labels: dict[str, set[str]] = defaultdict(set)
    for key, row in zip(part.keys, part.rows, strict=True):
        labels[key].add(str(row["label"]))
    torn = [index for index, key in enumerate(part.keys) if len(labels[key]) > 1]
    if torn:
        message = f"{len({part.keys[i] for i in torn}):,} images have different labels in different places"
        yield Finding("conflict", "warning", message, part.at(torn), "decide on one label each, or drop them", True)


def leakage(train: Images, held: Images) -> Iterable[Finding]:
    tested = set(held.keys)
    same = [index for index, key in enumerate(train.keys) if key in tested]
    if same:
        grave = len(same) > LEAK_GATE * len(held.rows)
        message = f"{len(same):,} images of train are also in test"
        fix = "drop these from train"
        yield Finding("leakage", "error" if grave else "warning", message, train.at(same), fix, True)


def near_copies(train: Images, held: Images) -> Iterable[Finding]:
    """Images that look the same in 9 x 8 grey pixels (difference hash): resized, recompressed or barely cropped copies.

    Only the first `NEAR_IMAGES` are compared, and one is named for each that resembles an earlier one.
    """
    rows = (*held.rows, *train.rows)[:NEAR_IMAGES]
    places = (*held.places, *train.places)[:NEAR_IMAGES]
    keys = (*held.keys, *train.keys)[:NEAR_IMAGES]
    if len(rows) < 2:
        return
    pairs = [(i, j) for i, j in alike(fingerprints(rows)) if keys[i] != keys[j]]
    across = [(i, j) for i, j in pairs if j < len(held.rows) <= i]
    for kind, chosen, where, grave in (
        ("near_leakage", across, "of train look like one of test", len(across) > LEAK_GATE * max(len(held.rows), 1)),
        ("near_duplicate", [pair for pair in pairs if pair not in set(across)], "look like an earlier one", False),
    ):
        if chosen:
            message = f"{len(chosen):,} images {where}, such as {places[chosen[0][0]]} and {places[chosen[0][1]]}"
            fix = "look at them: copies on both sides of a split flatter the score"
            concerned = tuple(places[i] for i, _ in chosen)
            yield Finding(kind, "warning" if grave else "info", message, concerned, fix)


def fingerprints(rows: Sequence[Row]) -> NDArray[np.uint64]:
    """64 bits an image: whether each of 8 x 8 places is brighter than the next one to its right."""

    def bits(row: Row) -> NDArray[np.bool_]:
        grey = open_image(row["image"], EDGE).convert("L").resize((9, 8), Image.Resampling.BILINEAR)
        pixels = np.asarray(grey)
        return np.asarray(pixels[:, 1:] > pixels[:, :-1]).reshape(-1)

    with ThreadPoolExecutor(usable_cores(), "fingerprint") as pool:
        each = np.packbits(np.stack(list(pool.map(bits, rows))), axis=1)
    return each.view(np.uint64).reshape(-1)


def alike(marks: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """(later, earlier) of each image that resembles an earlier one; plain images, with all bits equal, are left out."""
    ones = np.bitwise_count(marks)
    found = []
    for index in np.flatnonzero((ones > NEAR_BITS) & (ones < 64 - NEAR_BITS)):
        near = np.flatnonzero(np.bitwise_count(marks[:index] ^ marks[index]) <= NEAR_BITS)
        if len(near):
            found.append((int(index), int(near[0])))
    return found


def tiny(part: Images) -> Iterable[Finding]:
    rows = [i for i, row in enumerate(part.rows) if min(inspect_image(row["image"])[1:]) < TINY]
    if rows:
        message = f"{len(rows):,} images have a shorter side of less than {TINY} pixels"
        yield Finding("tiny_image", "info", message, part.at(rows), "take larger ones where you have them")


def write_images(reading: Reading, findings: Sequence[Finding], folder: Path) -> None:
    """Write a mended copy of what was read; after a crash the folder is whole or absent.

    Spellings are merged; repeats, conflicts and leaks are dropped; what is broken was never read. Images of folders go
    into `folder/[split/]label/`: a label that is no name of a folder, such as `..` or `a/b`, is one with `-`, and
    different labels always have different folders. A table stays a table, with all of its columns under their own
    names, beside `folder/images/`.

    Raises:
        UsageError: the folder exists; nothing is ever overwritten.
        DataError: no image would stay, or the images are no files.
    """
    if folder.exists():
        raise UsageError(
            f"{folder.name} already exists", where=str(folder), fix="name a folder that does not exist yet"
        )
    if any(str(row["image"]).startswith("data:") for row in reading.dataset.rows[:1]):
        raise DataError("images in arrays are not mended", where="--fix", fix="unpack them into folders of images")
    kept = kept_rows(reading, findings)
    if not kept:
        raise DataError("no image would stay", where="--fix", fix="mend the data by hand; each finding has a fix")
    with staged(folder) as stage:
        if reading.tables:
            write_as_table(reading, kept, stage)
        else:
            write_as_folders([row for _, row in kept], stage)


def kept_rows(reading: Reading, findings: Sequence[Finding]) -> list[tuple[int, Row]]:
    """The rows that stay, with their numbers in the reading."""
    fixable = [finding for finding in findings if finding.fixable]
    rename = {old: new for finding in fixable for old, new in finding.rename.items()}
    dropped = {place for finding in fixable if not finding.rename for place in finding.rows}
    rows = enumerate(zip(reading.dataset.rows, reading.places, strict=True))
    return [(i, {**row, "label": renamed(row["label"], rename)}) for i, (row, place) in rows if place not in dropped]


def renamed(label: Any, rename: Mapping[str, str]) -> Any:
    if isinstance(label, list):
        return list(dict.fromkeys(rename.get(name, name) for name in label))
    return rename.get(label, label) if isinstance(label, str) else label


def write_as_folders(rows: Sequence[Row], folder: Path) -> None:
    classes, files = FileNames(), defaultdict[str, FileNames](FileNames)
    folders = {label: classes.unused(label) for label in sorted({str(row["label"]) for row in rows})}
    for row in rows:
        source = Path(row["image"])
        own = f"{row.get('split', '.')}/{folders[str(row['label'])]}"
        (folder / own).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / own / files[own].unused(source.stem, source.suffix))


def write_as_table(reading: Reading, kept: Sequence[tuple[int, Row]], folder: Path) -> None:
    """Only the names of the images change, and labels that were spelt in several ways."""
    ((table, columns),) = reading.tables
    (own,), target = columns.inputs, columns.target
    assert target is not None  # the doctor reads labelled rows
    image = own if table.header else "image"  # a name by which the first line is known as a header
    files = FileNames()
    written: list[dict[str, Value]] = []
    (folder / "images").mkdir()
    for index, row in kept:
        source = Path(row["image"])
        name = f"images/{files.unused(source.stem, source.suffix)}"
        shutil.copyfile(source, folder / name)
        cells = {image if column == own else column: cell for column, cell in table.rows[index].items()}
        label = {target: row["label"]} if row["label"] != reading.dataset.rows[index]["label"] else {}
        written.append({**cells, **label, image: name})
    whole = Table(tuple(written[0]), written, range(1, len(written) + 1), True)
    write_table(whole, folder / f"table{Path(reading.places[0].source).suffix.lower()}")
