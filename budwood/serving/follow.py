"""Follows an alias of the store: tells a worker when it was moved, and to which version."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from budwood.core.aliases import Aliases
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.store import ALIASES, Store, split_reference
from budwood.core.store import LIVE as LIVE

__all__ = ["Follows", "Pointer", "follows"]

logger = logging.getLogger("budwood.serving")


@dataclass(frozen=True)
class Follows:
    """An alias, and how often it had been moved when its model was chosen; moves that come later are followed."""

    root: Path
    """The store."""
    name: str
    alias: str
    moves: int

    def aliases(self) -> Aliases:
        """Raises BundleError when the pointer file is damaged."""
        return Aliases.read(self.root / self.name / ALIASES)

    def bundle(self, version: int) -> Bundle:
        """A version, with every byte of it checked. Raises NotFoundError or BundleError."""
        return Store(self.root).resolve(f"{self.name}:{version}").bundle


def follows(reference: str, store: Store) -> Follows | None:
    """What a served reference follows: `name@alias` its alias, a bare name `live`; a version or a folder nothing.

    Raises:
        BundleError: the pointer file is damaged.
    """
    name, mark, alias = split_reference(reference)
    if mark == ":" or not store.versions(name):
        return None
    found = Follows(store.root.absolute(), name, alias or LIVE, 0)
    return Follows(found.root, name, found.alias, moves(found.aliases(), found.alias))


def moves(aliases: Aliases, alias: str) -> int:
    return sum(change.alias == alias for change in aliases.history)


@dataclass
class Pointer:
    """Watches the alias for one worker."""

    alias: Follows
    seen: int = field(init=False)
    signature: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.seen = self.alias.moves

    def moved(self) -> int | None:
        """The version that the alias was moved to since the last call; None where it was not moved.

        A file that is damaged is said once, and changes nothing.
        """
        try:
            facts = (self.alias.root / self.alias.name / ALIASES).stat()
        except OSError:
            return None
        signature = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        if signature == self.signature:
            return None
        self.signature = signature
        try:
            aliases = self.alias.aliases()
        except BundleError as error:
            logger.error("%s goes on as it is: %s", self.alias.name, error.cause)
            return None
        count = moves(aliases, self.alias.alias)
        if count <= self.seen:
            return None
        self.seen = count
        return aliases.aliases.get(self.alias.alias)

    def candidates(self) -> Iterator[int]:
        """For a worker that starts later: the version that the alias was moved to, then those before it, newest first.

        None where it was not moved since its model was chosen.
        """
        version = self.moved()
        if version is None:
            return
        yield version
        tried = {version}
        history = [change for change in self.alias.aliases().history if change.alias == self.alias.alias]
        for change in reversed(history[self.alias.moves :]):
            if change.version not in tried:
                tried.add(change.version)
                yield change.version
