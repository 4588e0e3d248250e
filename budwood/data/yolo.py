"""YOLO annotations: one text file for each image, a line an object: class, then centre, width and height as shares.

plates/data.yaml (names: …)        plates/classes.txt (a name a line)
plates/images/train/1.jpg          plates/1.jpg
plates/labels/train/1.txt          plates/1.txt
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import final

from budwood.engine.box_images import Images, folder_split, inner_folder
from budwood.engine.box_lists import listed_images
from budwood.engine.box_rows import Annotated, Annotations, Box, BoxCollection
from budwood.engine.box_yaml import NAME_LISTS, Config, configuration, name_files, names_classes, stated_path
from budwood.engine.image_rows import image_files
from budwood.engine.images import SUFFIXES
from budwood.engine.row_roles import SPLITS
from budwood.engine.table import Place, note

__all__ = ["Yolo"]

HEAD = 1 << 16
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
LINE = re.compile(rf"\s*\d+(\.0*)?(\s+{NUMBER}){{4,}}\s*", re.IGNORECASE)
LOOKED_AT = 20
MAX_BYTES = 16 << 20
LONGEST = 120
"""Characters of a reason; it may quote a line of what is no text at all."""


@final
@dataclass(frozen=True)
class Yolo(BoxCollection):
    """An empty file says that nothing is in the image; an image without a file is not annotated."""

    def claims(self, path: Path) -> bool:
        """Whether a folder, or the .yaml file of one, names classes and has files of such lines."""
        try:
            root = root_of(path)
            if root is None or (path.is_dir() and not name_files(root) and not (root / "labels").is_dir()):
                return False
            filled = (file for file in label_files(root) if file.stat().st_size)
            return any(is_label(file) for file in islice(filled, LOOKED_AT))
        except OSError:
            return False

    def annotations(self, path: Path, group: str | None) -> Annotations:
        root = root_of(path)
        assert root is not None  # it was claimed
        config = configuration(path if path.is_file() else next(iter(name_files(root)), None))
        images = Images(root)
        listed = listed_splits(config, root, images)
        items: list[Annotated] = []
        skipped: list[tuple[Place, str]] = []
        for file in label_files(root):
            place = Place(file.relative_to(root).as_posix(), 1)
            try:
                image = images.find(file.stem, image_place(file), file)
                objects, lost = objects_of(file, place, config)
            except ValueError as error:
                skipped.append((place, str(error)))
                continue
            split = listed.get(image) or folder_split(file, root)
            items.append(Annotated(image, place, objects, None, split, relative=True, lost=lost))
        notes = [note("format", "YOLO", f"{len(items):,} text files; classes from {config.source}")]
        return Annotations(tuple(items), tuple(skipped), images.unused(), tuple(notes))


def objects_of(file: Path, place: Place, config: Config) -> tuple[tuple[Box, ...], tuple[tuple[Place, str], ...]]:
    """The objects of a file, and its lines that cannot be used. Raises ValueError when the file cannot be read."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError("it is larger than any annotation")
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    found: list[Box] = []
    lost: list[tuple[Place, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(box_of(line.split(), config))
        except ValueError as error:
            lost.append((Place(f"{place.source} line", number), str(error)[:LONGEST]))
    return tuple(found), tuple(lost)


def box_of(words: Sequence[str], config: Config) -> Box:
    """A box, the hull of a polygon, or the box of a pose. Raises ValueError."""
    number, *values = (float(word) for word in words)
    if len(values) < 4 or not all(abs(value) < 1e6 for value in values):
        raise ValueError("a line has a class and four numbers")
    if not number.is_integer():  # nor are infinity and what is no number
        raise ValueError(f"{words[0]!r} is no number of a class")
    name = config.name(int(number))
    if len(values) >= 6 and len(values) % 2 == 0 and not config.poses:
        x, y = values[::2], values[1::2]
        return Box(name, (min(x), min(y), max(x), max(y)))
    x_mid, y_mid, width, height = values[:4]
    return Box(name, (x_mid - width / 2, y_mid - height / 2, x_mid + width / 2, y_mid + height / 2))


def root_of(path: Path) -> Path | None:
    """The folder that holds images and labels: the path, or the folder that a .yaml file states or lies in."""
    if path.is_dir():
        return path if name_files(path) or (path / "labels").is_dir() else inner_folder(path)
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file() or not names_classes(path):
        return None
    stated = stated_path(path)
    places = [] if stated is None else [path.parent / stated, path.parent.parent / stated]
    return next((place.resolve() for place in places if place.is_dir()), path.parent)


def listed_splits(config: Config, root: Path, images: Images) -> dict[Path, str]:
    """The split of each image that a list or folder names: `val: val.txt`, or val.txt in the folder.

    An image of several belongs to the one that is read latest: test, then validation, then train.
    """
    found: dict[Path, str] = {}
    known = set(images.files)
    for name in ("test", "val", "valid", "validation", "train"):
        for stated in (*config.parts.get(name, ()), f"{name}.txt"):
            parts = [part for part in Path(stated.replace("\\", "/")).parts if part not in ("..", "/")]
            place = root.joinpath(*parts)
            if place.suffix.lower() == ".txt":
                members = listed_images(place, root, known)
            else:
                members = [file for file in images.files if place != root and file.is_relative_to(place)]
            for file in members:
                found.setdefault(file, SPLITS[name])
    return found


def label_files(root: Path) -> list[Path]:
    """The text files that can hold objects: those in folders called labels, or else all that lie beside an image."""
    files = image_files(root, lambda name: name.lower().endswith(".txt"))
    files = [
        file for file in files if file.name.lower() not in NAME_LISTS and not file.name.lower().startswith("readme")
    ]
    within = [file for file in files if "labels" in (part.lower() for part in file.relative_to(root).parts[:-1])]
    if within:
        return within
    return [file for file in files if any(file.with_suffix(suffix).exists() for suffix in BESIDE)]


BESIDE = tuple(spelt for suffix in SUFFIXES for spelt in (suffix, suffix.upper()))


def is_label(file: Path) -> bool:
    """Whether the first line that is not blank is an object."""
    with file.open("rb") as stream:
        lines = stream.read(HEAD).decode("utf-8-sig", "replace").splitlines()
    return LINE.fullmatch(next((line for line in lines if line.strip()), "")) is not None


def image_place(file: Path) -> Path:
    """Where the image of a label file is expected: in `images` for `labels`."""
    parts = list(file.parts)
    places = [i for i, part in enumerate(parts) if part.lower() == "labels"]
    if places:
        parts[places[-1]] = "images"
    return Path(*parts)
