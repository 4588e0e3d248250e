"""COCO annotations: one JSON file for many images, alone or beside them, or one for each split.

cells.json with cells/ or images/ beside it      cells/annotations/instances_{train,val}2017.json + images
cells/train/_annotations.coco.json + images      cells/labels.json + cells/data/*.jpg
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, final

from budwood.core.errors import DataError
from budwood.engine.box_images import Images, folder_split, split_of
from budwood.engine.box_rows import Annotated, Annotations, Box, BoxCollection
from budwood.engine.image_rows import image_files
from budwood.engine.table import Place, note

__all__ = ["Coco"]

HEAD = 1 << 16
MAX_BYTES = 1 << 30
PARTS = re.compile(rb'"(images|annotations|categories|licenses|info)"\s*:')
MARKS = re.compile(rb'"(bbox|file_name|supercategory|category_id|image_id)"\s*:')
DEEP = 3
"""Folders down in which annotation files are looked for."""
REFUSED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What an entry raises that is not as the format says."""


@final
@dataclass(frozen=True)
class Coco(BoxCollection):
    """`--group FIELD` names a field of the entries of `images`, such as the video that a frame is from."""

    groups: ClassVar[bool] = True

    def claims(self, path: Path) -> bool:
        """Whether the path is such a file, or a folder with one in it or in a folder of it."""
        try:
            return bool(annotation_files(path))
        except OSError:
            return False

    def annotations(self, path: Path, group: str | None) -> Annotations:
        files = annotation_files(path)
        root = path if path.is_dir() else path.parent
        images = Images(root if path.is_dir() or not is_annotations_folder(root) else root.parent)
        found = Found(root, images, group)
        read, notes = [], []
        for file in files:
            try:
                content = load(file)
            except DataError as error:
                if len(files) == 1:
                    raise
                found.skipped.append((Place(file.relative_to(root).as_posix(), 1), error.cause))
                continue
            if (lacking := without_boxes(content)) is None:
                split = (split_of(file.stem) or folder_split(file, root)) if len(files) > 1 else None
                found.add(file, content, split)
                read.append(file.name)
            elif len(files) == 1:
                raise DataError(f"the file has no {lacking}", where=str(file), fix="export it as COCO object detection")
            else:
                notes.append(note("left out", file.name, f"it has no {lacking}"))
        if not read:
            raise DataError("no file has boxes", where=str(path), fix="export them as COCO object detection")
        notes.insert(0, note("format", "COCO", ", ".join(read[:5])))
        items = tuple(found.items.values())
        return Annotations(items, tuple(found.skipped), images.unused() if path.is_dir() else (), tuple(notes))


@dataclass
class Found:
    """What the files say so far, each image once: several files may speak of one, such as of its people."""

    root: Path
    images: Images
    group: str | None
    items: dict[Path, Annotated] = field(default_factory=dict)
    skipped: list[tuple[Place, str]] = field(default_factory=list)

    def add(self, file: Path, content: Mapping[str, Any], split: str | None) -> None:
        """The images of one file with their objects; `number` of a place counts the images."""
        source = file.relative_to(self.root).as_posix()
        objects, lost = self.objects_of(content, source)
        known: set[str] = set()
        for number, entry in enumerate(content["images"], 1):
            place = Place(source, number)
            try:
                known.add(identity := identity_of(entry["id"]))
                size = (int(float(entry["width"])), int(float(entry["height"]))) if has_size(entry) else None
                name = str(entry["file_name"])
            except REFUSED as error:
                self.skipped.append((place, because("the image cannot be used", error)))
                continue
            try:
                image = self.images.find(name, file, (name, split, file.parent), split)
            except ValueError as error:
                self.skipped.append((place, str(error)))
                continue
            member = None if self.group is None else member_of(entry, self.group, place)
            item = Annotated(image, place, tuple(objects[identity]), size, split, member, lost=tuple(lost[identity]))
            self.items[image] = merged(self.items[image], item) if image in self.items else item
        homeless = [name for name in {**objects, **lost} if name not in known]
        if homeless:
            count = sum(len(objects[name]) + len(lost[name]) for name in homeless)
            reason = f"{count:,} objects are of images that the file does not list, such as {homeless[0]!r}"
            self.skipped.append((Place(f"{source} annotations", 1), reason))

    def objects_of(
        self, content: Mapping[str, Any], source: str
    ) -> tuple[dict[str, list[Box]], dict[str, list[tuple[Place, str]]]]:
        """The objects of each image by its identity, and those that cannot be used."""
        names: dict[str, str] = {}
        for number, item in enumerate(content["categories"], 1):
            try:
                names[identity_of(item["id"])] = str(item["name"]).strip()
            except REFUSED as error:
                place = Place(f"{source} categories", number)
                self.skipped.append((place, because("the category cannot be used", error)))
        objects: dict[str, list[Box]] = defaultdict(list)
        lost: dict[str, list[tuple[Place, str]]] = defaultdict(list)
        for number, item in enumerate(content["annotations"], 1):
            place = Place(f"{source} annotations", number)
            try:
                identity = identity_of(item["image_id"])
            except REFUSED as error:
                self.skipped.append((place, because("the object cannot be used", error)))
                continue
            try:
                objects[identity].append(box_of(item, names))
            except REFUSED as error:
                lost[identity].append((place, because("the object cannot be used", error)))
        return objects, lost


def merged(first: Annotated, later: Annotated) -> Annotated:
    """One image of two entries; what both say is said once."""
    known = set(first.objects)
    fresh = tuple(thing for thing in later.objects if thing not in known)
    return replace(first, objects=first.objects + fresh, size=first.size or later.size, lost=first.lost + later.lost)


def box_of(item: Mapping[str, Any], names: Mapping[str, str]) -> Box:
    """One object. Raises one of REFUSED where something is missing or no number."""
    category = identity_of(item["category_id"])
    if not names.get(category):
        raise ValueError(f"there is no category {category!r} with a name")
    x, y, width, height = (float(value) for value in item["bbox"])
    if not max(abs(x), abs(y), abs(width), abs(height)) < 1e7:
        raise ValueError("its box is not made of numbers")
    return Box(names[category], (x, y, x + width, y + height), bool(item.get("iscrowd")))


def identity_of(value: object) -> str:
    """What an id is told by: writers mix 7, 7.0 and "7" between the parts of a file. Raises TypeError."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no id")
    return str(value)


def has_size(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("width") and entry.get("height"))


def member_of(entry: Mapping[str, Any], group: str, place: Place) -> str:
    if group not in entry:
        raise DataError(f"the images have no {group!r}", where=str(place), fix=f"one of: {', '.join(entry)}")
    return str(entry[group])


def because(what: str, error: Exception) -> str:
    return f"{what}: it has no {error}" if isinstance(error, KeyError) else f"{what}: {error}"


def without_boxes(content: Mapping[str, Any]) -> str | None:
    """What a file lacks of object detection, such as one of captions; None where it has all."""
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            return f"list of {part}"
    marked: Sequence[object] = content["annotations"]
    if marked and not any(isinstance(item, dict) and "bbox" in item for item in marked):
        return "boxes"
    return None


def load(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError("it is larger than a gibibyte")
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the annotations cannot be read: {error}", where=str(file), fix="export it again") from error
    if not isinstance(content, dict):
        raise DataError("the file holds no annotations", where=str(file), fix="export it as COCO object detection")
    return content


def annotation_files(path: Path) -> list[Path]:
    """The path itself, or the annotation files below a folder; none where it holds no such thing."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and is_coco(path) else []
    if not path.is_dir():
        return []
    found = {file for depth in range(DEEP) for file in path.glob("*/" * depth + "*.json")}
    return sorted(file for file in found if file.is_file() and not file.name.startswith(".") and is_coco(file))


def is_coco(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    return head.lstrip()[:1] == b"{" and bool(PARTS.search(head)) and bool(MARKS.search(head))


def is_annotations_folder(folder: Path) -> bool:
    """Whether images are to be looked for beside this folder, as in COCO's own layout."""
    return folder.name.lower().startswith("annotation") and not image_files(folder)
