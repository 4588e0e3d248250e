"""Pascal VOC annotations: one XML file for each image.

cells/Annotations/1.xml   cells/JPEGImages/1.jpg   cells/ImageSets/Main/{train,val,test}.txt (the official lists)
plates/annotations/1.xml  plates/images/1.png      plates/{train,valid,test}/1.xml beside 1.jpg
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final
from xml.etree.ElementTree import Element, fromstring

from budwood.core.errors import DataError
from budwood.engine.box_rows import Annotated, Annotations, Box, BoxCollection, Images, inner_folder, split_of
from budwood.engine.image_rows import image_files
from budwood.engine.table import Place, note

__all__ = ["Voc"]

HEAD = 4096
MAX_BYTES = 16 << 20
CORNERS = ("xmin", "ymin", "xmax", "ymax")
LISTS = ("test", "val", "train", "trainval")
"""The official lists, those that are read later first: an image of several lists belongs to the first of these."""


@final
@dataclass(frozen=True)
class Voc(BoxCollection):
    """`difficult` objects are ordinary ones; coordinates are taken as they are, whether they count from 0 or from 1."""

    def claims(self, path: Path) -> bool:
        """Whether a folder has XML annotations in it or in a folder of it."""
        try:
            return path.is_dir() and any(is_annotation(file) for file in first_files(inner_folder(path)))
        except OSError:
            return False

    def annotations(self, path: Path, group: str | None) -> Annotations:
        root = inner_folder(path)
        files, images, lists = image_files(root, is_xml), Images(root), official(root)
        items: list[Annotated] = []
        skipped: list[tuple[Place, str]] = []
        for file in files:
            place = Place(file.relative_to(root).as_posix(), 1)
            try:
                items.append(annotated(file, place, images, root, lists))
            except ValueError as error:
                skipped.append((place, str(error)))
        if not files:
            raise DataError("there are no XML annotations", where=str(path), fix="name the folder that holds them")
        notes = [note("format", "Pascal VOC", f"{len(files):,} XML files")]
        return Annotations(tuple(items), tuple(skipped), images.unused(), tuple(notes))


def annotated(file: Path, place: Place, images: Images, root: Path, lists: dict[str, str]) -> Annotated:
    """One file. Raises ValueError, saying why it cannot be used."""
    tree = parse(file)
    named = (tree.findtext("filename") or "").strip()
    image = (images.find(named, file) if named else None) or images.find(file.stem, file)
    if image is None:
        raise ValueError(f"there is no image {named or file.stem!r}")
    objects = tuple(box_of(item) for item in tree.iter("object"))
    width, height = number(tree, "size/width"), number(tree, "size/height")
    size = (int(width), int(height)) if width and height else None
    folders = file.relative_to(root).parts[:-1]
    split = lists.get(file.stem) or next((found for part in folders if (found := split_of(part))), None)
    return Annotated(image, place, objects, size, split)


def parse(file: Path) -> Element:
    """The tree of a file without entities of its own, which could grow without end. Raises ValueError."""
    try:
        content = file.read_bytes()
        if len(content) > MAX_BYTES or b"<!ENTITY" in content:
            raise ValueError("it is larger than any annotation, or defines entities")
        tree: Element = fromstring(content)  # noqa: S314  # entities, the one danger of it, were refused
    except (SyntaxError, OSError) as error:  # ElementTree.ParseError is a SyntaxError
        raise ValueError(f"it is not XML: {error}") from error
    return tree


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


def official(root: Path) -> dict[str, str]:
    """The split of each name that `ImageSets/Main` lists. `trainval` alone means train."""
    found: dict[str, str] = {}
    for name in LISTS:
        path = root / "ImageSets" / "Main" / f"{name}.txt"
        if path.is_file():
            split = split_of(name) or "train"
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if words := line.split():
                    found.setdefault(words[0], split)
    return found


def first_files(root: Path) -> Iterator[Path]:
    """The first XML file of the folder and of each folder in it."""
    folders = [root, *sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))]
    for folder in folders:
        yield from sorted(entry for entry in folder.iterdir() if is_xml(entry.name) and entry.is_file())[:1]


def is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def is_annotation(file: Path) -> bool:
    with file.open("rb") as stream:
        return b"<annotation" in stream.read(HEAD)
