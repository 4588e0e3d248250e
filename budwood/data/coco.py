"""COCO annotations: one JSON file for many images, alone or beside them, or one for each split.

cells.json with cells/ or images/ beside it      cells/annotations/instances_{train,val}2017.json + images
cells/train/_annotations.coco.json + images      cells/labels.json + cells/data/*.jpg
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from budwood.core.errors import DataError
from budwood.engine.box_rows import Annotated, Annotations, Box, BoxCollection, Images, split_of
from budwood.engine.image_rows import image_files
from budwood.engine.table import Place, note

__all__ = ["Coco"]

HEAD = 1 << 16
MAX_BYTES = 1 << 30
PARTS = re.compile(rb'"(images|annotations|categories|licenses|info)"\s*:')
MARKS = re.compile(rb'"(bbox|file_name|supercategory|category_id|image_id)"\s*:')
DEEP = 3
"""Folders down in which annotation files are looked for."""


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
        items: list[Annotated] = []
        skipped: list[tuple[Place, str]] = []
        for file in files:
            found, refused = annotated(file, root, images, group, several=len(files) > 1)
            items += found
            skipped += refused
        notes = [note("format", "COCO", ", ".join(file.name for file in files[:5]))]
        return Annotations(tuple(items), tuple(skipped), images.unused() if path.is_dir() else (), tuple(notes))


def annotated(
    file: Path, root: Path, images: Images, group: str | None, *, several: bool
) -> tuple[list[Annotated], list[tuple[Place, str]]]:
    """The images of one file with their objects, and what cannot be used; `number` of a place counts the images."""
    content, source = load(file), file.relative_to(root).as_posix()
    names = {item["id"]: str(item["name"]).strip() for item in entries(content, "categories", file)}
    objects: dict[Any, list[Box]] = defaultdict(list)
    skipped: list[tuple[Place, str]] = []
    for number, item in enumerate(entries(content, "annotations", file), 1):
        try:
            objects[item["image_id"]].append(box_of(item, names))
        except (KeyError, TypeError, ValueError) as error:
            skipped.append((Place(f"{source} annotations", number), f"the object cannot be used: {error}"))
    split = (split_of(file.stem) or split_of(file.parent.name)) if several or split_of(file.parent.name) else None
    items = []
    for number, entry in enumerate(entries(content, "images", file), 1):
        place = Place(source, number)
        name = str(entry.get("file_name", ""))
        image = images.find(name, file.with_name(name)) if name else None
        if image is None:
            skipped.append((place, f"there is no image {name!r}"))
            continue
        if group is not None and group not in entry:
            raise DataError(f"the images have no {group!r}", where=str(place), fix=f"one of: {', '.join(entry)}")
        size = (int(entry["width"]), int(entry["height"])) if entry.get("width") and entry.get("height") else None
        member = None if group is None else str(entry[group])
        items.append(Annotated(image, place, tuple(objects[entry.get("id")]), size, split, member))
    return items, skipped


def box_of(item: Mapping[str, Any], names: Mapping[Any, str]) -> Box:
    """One object. Raises KeyError, TypeError or ValueError where something is missing or no number."""
    if item["category_id"] not in names:
        raise ValueError(f"there is no category {item['category_id']!r}")
    x, y, width, height = (float(value) for value in item["bbox"])
    if not max(abs(x), abs(y), abs(width), abs(height)) < 1e7:
        raise ValueError("its box is not made of numbers")
    return Box(names[item["category_id"]], (x, y, x + width, y + height), bool(item.get("iscrowd")))


def entries(content: Mapping[str, Any], part: str, file: Path) -> Sequence[dict[str, Any]]:
    found = content.get(part)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError(f"the file has no list of {part}", where=str(file), fix="export it as COCO object detection")
    return found


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
