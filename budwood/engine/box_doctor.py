"""The data doctor for images with boxes: what cannot be right about boxes, labels, images and splits."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from budwood.engine.box_conventions import Convention, misread
from budwood.engine.box_rows import LEAST_SIDE, BoxCollection, Settled, boxed_reading, settle
from budwood.engine.boxes import iou
from budwood.engine.findings import IMBALANCE, LEAK_GATE, Finding, gravest_first
from budwood.engine.label_check import spelling_variants
from budwood.engine.reading import Reading
from budwood.engine.table import Place

__all__ = ["Examined", "diagnose_boxes", "examine"]

TINY = 8.0
"""Pixels of a side below which detectors seldom see an object."""
SAME = 0.9
"""Overlap above which two boxes mark one object."""
OUTSIDE = 0.02
"""Share of the image's side by which a box may leave it; less is rounding."""
MOST = 0.5
"""Share of boxes without a use from which none of the numbers can be trusted."""
DROP = "drop them, and images without any other; or draw them again"
LISTED = 3
FEW = 10
"""Objects of a label below which hardly anything is learnt of it."""


@dataclass(frozen=True)
class Examined:
    """What the files state, with boxes in pixels as they would be read, and what else the numbers may mean."""

    settled: tuple[Settled, ...]
    broken: tuple[tuple[Place, str], ...]
    unannotated: tuple[Path, ...]
    reading: Reading
    """The rows that training would get."""
    convention: Convention | None

    @property
    def hashes(self) -> dict[Place, str]:
        """The SHA-256 of each image that can be decoded."""
        pairs = zip(self.reading.places, self.reading.dataset.rows, strict=True)
        return {place: str(row["sha256"]) for place, row in pairs}


def examine(collection: BoxCollection, path: Path) -> Examined:
    """Read a collection as it is. Raises DataError when there is nothing in it, or no image can be read."""
    found = collection.annotations(path, None)
    settled, unreadable = settle(found.items)
    reading = boxed_reading(path, found, settled, unreadable, lenient=True)
    settled = [one for one in settled if one.item.objects or not one.item.lost]  # the others are among the broken
    broken = dict([*found.skipped, *unreadable, *reading.skipped])
    return Examined(tuple(settled), tuple(broken.items()), found.unannotated, reading, misread(settled))


def diagnose_boxes(examined: Examined, test: Examined | None = None) -> list[Finding]:
    """All findings, the gravest first. `test` are other images than those that carry the split test."""
    if examined.convention is not None:
        rows = tuple(one.item.place for one in examined.settled if one.boxes)
        message = f"the numbers of the boxes are {examined.convention.name}: read so, nearly all lie in their images"
        found = [Finding("box_convention", "error", message, rows, "rewrite them, or correct the export", True)]
        return gravest_first([*found, *broken(examined), *splits(examined, test)])
    settled = examined.settled
    found = [
        *broken(examined),
        *sizes(settled),
        *boxes(settled),
        *repeats(settled),
        *labels(settled),
        *unmarked(examined),
        *splits(examined, test),
    ]
    return gravest_first(found)


def broken(examined: Examined) -> Iterator[Finding]:
    if examined.broken:
        place, reason = examined.broken[0]
        message = f"{len(examined.broken):,} images or annotations cannot be used; {place}: {reason}"
        rows = tuple(place for place, _ in examined.broken)
        yield Finding("broken_annotation", "error", message, rows, "export them again, or leave them out", True)


def sizes(settled: Sequence[Settled]) -> Iterator[Finding]:
    """Images that were resized after they had been annotated."""
    wrong = [one for one in settled if wrong_size(one)]
    if wrong:
        one = wrong[0]
        stated = " × ".join(map(str, one.item.size or ()))
        message = f"{len(wrong):,} images have another size than their annotation states, such as {one.item.place}: "
        message += f"{one.width} × {one.height}, not {stated}"
        fix = "boxes drawn at the stated size have to be scaled with the image; look at some"
        yield Finding("image_size", "error", message, tuple(one.item.place for one in wrong), fix, True)


def wrong_size(one: Settled) -> bool:
    return one.item.size is not None and sorted(one.item.size) != sorted((one.width, one.height))


def boxes(settled: Sequence[Settled]) -> Iterator[Finding]:
    """Boxes that cannot be an object of their image, each kind a finding."""
    kinds: tuple[tuple[str, str, str, Callable[[NDArray[np.float64], Settled], NDArray[np.bool_]]], ...] = (
        ("box_inverted", "have no area, or their corners swapped", DROP, inverted),
        ("box_outside", "lie outside of their image", DROP, outside),
        ("box_over_edge", "reach over the edge of their image", "cut them at the edge", over_edge),
        ("box_tiny", f"have a side of less than {TINY:g} pixels", "take larger images, or leave them out", tiny),
    )
    every = sum(len(one.boxes) for one in settled)
    none = sum(int(useless(np.asarray(one.boxes), one).sum()) for one in settled if one.boxes)
    for kind, what, fix, test in kinds:
        hit = [(one, int(test(np.asarray(one.boxes), one).sum())) for one in settled if one.boxes]
        hit = [(one, count) for one, count in hit if count]
        if hit:
            message = f"{sum(count for _, count in hit):,} of {every:,} boxes {what}"
            rows = tuple(one.item.place for one, _ in hit)
            if fix != DROP:
                yield Finding(kind, "info", message, rows, fix, kind != "box_tiny")
            elif none < MOST * every:
                yield Finding(kind, "warning", message, rows, fix, True)
            else:
                message += "; so many are no slips: the numbers of the boxes are in another convention"
                yield Finding(kind, "error", message, rows, "find out what the numbers mean, and export them again")


def inverted(found: NDArray[np.float64], one: Settled) -> NDArray[np.bool_]:
    return np.asarray((found[:, 2] <= found[:, 0]) | (found[:, 3] <= found[:, 1]))


def outside(found: NDArray[np.float64], one: Settled) -> NDArray[np.bool_]:
    cut = np.clip(found, 0, np.asarray([one.width, one.height] * 2))
    return np.asarray(((cut[:, 2:] - cut[:, :2]) < LEAST_SIDE).any(axis=1) & ~inverted(found, one))


def useless(found: NDArray[np.float64], one: Settled) -> NDArray[np.bool_]:
    return np.asarray(inverted(found, one) | outside(found, one))


def over_edge(found: NDArray[np.float64], one: Settled) -> NDArray[np.bool_]:
    size = np.asarray([one.width, one.height] * 2)
    beyond = np.maximum(found - size, -found).max(axis=1) > OUTSIDE * size.max()
    return np.asarray(beyond & ~outside(found, one) & ~inverted(found, one))


def tiny(found: NDArray[np.float64], one: Settled) -> NDArray[np.bool_]:
    small = (found[:, 2:] - found[:, :2]).min(axis=1) < TINY
    return np.asarray(small & ~outside(found, one) & ~inverted(found, one))


def repeats(settled: Sequence[Settled]) -> Iterator[Finding]:
    """Two boxes around one object, with one label or with two."""
    same: dict[bool, list[Place]] = {True: [], False: []}
    for one in settled:
        if len(one.boxes) < 2:
            continue
        overlap = np.triu(iou(np.asarray(one.boxes), np.asarray(one.boxes)) > SAME, 1)
        names = np.asarray([thing.label for thing in one.item.objects])
        for alike in {bool(names[i] == names[j]) for i, j in np.argwhere(overlap)}:
            same[alike].append(one.item.place)
    if same[True]:
        message = f"{len(same[True]):,} images have an object that is marked twice"
        yield Finding("box_duplicate", "warning", message, tuple(same[True]), "drop the repeats", True)
    if same[False]:
        message = f"{len(same[False]):,} images have an object with two labels"
        yield Finding("box_conflict", "warning", message, tuple(same[False]), "decide on one label each")


def labels(settled: Sequence[Settled]) -> Iterator[Finding]:
    counts = Counter(thing.label for one in settled for thing in one.item.objects)
    for variant, best in spelling_variants(counts).items():
        rows = tuple(one.item.place for one in settled if any(thing.label == variant for thing in one.item.objects))
        message = f"{variant!r} and {best!r} look like one label"
        yield Finding("label_spelling", "warning", message, rows, f"call both {best!r}", True, {variant: best})
    rare = [label for label, count in counts.items() if count < FEW]
    if rare:
        listed = ", ".join(f"{label} ({counts[label]})" for label in sorted(rare)[:LISTED])
        message = f"{len(rare):,} labels have fewer than {FEW} objects: {listed}"
        yield Finding("rare_class", "warning", message, (), "annotate more of them, or leave them out")
    elif len(counts) > 1 and max(counts.values()) > IMBALANCE * min(counts.values()):
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        message = f"{most!r} has {counts[most]:,} objects and {least!r} {counts[least]:,}"
        yield Finding("imbalance", "info", message, (), "annotate more of the rare one; its own AP is in the report")


def unmarked(examined: Examined) -> Iterator[Finding]:
    empty = tuple(one.item.place for one in examined.settled if not one.boxes)
    if empty:
        message = f"{len(empty):,} images are annotated and have no object"
        yield Finding("no_objects", "info", message, empty, "right where nothing is to be found; else annotate them")
    if examined.unannotated:
        rows = tuple(Place(path.name, 1) for path in examined.unannotated)
        message = f"{len(rows):,} images have no annotation"
        yield Finding("no_annotation", "info", message, rows, "annotate them; they are not learnt from")


def splits(examined: Examined, test: Examined | None) -> Iterator[Finding]:
    """Images that are there twice, in one split or on both sides of one."""
    hashes = examined.hashes
    train = [one for one in examined.settled if one.item.split != "test" and one.item.place in hashes]
    held = [one for one in examined.settled if one.item.split == "test" and one.item.place in hashes]
    tested = {hashes[one.item.place] for one in held} if test is None else set(test.hashes.values())
    leaked = tuple(one.item.place for one in train if hashes[one.item.place] in tested)
    if leaked:
        grave = len(leaked) > LEAK_GATE * max(len(tested), 1)
        message = f"{len(leaked):,} images of train are also in test"
        yield Finding("leakage", "error" if grave else "warning", message, leaked, "drop these from train", True)
    seen: dict[str, list[Place]] = defaultdict(list)
    for one in train:
        seen[hashes[one.item.place]].append(one.item.place)
    again = tuple(place for places in seen.values() for place in places[1:])
    if again:
        message = f"{len(again):,} images repeat an earlier one, byte for byte"
        yield Finding("duplicate", "warning", message, again, "keep one of each, with all of its objects", True)
