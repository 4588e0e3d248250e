"""Names of files and folders made from what others wrote: none leaves its folder, none takes another's place."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from budwood.core.errors import UsageError

__all__ = ["FileNames", "file_name"]

LONGEST = 120
"""Bytes of a name made here; file systems take 255, and a number and an ending may follow."""
UNSAFE = re.compile(r"^\.+|[/\\\x00-\x1f\x7f]+")
"""Separators, control characters, and the dots that hide a file or lead out of its folder."""


def file_name(text: str) -> str:
    """The text as the name of one file or folder: short, visible and never a path."""
    name = UNSAFE.sub("-", text).encode(errors="surrogatepass")[:LONGEST].decode(errors="ignore")
    return name or "-"


@dataclass
class FileNames:
    """Names for one folder, each given once; `a` is followed by `a-2`, also where case is all that differs."""

    taken: set[str] = field(default_factory=set)
    given: Counter[str] = field(default_factory=Counter)

    @classmethod
    def beside(cls, folder: Path) -> Self:
        """Names that the files in the folder do not have yet; the folder is made where it is missing.

        Raises:
            UsageError: it is no folder, or cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return cls({path.name.casefold() for path in folder.iterdir()})
        except OSError as error:
            cause = f"the folder cannot be used: {error.strerror}"
            raise UsageError(cause, where=str(folder), fix="name another folder") from error

    def unused(self, stem: str, suffix: str = "") -> str:
        """The stem as a name that was not given before, with the suffix."""
        first = file_name(stem)
        while True:
            self.given[first] += 1
            number = self.given[first]
            name = f"{first}{f'-{number}' if number > 1 else ''}{suffix}"
            if name.casefold() not in self.taken:
                self.taken.add(name.casefold())
                return name
