"""Images with boxes, as every annotation format gives them: found, checked against their images, made into rows.

A reader in `budwood/data/` extends `BoxCollection` and says what the files state; the rest happens here.

Boxes are absolute pixels `[x1, y1, x2, y2]` of the image as it is shown, that is after its EXIF orientation. Where an
annotation states the size of the image as it is stored and not as it is shown, its boxes are turned with the image.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.image_rows import Item, image_files, reading_of
from budwood.engine.images import stored_and_turn
from budwood.engine.pixels import usable_cores
from budwood.engine.reading import Reading
from budwood.engine.table import Place, note

__all__ = ["Annotated", "Annotations", "Box", "BoxCollection", "Settled", "boxed_reading", "settle"]

LEAST_SIDE = 1.0
"""Pixels of an image that a box must have on each side to be kept."""
LISTED = 10
RESIZED = 0.01
"""Share of a side by which an image may differ from the size that its annotation states; a pixel is always allowed."""
QUARTERS = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""


class Box(NamedTuple):
    """One object as its annotation states it."""

    label: str
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2; shares of the image where the annotation says `relative`."""
    crowd: bool = False
    """Whether it stands for many objects that nobody has told apart: neither learnt nor counted."""


@dataclass(frozen=True)
class Annotated:
    """One image and what is in it, before anything is checked."""

    image: Path
    place: Place
    objects: tuple[Box, ...]
    size: tuple[int, int] | None = None
    """Width and height of the image, where the annotation states them."""
    split: str | None = None
    group: str | None = None
    relative: bool = False
    """Whether boxes are shares of width and height."""
    lost: tuple[tuple[Place, str], ...] = ()
    """Objects that the annotation names and that cannot be used, and why. `place` of the image is none of theirs."""


@dataclass(frozen=True)
class Annotations:
    """All that the files of a collection state."""

    items: tuple[Annotated, ...]
    skipped: tuple[tuple[Place, str], ...] = ()
    """Annotations that cannot be used, and why."""
    unannotated: tuple[Path, ...] = ()
    """Images that no annotation speaks of; they are not learnt from."""
    notes: tuple[str, ...] = ()


class Settled(NamedTuple):
    """An annotated image with its boxes in pixels as it is shown."""

    item: Annotated
    width: int
    height: int
    boxes: tuple[tuple[float, float, float, float], ...]
    """One for each of the item's objects, unchanged by any limit."""


class BoxCollection(Collection):
    """A reader of images with boxes."""

    first: ClassVar[bool] = True
    groups: ClassVar[bool] = False
    """Whether the format can name groups of images."""

    @abstractmethod
    def annotations(self, path: Path, group: str | None) -> Annotations:
        """What the files state. Raises DataError when there is nothing to read."""

    def read(self, path: Path, target: str | None, input: str | None, group: str | None) -> Reading:
        """Rows `{"image", "sha256", "label": [{"label", "box"}, …]}`; objects outside of their image are left out."""
        named = (("target", target), ("input", input), ("group", None if self.groups else group))
        if flag := next((name for name, value in named if value), None):
            raise DataError("annotation files have no columns", where=f"--{flag}", fix=f"leave out --{flag}")
        found = self.annotations(path, group)
        settled, broken = settle(found.items)
        return boxed_reading(path, found, settled, broken, group)

    def inputs(self, path: Path, input: str | None) -> list[Row]:
        """Every image below the folder, or beside the file."""
        files = image_files(path if path.is_dir() else path.parent)
        if not files:
            raise DataError("there are no images", where=str(path), fix="name a folder of images")
        return [{"image": str(file.absolute())} for file in files]


def boxed_reading(
    path: Path,
    found: Annotations,
    settled: Sequence[Settled],
    broken: Sequence[tuple[Place, str]],
    group: str | None = None,
    *,
    lenient: bool = False,
) -> Reading:
    """Rows of annotated images. An image is without objects only where its annotation is: others are left out.

    Args:
        lenient: keep images whose boxes cannot be right as they stand, for the doctor to look at.

    Raises:
        DataError: no image, or no annotation, can be used.
    """
    dropped: Counter[str] = Counter()
    items: list[Item] = []
    empty = sum(not one.item.objects and not one.item.lost for one in settled)
    refused = [*found.skipped, *broken]
    for one in settled:
        fields = fields_of(one, dropped)
        reason = unusable(one, fields["label"])
        if reason and not (lenient and one.item.objects):
            refused.append((one.item.place, reason))
            continue
        items.append(Item(one.item.image, one.item.place, fields))
        refused += one.item.lost
    if settled and not items:
        place, reason = refused[0]
        raise DataError("not one annotation can be used", where=f"{place}: {reason}", fix=f"budwood doctor {path}")
    counts = Counter(entry["label"] for item in items for entry in item.fields["label"])
    notes = [*found.notes, *about(counts, items, empty, dropped, found.unannotated)]
    return reading_of(items, path, notes, {"group": group, "objects": dict(counts)}, refused)


def unusable(one: Settled, label: Sequence[object]) -> str | None:
    """Why an image cannot be learnt from as it is annotated; None where it can."""
    stated, item = one.item.size, one.item
    if stated is not None and item.objects and not any(alike(stated, side) for side in sides(one)):
        return (
            f"the image is {one.width} × {one.height} and its annotation of {stated[0]} × {stated[1]}; "
            "`budwood doctor --fix OUT` scales the boxes"
        )
    count = len(item.objects) + len(item.lost)
    if label or not count:
        return None
    reason = item.lost[0][1] if item.lost else "outside of the image, or without area"
    return f"none of its {count:,} objects can be used: {reason}"


def sides(one: Settled) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height as the image is shown, and as it may be stored on its side."""
    return (one.width, one.height), (one.height, one.width)


def alike(stated: tuple[int, int], real: tuple[int, int]) -> bool:
    return all(abs(a - b) <= max(1.0, RESIZED * b) for a, b in zip(stated, real, strict=True))


def settle(items: Sequence[Annotated]) -> tuple[list[Settled], list[tuple[Place, str]]]:
    """Look up each image's size and bring its boxes into pixels as it is shown; images that cannot be read, and why."""

    def look(item: Annotated) -> Settled | str:
        try:
            width, height, orientation = stored_and_turn(item.image)
        except DataError as error:
            return error.cause
        return Settled(item, *upright(width, height, orientation), in_pixels(item, width, height, orientation))

    with ThreadPoolExecutor(usable_cores(), "measure") as pool:
        found = list(pool.map(look, items))
    good = [one for one in found if isinstance(one, Settled)]
    return good, [(item.place, one) for item, one in zip(items, found, strict=True) if isinstance(one, str)]


def upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation in QUARTERS else (width, height)


def in_pixels(
    item: Annotated, width: int, height: int, orientation: int
) -> tuple[tuple[float, float, float, float], ...]:
    """Boxes in pixels of the shown image. `width` and `height` are those of the stored one."""
    wide, high = upright(width, height, orientation)
    if item.relative:
        return tuple((b[0] * wide, b[1] * high, b[2] * wide, b[3] * high) for _, b, _ in item.objects)
    as_stored = item.size == (width, height) != (wide, high)
    return tuple(turned(b, width, height, orientation) if as_stored else b for _, b, _ in item.objects)


def turned(
    box: tuple[float, float, float, float], width: int, height: int, orientation: int
) -> tuple[float, float, float, float]:
    """A box of the stored image, as it lies when the image is shown; for the orientations that swap its sides."""
    corners = [(box[0], box[1]), (box[2], box[3])]
    moves: dict[int, Callable[[float, float], tuple[float, float]]] = {
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }
    (ax, ay), (bx, by) = (moves[orientation](x, y) for x, y in corners)
    return (
        (ax, ay, bx, by) if box[2] < box[0] or box[3] < box[1] else (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
    )


def fields_of(one: Settled, dropped: Counter[str]) -> dict[str, Any]:
    """The row's label and roles; what cannot be an object is counted in `dropped`."""
    label: list[dict[str, Any]] = []
    for thing, box in zip(one.item.objects, one.boxes, strict=True):
        x1, y1, x2, y2 = box
        if not x1 < x2 or not y1 < y2:
            dropped["empty or inverted"] += 1
            continue
        cut = [max(x1, 0.0), max(y1, 0.0), min(x2, float(one.width)), min(y2, float(one.height))]
        if cut[2] - cut[0] < LEAST_SIDE or cut[3] - cut[1] < LEAST_SIDE:
            dropped["outside of the image or below a pixel"] += 1
            continue
        entry = {"label": thing.label, "box": [round(value, 2) for value in cut]}
        label.append(entry | ({"crowd": True} if thing.crowd else {}))
    roles = {"split": one.item.split, "group": one.item.group}
    return {"label": label, **{name: value for name, value in roles.items() if value is not None}}


def about(
    counts: Mapping[str, int],
    items: Sequence[Item],
    empty: int,
    dropped: Mapping[str, int],
    unannotated: Sequence[Path],
) -> Iterator[str]:
    if counts:
        listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())[:LISTED])
        yield note("objects", f"{sum(counts.values()):,}", listed)
    if empty:
        yield note("without objects", f"{empty:,} images", "they teach what is no object")
    if unannotated:
        yield note("unused", f"{len(unannotated):,} images", "no annotation speaks of them")
    for reason, count in dropped.items():
        yield note("left out", f"{count:,} boxes", f"{reason}; `budwood doctor` lists them")
    if splits := sorted({item.fields["split"] for item in items if "split" in item.fields}):
        yield note("split", ", ".join(splits), "the files name the splits")
