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
from budwood.engine.row_roles import SPLITS
from budwood.engine.table import Place, note

__all__ = [
    "Annotated",
    "Annotations",
    "Box",
    "BoxCollection",
    "Images",
    "Settled",
    "inner_folder",
    "settle",
    "split_of",
]

LEAST_SIDE = 1.0
"""Pixels of an image that a box must have on each side to be kept."""
LISTED = 10
MAX_WRAPPERS = 3
"""Folders that hold nothing but one folder, as archives leave them."""
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
        dropped: Counter[str] = Counter()
        items = [Item(one.item.image, one.item.place, fields_of(one, dropped)) for one in settled]
        counts = Counter(entry["label"] for item in items for entry in item.fields["label"])
        notes = [*found.notes, *about(counts, items, dropped, found.unannotated)]
        return reading_of(items, path, notes, {"group": group, "objects": dict(counts)}, (*found.skipped, *broken))

    def inputs(self, path: Path, input: str | None) -> list[Row]:
        """Every image below the folder, or beside the file."""
        files = image_files(path if path.is_dir() else path.parent)
        if not files:
            raise DataError("there are no images", where=str(path), fix="name a folder of images")
        return [{"image": str(file.absolute())} for file in files]


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
    counts: Mapping[str, int], items: Sequence[Item], dropped: Mapping[str, int], unannotated: Sequence[Path]
) -> Iterator[str]:
    if counts:
        listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())[:LISTED])
        yield note("objects", f"{sum(counts.values()):,}", listed)
    if empty := sum(not item.fields["label"] for item in items):
        yield note("without objects", f"{empty:,} images", "they teach what is no object")
    if unannotated:
        yield note("unused", f"{len(unannotated):,} images", "no annotation speaks of them")
    for reason, count in dropped.items():
        yield note("left out", f"{count:,} boxes", f"{reason}; `budwood doctor` lists them")
    if splits := sorted({item.fields["split"] for item in items if "split" in item.fields}):
        yield note("split", ", ".join(splits), "the files name the splits")


class Images:
    """The image files below a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.files = image_files(folder)
        self.by_name: dict[str, list[Path]] = {}
        for file in self.files:
            for key in {file.name.lower(), file.stem.lower()}:
                self.by_name.setdefault(key, []).append(file)
        self.used: set[Path] = set()

    def find(self, name: str, near: Path) -> Path | None:
        """The image that is called so, with or without its suffix; of several, the one that shares most folders."""
        wanted = name.replace("\\", "/").rpartition("/")[2].lower()
        found = self.by_name.get(wanted, [])
        if not found:
            return None
        best = max(found, key=lambda file: (common(file, near), ends_alike(file, name)))
        self.used.add(best)
        return best

    def unused(self) -> tuple[Path, ...]:
        return tuple(file for file in self.files if file not in self.used)


def common(file: Path, near: Path) -> int:
    """How many folders two files share from the top."""
    return sum(1 for _ in shared(file.parent.parts, near.parent.parts))


def shared(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    for one, other in zip(a, b, strict=False):
        if one != other:
            return
        yield one


def ends_alike(file: Path, name: str) -> int:
    """How many parts of a path agree from the end."""
    parts = name.replace("\\", "/").lower().split("/")
    return sum(1 for _ in shared([part.lower() for part in file.parts[::-1]], parts[::-1]))


def split_of(name: str) -> str | None:
    """The split that a file or folder is called by, alone or as one of its words; None where it names none."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def inner_folder(path: Path) -> Path:
    """The folder without wrappers that hold one folder only."""
    for _ in range(MAX_WRAPPERS):
        below = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith((".", "__"))]
        if len(below) != 1:
            return path
        path = below[0]
    return path
