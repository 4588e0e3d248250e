"""The pointer file of a model's name: which version is `live`, and every change since, so that one can go back."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from budwood.core.commit import write_atomic
from budwood.core.errors import BundleError

__all__ = ["Aliases", "Change"]

Version = int


class Change(BaseModel):
    """One move of an alias."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alias: str
    version: Version = Field(ge=1, strict=True)
    previous: Version | None = Field(strict=True)
    at: str
    by: Literal["promote", "rollback"] = "promote"


class Aliases(BaseModel):
    """`aliases.json`. It is never changed in place: `moved` gives the next one, `write` replaces the file at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aliases: dict[str, int] = {}
    history: tuple[Change, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Aliases":
        """The aliases of a name; none where the file does not exist.

        Raises:
            BundleError: the file is damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (ValidationError, OSError) as error:
            raise BundleError(
                f"the aliases of {path.parent.name} are damaged; its versions are not affected",
                where=str(path),
                fix=f"rm '{path}' && budwood models promote {path.parent.name} VERSION",
            ) from error

    def write(self, path: Path) -> None:
        write_atomic(path, self.model_dump_json(indent=1).encode() + b"\n")

    def moved(self, alias: str, version: int, by: Literal["promote", "rollback"] = "promote") -> "Aliases":
        """With `alias` on another version, and the change noted."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        change = Change(alias=alias, version=version, previous=self.aliases.get(alias), at=now, by=by)
        return Aliases(aliases={**self.aliases, alias: version}, history=(*self.history, change))

    def before(self, alias: str, existing: Iterable[int]) -> int | None:
        """The version that `alias` was promoted to before its present one, among those that still exist."""
        past: list[int] = []
        for change in self.history:
            if change.alias != alias:
                continue
            if change.by == "promote":
                past.append(change.version)
            while change.by == "rollback" and past and past[-1] != change.version:
                past.pop()
        present = self.aliases.get(alias)
        there = set(existing)
        return next((version for version in reversed(past) if version != present and version in there), None)
