"""The images below a folder, as annotations name them: found by name, folder and split, each by one annotation only."""

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

from budwood.engine.image_rows import image_files, is_image_name
from budwood.engine.row_roles import SPLITS

__all__ = ["Images", "folder_split", "inner_folder", "split_of"]

MAX_WRAPPERS = 3
"""Folders that hold nothing but one folder, as archives leave them."""


class Images:
    """The image files below a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = image_files(folder)
        self.by_name: dict[str, list[Path]] = {}
        for file in self.files:
            for key in {file.name.lower(), file.stem.lower()}:
                self.by_name.setdefault(key, []).append(file)
        self.splits = {file: folder_split(file, folder) for file in self.files}
        self.folders = set(self.splits.values())
        self.owners: dict[Path, Hashable] = {}

    def has(self, name: str) -> bool:
        """Whether any image is called so, with or without its suffix."""
        return last_part(name) in self.by_name

    def find(self, name: str, near: Path, owner: Hashable, split: str | None = None) -> Path:
        """The image that is called so, with or without its suffix; it belongs to `owner` from then on.

        Of several, the one whose folders agree most with those of the name, then the one nearest to the annotation.
        An image that belongs to another, or lies in the folder of another split, is none of them: it would teach the
        objects of another image, or bring a test image into training.

        Args:
            near: the annotation file.
            split: what the annotation belongs to by its own name.

        Raises:
            ValueError: there is no such image.
        """
        called = [file for file in self.by_name.get(last_part(name), []) if self.may_be(file, near, split)]
        found = [file for file in called if self.owners.get(file, owner) == owner]
        if not found:
            raise ValueError(
                f"the image {name!r} belongs to another annotation" if called else f"there is no image {name!r}"
            )
        best = max(found, key=lambda file: (ends_alike(file, name), common(file, near)))
        self.owners[best] = owner
        return best

    def may_be(self, file: Path, near: Path, split: str | None) -> bool:
        """Whether an image can be in the split of an annotation, as far as their folders say it."""
        named = folder_split(near, self.folder)
        wanted, has = named or split, self.splits[file]
        if wanted is None or has is None or has == wanted:
            return True
        # Files called train and val may both speak of images in one folder called train, but not beside one called val.
        return named is None and wanted not in self.folders

    def unused(self) -> tuple[Path, ...]:
        return tuple(file for file in self.files if file not in self.owners)


def last_part(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].lower()


def common(file: Path, near: Path) -> int:
    """How many folders two files share from the top."""
    return sum(1 for _ in shared(file.parent.parts, near.parent.parts))


def shared(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    for one, other in zip(a, b, strict=False):
        if one != other:
            return
        yield one


def ends_alike(file: Path, name: str) -> int:
    """How many folders of a path and of a name agree from the end."""
    parts = name.replace("\\", "/").lower().split("/")[:-1]
    return sum(1 for _ in shared([part.lower() for part in file.parent.parts[::-1]], parts[::-1]))


def split_of(name: str) -> str | None:
    """The split that a file or folder is called by, alone or as one of its words; None where it names none."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def folder_split(file: Path, root: Path) -> str | None:
    """The split that a folder between `root` and the file is called by; the name of `root` itself says nothing."""
    folders = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    return next((found for part in folders if (found := split_of(part))), None)


def inner_folder(path: Path) -> Path:
    """The folder without wrappers that hold one folder only; one with images or annotations in it is no wrapper."""
    for _ in range(MAX_WRAPPERS):
        entries = sorted(path.iterdir())
        below = [entry for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]
        if len(below) != 1 or any(is_image_name(entry.name) or entry.suffix.lower() == ".xml" for entry in entries):
            return path
        path = below[0]
    return path
