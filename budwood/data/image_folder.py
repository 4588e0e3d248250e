"""Folders of images, one folder for each class, in one folder or in train, val and test.

flowers/daisy/1.jpg                 flowers/train/daisy/1.jpg
flowers/tulip/2.jpg                 flowers/test/tulip/2.jpg
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.image_rows import Item, image_files, is_image_name, naming_table, reading_of
from budwood.engine.reading import Reading
from budwood.engine.row_roles import SPLITS
from budwood.engine.table import Place, note

__all__ = ["ImageFolder"]

MAX_WRAPPERS = 3
"""Folders that hold nothing but one folder, as archives leave them."""


class ClassFolder(NamedTuple):
    split: str | None
    label: str
    folder: Path


@final
@dataclass(frozen=True)
class ImageFolder(Collection):
    """The names of the folders are the labels. Deeper folders belong to the class above them."""

    def claims(self, path: Path) -> bool:
        """Whether a folder has class folders with images, or is nothing but images; a table in it goes first."""
        return path.is_dir() and naming_table(path) is None and (bool(class_folders(path)) or is_all_images(path))

    def read(self, path: Path, target: str | None, input: str | None, group: str | None) -> Reading:
        if flag := next((name for name, value in (("target", target), ("group", group)) if value), None):
            raise DataError(
                "folders of images have no columns",
                where=f"--{flag}",
                fix="put a table of file names beside the images",
            )
        folders = class_folders(path)
        if not folders:
            raise DataError(
                "the images have no labels", where=str(path), fix="put each class into a folder of its name"
            )
        refuse_unlabelled_splits(folders)
        items = [item for split, label, folder in folders for item in items_of(path, folder, label, split)]
        splits = sorted({str(split) for split, _, _ in folders if split})
        notes = [note("labels", "folder names", f"{len({label for _, label, _ in folders})} folders")]
        if splits:
            notes.append(note("split", ", ".join(splits), "the folders name the splits"))
        return reading_of(items, path, notes, {})

    def inputs(self, path: Path, input: str | None) -> list[Row]:
        """Every image below the folder; a broken one is found when its turn comes."""
        files = image_files(path)
        if not files:
            raise DataError("there are no images", where=str(path), fix="name a folder of images")
        return [{"image": str(file.absolute())} for file in files]


def class_folders(path: Path) -> list[ClassFolder]:
    """Every class folder; nothing when there are fewer than two classes, or the folder is of another kind."""
    for _ in range(MAX_WRAPPERS):
        if splits := split_folders(path):
            # A split may lack a class, so the classes are counted over all of them.
            found = [ClassFolder(split, each.name, each) for folder, split in splits.items() for each in filled(folder)]
        else:
            found = [ClassFolder(None, each.name, each) for each in filled(path)]
        below = sub_folders(path)
        if len({each.label for each in found}) > 1:
            return found
        if splits or len(below) != 1:
            return []
        path = below[0]
    return []


def split_folders(path: Path) -> dict[Path, str]:
    """The folders below and the splits that they name; nothing unless all of them name one."""
    below = sub_folders(path)
    named = {folder: SPLITS[folder.name.lower()] for folder in below if folder.name.lower() in SPLITS}
    return named if len(named) == len(below) else {}


def refuse_unlabelled_splits(folders: Sequence[ClassFolder]) -> None:
    """Refuse a split without labels, which would be left out unseen. Raises DataError."""
    if folders[0].split is None:
        return
    known = {each.folder.parent for each in folders}
    for folder in split_folders(folders[0].folder.parent.parent):
        if folder not in known:
            raise DataError(
                f"the folder {folder.name!r} has no labelled images",
                where=str(folder),
                fix="put each class of it into a folder of its name, or move the folder away",
            )


def filled(path: Path) -> list[Path]:
    """Folders below with an image directly in them or one folder down."""
    return [folder for folder in sub_folders(path) if has_image(folder)]


def sub_folders(path: Path) -> list[Path]:
    try:
        entries = sorted(path.iterdir())
        return [entry for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))]
    except OSError:
        return []


def has_image(folder: Path) -> bool:
    """Whether the folder has an image in it or one folder down."""
    return any(is_image_name(name) for name in names(folder)) or any(
        is_image_name(name) for below in sub_folders(folder) for name in names(below)
    )


def names(folder: Path) -> Iterator[str]:
    try:
        yield from (entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return


def is_all_images(path: Path) -> bool:
    """Whether the folder is a flat pile of images, to be predicted."""
    found = list(names(path))
    return any(map(is_image_name, found)) and all(is_image_name(name) or (path / name).is_dir() for name in found)


def items_of(root: Path, folder: Path, label: str, split: str | None) -> Iterator[Item]:
    fields = {"label": label, **({"split": split} if split else {})}
    for number, file in enumerate(image_files(folder), 1):
        yield Item(file, Place(file.relative_to(root).as_posix(), number), fields)
