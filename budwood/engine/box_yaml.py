"""What a YOLO data set says about itself: `data.yaml`, or a list with the name of a class a line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budwood.core.errors import DataError, require

__all__ = ["NAME_LISTS", "Config", "configuration", "name_files", "names_classes", "stated_path"]

HEAD = 1 << 16
MAX_BYTES = 1 << 20
NAME_LISTS = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
NAMES = re.compile(r"""^\s*\{?\s*["']?names["']?\s*:""", re.MULTILINE)
PATH = re.compile(r"""^path\s*:\s*(["']?)([^#\r\n]*?)\1\s*(#.*)?$""", re.MULTILINE)
PARTS = ("train", "val", "valid", "validation", "test")


@dataclass(frozen=True)
class Config:
    """The names of the classes by their numbers, and what else is stated."""

    names: Mapping[int, str] = field(default_factory=dict)
    source: str = "their numbers"
    """Where the names stand."""
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Folders and lists of images of each split, as they are written."""
    poses: bool = False
    """Whether lines have the points of a pose after the box."""

    def name(self, number: int) -> str:
        """The name of a class, its number where no names are known. Raises ValueError when there is none."""
        if not self.names and number >= 0:
            return str(number)
        if not self.names.get(number):
            raise ValueError(f"there is no class {number}: {len(self.names)} are named")
        return self.names[number]


def configuration(file: Path | None) -> Config:
    """Read a .yaml file or a list of names; without one, classes are called by their numbers.

    Raises:
        DataError: the file cannot be understood.
        MissingExtraError: a .yaml file, and no yaml is installed.
    """
    if file is None:
        return Config()
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError("it is larger than a mebibyte")
        content = file.read_text(encoding="utf-8-sig", errors="replace")
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error
    if not is_yaml(file):
        lines = [line.strip() for line in content.rstrip().splitlines()]  # a blank line keeps the number of its class
        return Config(dict(enumerate(lines)), file.name)
    yaml = require("yaml", extra="train")
    try:
        # The base loader leaves every word as it is written: `yes` is a name, not True.
        tree = yaml.BaseLoader(content).get_single_data()
        names = named(tree["names"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise unreadable(file, error) from error
    parts = {name: texts(tree.get(name)) for name in PARTS}
    return Config(names, file.name, parts, "kpt_shape" in tree)


def named(names: Any) -> dict[int, str]:
    """The names by their numbers. Raises TypeError or ValueError where one is no word: lists can repeat each other."""
    if not isinstance(names, list | dict):
        raise TypeError("names are a list, or numbers with names")
    pairs = enumerate(names) if isinstance(names, list) else names.items()
    found = {int(number): name for number, name in pairs}
    if not all(isinstance(name, str) for name in found.values()):
        raise TypeError("a name is a word")
    return {number: name.strip() for number, name in found.items()}


def texts(value: object) -> list[str]:
    """A value that is a text or a list of texts, as a list."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item]


def unreadable(file: Path, error: Exception) -> DataError:
    cause = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return DataError(f"the names of the classes cannot be read: {cause}", where=str(file), fix="names: [first, second]")


def is_yaml(file: Path) -> bool:
    return file.suffix.lower() in (".yaml", ".yml")


def name_files(root: Path) -> list[Path]:
    """The files that name the classes: a .yaml with `names:`, or a list of names."""
    yaml = sorted(file for file in root.iterdir() if is_yaml(file) and file.is_file())
    lists = [root / folder / name for folder in ("", "labels") for name in NAME_LISTS]
    return [file for file in yaml if names_classes(file)] + [file for file in lists if file.is_file()]


def names_classes(file: Path) -> bool:
    return NAMES.search(head_of(file)) is not None


def stated_path(file: Path) -> str | None:
    """What `path:` says, the folder of the data; None where nothing is said."""
    found = PATH.search(head_of(file))
    return found[2].strip() or None if found else None


def head_of(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(HEAD).decode("utf-8-sig", "replace")
