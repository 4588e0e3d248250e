"""Pascal VOC annotations: one XML file for each image.

cells/Annotations/1.xml   cells/JPEGImages/1.jpg   cells/ImageSets/Main/{train,val,test}.txt (the official lists)
plates/annotations/1.xml  plates/images/1.png      plates/{train,valid,test}/1.xml beside 1.jpg
VOCdevkit/{VOC2007,VOC2012}/{Annotations,JPEGImages,ImageSets}
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final
from xml.etree.ElementTree import Element

from budwood.core.errors import DataError
from budwood.engine.box_images import Images, folder_split, inner_folder
from budwood.engine.box_lists import Listed, official_lists
from budwood.engine.box_rows import Annotated, Annotations, Box, BoxCollection
from budwood.engine.image_rows import image_files, is_image_name
from budwood.engine.safe_xml import parse_xml
from budwood.engine.table import Place, note

__all__ = ["Voc"]

HEAD = 4096
MAX_BYTES = 16 << 20
CORNERS = ("xmin", "ymin", "xmax", "ymax")
DEEP = 2
"""Folders down in which the first annotation is looked for."""
MARKS = (b"<annotation", "<annotation".encode("utf-16-le"), "<annotation".encode("utf-16-be"))


@final
@dataclass(frozen=True)
class Voc(BoxCollection):
    """`difficult` objects are ordinary ones; coordinates are taken as they are, whether they count from 0 or from 1."""

    def claims(self, path: Path) -> bool:
        """Whether a folder has XML annotations in it or one or two folders down."""
        try:
            return path.is_dir() and any(is_annotation(file) for file in first_files(inner_folder(path), DEEP))
        except OSError:
            return False

    def annotations(self, path: Path, group: str | None) -> Annotations:
        root = inner_folder(path)
        files = image_files(root, is_xml)
        if not files:
            raise DataError("there are no XML annotations", where=str(path), fix="name the folder that holds them")
        found = Found(root, Images(root), official_lists(files, root))
        for file in sorted(files, key=lambda file: not found.images.has(file.stem)):
            # First come those with an image of their own name, which no other can then take from them.
            found.add(file)
        notes = [note("format", "Pascal VOC", f"{len(files):,} XML files"), *found.notes()]
        return Annotations(tuple(found.items), tuple(found.skipped), found.images.unused(), tuple(notes))


@dataclass
class Found:
    """What the files say so far."""

    root: Path
    images: Images
    lists: Listed
    items: list[Annotated] = field(default_factory=list)
    skipped: list[tuple[Place, str]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    """Files whose `<filename>` is that of another image than theirs."""

    def add(self, file: Path) -> None:
        place = Place(file.relative_to(self.root).as_posix(), 1)
        try:
            tree = parse_xml(file, MAX_BYTES)
            image = self.image_of(file, (tree.findtext("filename") or "").strip())
            objects, lost = objects_of(tree, place)
            width, height = number(tree, "size/width"), number(tree, "size/height")
        except ValueError as error:
            self.skipped.append((place, str(error)))
            return
        size = (int(width), int(height)) if width and height else None
        split = self.lists.split_of(file) or folder_split(file, self.root)
        self.items.append(Annotated(image, place, objects, size, split, lost=lost))

    def image_of(self, file: Path, named: str) -> Path:
        """The image that is called like the file, else the one that it names: names inside of files go stale.

        Raises:
            ValueError: there is no such image.
        """
        last = named.replace("\\", "/").rpartition("/")[2]
        stem = last.rpartition(".")[0] if is_image_name(last) else last
        same = stem.lower() == file.stem.lower()
        if same and self.images.has(last):
            return self.images.find(named, file, file)
        if not self.images.has(file.stem):
            return self.images.find(named or file.stem, file, file)
        image = self.images.find(file.stem, file, file)
        if not same and stem and self.images.has(last):
            self.stale.append(file.name)
        return image

    def notes(self) -> Iterator[str]:
        if self.stale:
            why = f"they name another image, such as {self.stale[0]}; each was given the image of its own name"
            yield note("stale names", f"{len(self.stale):,} XML files", why)
        if self.lists.missing:
            why = f"lists in ImageSets/Main have names without an XML file, such as {self.lists.missing[0]!r}"
            yield note("not found", f"{len(self.lists.missing):,} names", why)


def objects_of(tree: Element, place: Place) -> tuple[tuple[Box, ...], tuple[tuple[Place, str], ...]]:
    """The objects of a file, and those that cannot be used; `number` of a place counts the objects."""
    found: list[Box] = []
    lost: list[tuple[Place, str]] = []
    for count, item in enumerate(tree.iter("object"), 1):
        try:
            found.append(box_of(item))
        except ValueError as error:
            lost.append((Place(f"{place.source} objects", count), str(error)))
    return tuple(found), tuple(lost)


def box_of(item: Element) -> Box:
    """One object. Raises ValueError when it has no name or no corners."""
    name = (item.findtext("name") or "").strip()
    corners = [number(item, f"bndbox/{corner}") for corner in CORNERS]
    if not name or None in corners:
        raise ValueError("an object has no name or no box")
    x1, y1, x2, y2 = (float(value or 0) for value in corners)
    return Box(name, (x1, y1, x2, y2))


def number(item: Element, path: str) -> float | None:
    """A number in the tree; None where there is none. Raises ValueError when it is something else."""
    text = (item.findtext(path) or "").strip()
    if not text:
        return None
    value = float(text)
    if not abs(value) < 1e7:
        raise ValueError(f"{path} is {text}")
    return value


def first_files(folder: Path, deep: int) -> Iterator[Path]:
    """The first XML file of the folder and of each folder so far below it."""
    with os.scandir(folder) as entries:  # it tells folders without asking for each file
        listed = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    if found := min((name for name, is_folder in listed if is_xml(name) and not is_folder), default=None):
        yield folder / found
    if deep:
        for name in sorted(name for name, is_folder in listed if is_folder):
            yield from first_files(folder / name, deep - 1)


def is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def is_annotation(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    return any(mark in head for mark in MARKS)
