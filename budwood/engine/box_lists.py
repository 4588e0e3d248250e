"""Lists of images that name a split: `ImageSets/Main/train.txt` of Pascal VOC, `train: train.txt` of YOLO."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from budwood.engine.box_images import split_of
from budwood.engine.image_rows import is_image_name

__all__ = ["Listed", "listed_images", "official_lists"]

LISTS = ("test", "val", "train", "trainval")
"""The official lists, those that are read later first: an image of several lists belongs to the first of these."""
FOLDER = Path("ImageSets", "Main")
PRESENT = re.compile(r"\s+(-1|0|1)$")
"""What lists of one class say after each name."""


@dataclass(frozen=True)
class Listed:
    """The splits of annotation files by official lists."""

    splits: Mapping[Path, str]
    missing: Sequence[str]
    """Names in the lists that no file is called by."""

    def split_of(self, file: Path) -> str | None:
        return self.splits.get(file)


def official_lists(files: Iterable[Path], root: Path) -> Listed:
    """The split of each file that a list in `ImageSets/Main` beside it, or above, names. `trainval` alone means train.

    Lists count for the files below the folder that they lie in: names return in VOC2007 and VOC2012.
    """
    below: dict[Path, dict[str, Path]] = {}
    homes: dict[Path, Path | None] = {}
    for file in files:
        if file.parent not in homes:
            homes[file.parent] = home_of(file.parent, root)
        if (home := homes[file.parent]) is not None:
            below.setdefault(home, {})[file.stem] = file
    splits: dict[Path, str] = {}
    missing: dict[str, None] = {}
    for home, known in below.items():
        for name in LISTS:
            split = split_of(name) or "train"
            for line in lines_of(home / FOLDER / f"{name}.txt"):
                found = next((known[key] for key in names_of(line) if key in known), None)
                if found is None:
                    missing[line] = None
                else:
                    splits.setdefault(found, split)
    return Listed(splits, tuple(missing))


def home_of(folder: Path, root: Path) -> Path | None:
    """The nearest folder with lists, from a folder up to `root`."""
    for home in (folder, *folder.parents):
        if (home / FOLDER).is_dir():
            return home
        if home == root:
            break
    return None


def names_of(line: str) -> list[str]:
    """What a line of a list may call a file: its last part as it is, without what follows it, without its suffix."""
    last = line.replace("\\", "/").rpartition("/")[2]
    bare = PRESENT.sub("", last)
    found = [last, bare]
    found += [name.rpartition(".")[0] for name in (last, bare) if is_image_name(name) or name.lower().endswith(".xml")]
    return found


def lines_of(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def listed_images(file: Path, root: Path, images: Collection[Path]) -> list[Path]:
    """The images that a text file names, a line each, from where it lies or from `root`."""
    found: list[Path] = []
    for line in lines_of(file):
        parts = [part for part in line.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        places = [file.parent / line, *(root.joinpath(*parts[start:]) for start in range(len(parts)))]
        found += [place for place in places if place in images][:1]
    return found
