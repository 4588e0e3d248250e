"""The store: a folder of named, numbered bundles, with aliases such as `live` that move between the versions.

models/tickets/1/  models/tickets/2/  models/tickets/aliases.json  models/.datasets/  models/.work/
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from budwood.core.aliases import Aliases
from budwood.core.bundle import MANIFEST, Bundle, StepRecord
from budwood.core.commit import locked, make_parents, remove_folder, sweep
from budwood.core.dataset import Splits
from budwood.core.errors import BudwoodError, BundleError, NotFoundError, UsageError
from budwood.core.snapshots import load_splits, save_splits

__all__ = ["Ancestor", "Entry", "Listing", "Store", "check_name"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
WORK_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
ALIASES = "aliases.json"
LIVE = "live"


@dataclass(frozen=True)
class Entry:
    """A bundle and what it is called."""

    name: str
    version: int
    """1, 2, 3 …; 0 for a folder outside the store."""
    bundle: Bundle


@dataclass(frozen=True)
class Listing:
    """One line of `budwood models list`; the hashes of large files are not checked for it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    bundle: Bundle | None
    """None when it cannot be opened."""
    problem: str = ""
    """Why it cannot be opened."""


@dataclass(frozen=True)
class Ancestor:
    """A step in the making of a bundle, and where its result is stored."""

    step: StepRecord
    entry: Entry | None
    """None when the result was never published, or was removed."""


@dataclass(frozen=True)
class Store:
    root: Path

    @classmethod
    def default(cls, root: str | Path | None = None) -> "Store":
        """The store at `root`, else at `BUDWOOD_STORE`, else `models/` in the working directory.

        Raises:
            UsageError: it is an address such as s3://…; only local folders work today.
        """
        place = os.fspath(root or os.environ.get("BUDWOOD_STORE") or "models")
        if "://" in place:
            raise UsageError(f"only local folders work today, not {place}", where="--store", fix="--store FOLDER")
        return cls(Path(place).expanduser())

    # Looking
    def names(self) -> tuple[str, ...]:
        """The names that have a version, sorted."""
        return tuple(sorted(name for name in subfolders(self.root, NAME) if self.versions(name)))

    def versions(self, name: str) -> tuple[int, ...]:
        """The committed versions of a name, the oldest first; empty for an unknown name."""
        if not NAME.fullmatch(name):
            return ()
        return tuple(sorted(int(version) for version in subfolders(self.root / name, VERSION)))

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version. Raises BundleError when the pointer file is damaged."""
        return dict(Aliases.read(self.known(name) / ALIASES).aliases)

    def list(self) -> tuple[Listing, ...]:
        """Every version of every name; what cannot be opened is listed with its problem."""
        return tuple(self.describe(name, version) for name in self.names() for version in self.versions(name))

    def resolve(self, reference: str, *, verify: bool = True) -> Entry:
        """The bundle that `name` (its newest version), `name:version`, `name@alias` or a folder stands for.

        Raises:
            NotFoundError: there is none; names that look alike are suggested.
            BundleError: it is damaged or unsafe.
        """
        name, mark, rest = split_reference(reference)
        if self.versions(name):
            version = self.pick(name, mark, rest)
            return Entry(name, version, Bundle.open(self.root / name / str(version), verify=verify))
        folder = Path(reference).expanduser()
        if (folder / MANIFEST).is_file() or (folder.is_dir() and "/" in reference):
            return self.place(folder, Bundle.open(folder, verify=verify))
        if "/" in reference or os.sep in reference:
            raise NotFoundError("there is no such folder", where=reference, fix="budwood models list")
        raise self.unknown(name)

    def verify(self, reference: str) -> Entry:
        """Check every byte of a bundle against its hashes. Raises BundleError naming the first file that differs."""
        return self.resolve(reference, verify=True)

    def lineage(self, entry: Entry) -> tuple[Ancestor, ...]:
        """All steps from the base model to this bundle, the oldest first, each with its stored result."""
        stored = {
            listing.bundle.id: Entry(listing.name, listing.version, listing.bundle)
            for listing in reversed(self.list())
            if listing.bundle
        }
        *past, last = entry.bundle.manifest.history or [StepRecord(name="base")]
        return (*(Ancestor(step, stored.get(step.bundle or "")) for step in past), Ancestor(last, entry))

    # Changing
    def publish(self, name: str, bundle: Bundle) -> Entry:
        """Commit a copy of a finished bundle as the next version of `name`; the first one becomes `live`.

        Two processes may publish at once: each gets its own number.

        Raises:
            UsageError: the name has characters that are not allowed.
        """
        check_name(name)
        home = self.root / name
        make_parents(home)
        sweep(home)
        with locked(home / ".lock"):
            pointers = Aliases.read(home / ALIASES)
            used = {0, *self.versions(name), *(change.version for change in pointers.history)}
            version, copy = self.commit(home, max(used) + 1, bundle)
            if LIVE not in pointers.aliases:
                pointers.moved(LIVE, version).write(home / ALIASES)
        return Entry(name, version, copy)

    def promote(self, name: str, version: int, alias: str = LIVE) -> Entry:
        """Point an alias at a version, after checking every byte of it.

        Raises:
            NotFoundError: there is no such version.
            BundleError: it is damaged; the alias stays where it is.
        """
        with locked(self.known(name) / ".lock"):
            return self.point(name, version, alias, "promote")

    def rollback(self, name: str, alias: str = LIVE) -> Entry:
        """Point an alias back at the version that it was promoted to before.

        Raises:
            NotFoundError: there is no earlier version in its history.
        """
        with locked(self.known(name) / ".lock"):
            version = Aliases.read(self.root / name / ALIASES).before(alias, self.versions(name))
            if version is None:
                raise NotFoundError(
                    f"{name}@{alias} was on no other version before that still exists",
                    where=str(self.root / name / ALIASES),
                    fix=f"budwood models promote {name} VERSION",
                )
            return self.point(name, version, alias, "rollback")

    def remove(self, name: str, version: int) -> None:
        """Delete a version for good.

        Raises:
            UsageError: an alias points at it.
            NotFoundError: there is no such version.
        """
        with locked(self.known(name) / ".lock"):
            folder = self.folder(name, version)
            held = [alias for alias, number in self.aliases(name).items() if number == version]
            if held:
                raise UsageError(
                    f"{name}:{version} is {', '.join(held)}",
                    where=str(folder),
                    fix=f"budwood models promote {name} OTHER --alias {held[0]}",
                )
            remove_folder(folder)

    # Data and work
    def save_splits(self, splits: Splits) -> None:
        """Keep the rows of a training run, private to this account, so that later steps find the very same rows."""
        save_splits(self.root / ".datasets", splits)

    def load_splits(self, fingerprint: str) -> Splits:
        """The rows with a fingerprint. Raises NotFoundError or BundleError; `fix` says to give the data again."""
        return load_splits(self.root / ".datasets", fingerprint)

    def work(self, key: str) -> Path:
        """The folder for the checkpoints of the run with this key; it outlives a killed process."""
        if not WORK_KEY.fullmatch(key):
            raise UsageError(f"{key!a} cannot name a work folder", where=str(self.root / ".work"))
        folder = self.root / ".work" / key
        make_parents(folder)
        return folder

    @contextmanager
    def lock(self, key: str) -> Iterator[Path]:
        """Hold the work folder of a run. Raises UsageError, naming its process, when another run has it."""
        folder = self.work(key)
        sweep(folder.parent)
        with locked(folder.with_name(f"{key}.lock"), wait=False):
            yield folder

    # Parts of the above
    def known(self, name: str) -> Path:
        if not self.versions(name):
            raise self.unknown(name)
        return self.root / name

    def folder(self, name: str, version: int) -> Path:
        home = self.known(name)
        if version not in self.versions(name):
            there = ", ".join(str(number) for number in self.versions(name))
            raise NotFoundError(f"{name} has no version {version}", where=str(home), fix=f"there are: {there}")
        return home / str(version)

    def unknown(self, name: str) -> NotFoundError:
        near = get_close_matches(name.lower(), self.names(), n=3, cutoff=0.5)
        fix = f"did you mean {' or '.join(near)}?" if near else "budwood models list"
        return NotFoundError(f"no model named {name!a}", where=str(self.root), fix=fix)

    def pick(self, name: str, mark: str, rest: str) -> int:
        """The version that `:version`, `@alias` or nothing means."""
        if mark == ":":
            if not VERSION.fullmatch(rest):
                raise UsageError(f"{rest!a} is no version number", where=f"{name}:{rest}", fix=f"{name}:1")
            self.folder(name, int(rest))
            return int(rest)
        if mark != "@":
            return self.versions(name)[-1]
        pointers = self.aliases(name)
        if rest not in pointers:
            near = ", ".join(sorted(pointers)) or "none"
            raise NotFoundError(f"{name} has no alias {rest!a}", where=str(self.root / name), fix=f"there are: {near}")
        if pointers[rest] not in self.versions(name):
            raise NotFoundError(
                f"{name}@{rest} points at version {pointers[rest]}, which is gone",
                where=str(self.root / name / ALIASES),
                fix=f"budwood models rollback {name} --alias {rest}",
            )
        return pointers[rest]

    def place(self, folder: Path, bundle: Bundle) -> Entry:
        """An entry for a folder: with its name and version when it lies in this store."""
        name, version = folder.absolute().parts[-2:] if len(folder.absolute().parts) > 2 else ("", folder.name)
        if VERSION.fullmatch(version) and (self.root / name / version).absolute() == folder.absolute():
            return Entry(name, int(version), bundle)
        return Entry(folder.resolve().name, 0, bundle)

    def describe(self, name: str, version: int) -> Listing:
        held: tuple[str, ...] = ()
        try:
            held = tuple(sorted(alias for alias, number in self.aliases(name).items() if number == version))
            return Listing(name, version, held, Bundle.open(self.root / name / str(version), verify=False))
        except BudwoodError as error:
            return Listing(name, version, held, None, error.cause)

    def commit(self, home: Path, version: int, bundle: Bundle) -> tuple[int, Bundle]:
        """Copy to the first free number from `version` on; the lock is advice, the rename decides."""
        for number in range(version, version + 100):
            if os.path.lexists(home / str(number)):
                continue
            try:
                return number, bundle.copy(home / str(number))
            except UsageError:
                if not os.path.lexists(home / str(number)):
                    raise
        raise BundleError("no free version number was found", where=str(home), fix="try again")

    def point(self, name: str, version: int, alias: str, by: Literal["promote", "rollback"]) -> Entry:
        if not NAME.fullmatch(alias):
            raise UsageError(f"{alias!a} cannot be an alias", where="--alias", fix="use a-z, 0-9, `.`, `_`, `-`")
        entry = Entry(name, version, Bundle.open(self.folder(name, version)))
        pointers = Aliases.read(self.root / name / ALIASES)
        if pointers.aliases.get(alias) != version:
            pointers.moved(alias, version, by).write(self.root / name / ALIASES)
        return entry


def check_name(name: str) -> None:
    """Raise UsageError when a model cannot have this name; long work asks before it begins."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!a} cannot be a model's name", where="--name", fix="use a-z, 0-9, `.`, `_`, `-`; at most 64"
        )


def subfolders(parent: Path, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Names of the real folders (not links) below `parent` that match a pattern."""
    if not parent.is_dir():
        return ()
    with os.scandir(parent) as entries:
        return tuple(
            item.name for item in entries if pattern.fullmatch(item.name) and item.is_dir(follow_symlinks=False)
        )


def split_reference(reference: str) -> tuple[str, str, str]:
    """`name:2` gives name, mark and rest; a reference with a slash is a folder and has no mark.

    Raises:
        UsageError: it is empty, or an address.
    """
    if not reference or "\0" in reference:
        raise UsageError("no model is named", where="MODEL", fix="budwood models list")
    if "://" in reference:
        raise UsageError(f"only local folders work today, not {reference}", where="MODEL", fix="copy it here first")
    if "/" in reference or os.sep in reference:
        return "", "", ""
    for mark in "@:":
        if mark in reference:
            name, _, rest = reference.partition(mark)
            return name, mark, rest
    return reference, "", ""
