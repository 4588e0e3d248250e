"""YOLO annotations: one text file for each image, a line an object: class, then centre, width and height as shares.

plates/data.yaml (names: …)        plates/classes.txt (a name a line)
plates/images/train/1.jpg          plates/1.jpg
plates/labels/train/1.txt          plates/1.txt
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from budwood.core.errors import DataError, require
from budwood.engine.box_rows import Annotated, Annotations, Box, BoxCollection, Images, inner_folder, split_of
from budwood.engine.image_rows import image_files
from budwood.engine.table import Place, note

__all__ = ["Yolo"]

HEAD = 1 << 16
LINE = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*", re.IGNORECASE)
NAME_LISTS = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
NAMES = re.compile(r"^\s*names\s*:", re.MULTILINE)
DEEP = 3


@final
@dataclass(frozen=True)
class Yolo(BoxCollection):
    """An empty file says that nothing is in the image; an image without a file is not annotated."""

    def claims(self, path: Path) -> bool:
        """Whether a folder, or the .yaml file in it, names classes and has files of such lines."""
        try:
            root = root_of(path)
            if root is None or (not name_files(root) and not (root / "labels").is_dir()):
                return False
            return any(is_label(file) for file in label_files(root)[:20])
        except OSError:
            return False

    def annotations(self, path: Path, group: str | None) -> Annotations:
        root = root_of(path)
        assert root is not None  # it was claimed
        names, source = class_names(root)
        images = Images(root)
        items: list[Annotated] = []
        skipped: list[tuple[Place, str]] = []
        for file in label_files(root):
            place = Place(file.relative_to(root).as_posix(), 1)
            image = images.find(file.stem, image_place(file))
            if image is None:
                skipped.append((place, f"there is no image for {file.name!r}"))
                continue
            objects, refused = objects_of(file, place, names)
            skipped += refused
            split = next((found for part in place.source.split("/")[:-1] if (found := split_of(part))), None)
            items.append(Annotated(image, place, tuple(objects), None, split, relative=True))
        notes = [note("format", "YOLO", f"{len(items):,} text files; classes from {source}")]
        return Annotations(tuple(items), tuple(skipped), images.unused(), tuple(notes))


def objects_of(file: Path, place: Place, names: Sequence[str]) -> tuple[list[Box], list[tuple[Place, str]]]:
    """The objects of a file, and its lines that cannot be used."""
    found: list[Box] = []
    skipped: list[tuple[Place, str]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(box_of(line.split(), names))
        except ValueError as error:
            skipped.append((Place(place.source, number), str(error)))
    return found, skipped


def box_of(words: Sequence[str], names: Sequence[str]) -> Box:
    """A box, or the hull of a polygon. Raises ValueError."""
    number, values = int(words[0]), [float(word) for word in words[1:]]
    if not 0 <= number < len(names) and names:
        raise ValueError(f"there is no class {number}: {len(names)} are named")
    if len(values) < 4 or not all(abs(value) < 1e6 for value in values):
        raise ValueError("a line has a class and four numbers")
    if len(values) >= 6 and len(values) % 2 == 0:
        x, y = values[::2], values[1::2]
        box = (min(x), min(y), max(x), max(y))
    else:
        x_mid, y_mid, width, height = values[:4]
        box = (x_mid - width / 2, y_mid - height / 2, x_mid + width / 2, y_mid + height / 2)
    return Box(names[number] if names else str(number), box)


def root_of(path: Path) -> Path | None:
    if path.is_dir():
        return path if name_files(path) else inner_folder(path)
    yaml = path.suffix.lower() in (".yaml", ".yml") and path.is_file()
    return path.parent if yaml and names_classes(path) else None


def name_files(root: Path) -> list[Path]:
    """The files that name the classes: a .yaml with `names:`, or a list of names."""
    yaml = sorted(file for file in root.iterdir() if file.suffix.lower() in (".yaml", ".yml") and file.is_file())
    lists = [root / folder / name for folder in ("", "labels") for name in NAME_LISTS]
    return [file for file in yaml if names_classes(file)] + [file for file in lists if file.is_file()]


def names_classes(file: Path) -> bool:
    with file.open("rb") as stream:
        return bool(NAMES.search(stream.read(HEAD).decode("utf-8", "replace")))


def class_names(root: Path) -> tuple[list[str], str]:
    """The names of the classes by their numbers, and where they stand; none where only numbers are known.

    Raises:
        DataError: the file cannot be understood, or misses a number.
    """
    files = name_files(root)
    if not files:
        return [], "their numbers"
    file = files[0]
    content = file.read_text(encoding="utf-8-sig", errors="replace")
    if file.suffix.lower() not in (".yaml", ".yml"):
        return [line.strip() for line in content.splitlines() if line.strip()], file.name
    yaml = require("yaml", extra="train")
    try:
        names = yaml.safe_load(content)["names"]
        named = dict(enumerate(names)) if isinstance(names, list) else {int(key): name for key, name in names.items()}
        return [str(named[number]) for number in range(max(named) + 1)], file.name
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"the names of the classes cannot be read: {error}", where=str(file), fix="names: [first, second]"
        ) from error


def label_files(root: Path) -> list[Path]:
    """The text files that can hold objects: those in folders called labels, or else all that lie beside an image."""
    files = image_files(root, lambda name: name.lower().endswith(".txt"))
    files = [
        file for file in files if file.name.lower() not in NAME_LISTS and not file.name.lower().startswith("readme")
    ]
    within = [file for file in files if "labels" in (part.lower() for part in file.relative_to(root).parts[:-1])]
    if within:
        return within
    return [file for file in files if any(file.with_suffix(suffix).exists() for suffix in SUFFIXES)]


SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".webp", ".bmp", ".tif", ".tiff")


def is_label(file: Path) -> bool:
    with file.open("rb") as stream:
        lines = stream.read(HEAD).decode("utf-8", "replace").splitlines()
    return bool(lines) and LINE.fullmatch(lines[0]) is not None


def image_place(file: Path) -> Path:
    """Where the image of a label file is expected: in `images` for `labels`."""
    parts = list(file.parts)
    places = [i for i, part in enumerate(parts) if part.lower() == "labels"]
    if places:
        parts[places[-1]] = "images"
    return Path(*parts)
