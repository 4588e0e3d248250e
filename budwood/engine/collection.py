"""The class that readers of whole collections extend: folders of images, annotation files, arrays.

Readers of single tables extend `Reader` of `engine/table.py`; a collection that claims a path is asked before them.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from budwood.core import registry
from budwood.core.task import Row

if TYPE_CHECKING:
    from budwood.engine.reading import Reading

__all__ = ["Collection", "collection_of"]


class Collection(ABC):
    """What a file in `budwood/data/` gives that reads something other than a table of texts."""

    first: ClassVar[bool] = False
    """Whether it is asked before the others, because what it claims they might claim as well."""

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Whether the path is of this kind. It looks at names and a few bytes, and is quick on any path."""

    @abstractmethod
    def read(self, path: Path, target: str | None, input: str | None, group: str | None) -> "Reading":
        """Labelled rows. Items that cannot be read are left out with a note and listed in `Reading.skipped`.

        Raises:
            DataError: nothing in it can be read, or a named column does not exist.
        """

    @abstractmethod
    def inputs(self, path: Path, input: str | None) -> list[Row]:
        """Rows to predict, without labels. Raises DataError when there are none."""


def collection_of(path: Path) -> Collection | None:
    """The collection reader that claims a path; None when it is left to the readers of tables."""
    kinds = [registry.get("data", name) for name in registry.names("data")]
    collections: list[Collection] = [kind() for kind in kinds if issubclass(kind, Collection)]
    collections.sort(key=lambda item: not item.first)
    return next((item for item in collections if item.claims(path)), None)
