"""Every error that a user can meet: what is wrong, where, and what to type next.

BudwoodError             exit 1   anything that Budwood reports by itself
├── UsageError           exit 2   the command line or a parameter is off
├── DataError            exit 3   the user's data is off
├── NotFoundError        exit 4   a name, a version or a file does not exist
├── BudgetError          exit 5   nothing met the budget
├── BundleError          exit 1   a bundle is damaged, unsafe or of the wrong format
├── StepError            exit 1   a step ran and its result must not be used
├── StorageError         exit 1   the disk is full, read-only or fails
└── MissingExtraError    exit 1   an optional dependency is not installed
"""

from types import ModuleType
from typing import ClassVar

__all__ = [
    "BudgetError",
    "BudwoodError",
    "BundleError",
    "DataError",
    "MissingExtraError",
    "NotFoundError",
    "StepError",
    "StorageError",
    "UsageError",
    "require",
]


class BudwoodError(Exception):
    """The root of Budwood's errors.

    Args:
        cause: one sentence that says what is wrong.
        where: the file, row, column, field or flag.
        fix: what the user can type or change next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, cause: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(cause, where, fix)
        self.cause = cause
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.cause]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, str]:
        """The same three lines, for `--json` output."""
        return {"error": self.cause, "where": self.where, "fix": self.fix}


class UsageError(BudwoodError):
    """The command line or a parameter is off."""

    exit_code = 2


class DataError(BudwoodError):
    """The user's data is off."""

    exit_code = 3


class NotFoundError(BudwoodError):
    """A name, a version or a file does not exist."""

    exit_code = 4


class BudgetError(BudwoodError):
    """Nothing met the budget."""

    exit_code = 5


class BundleError(BudwoodError):
    """A bundle is damaged, unsafe or of the wrong format."""


class StepError(BudwoodError):
    """A step ran and its result must not be used."""


class StorageError(BudwoodError):
    """The disk is full, read-only or fails."""


class MissingExtraError(BudwoodError):
    """An optional dependency is not installed."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtraError: the module cannot be found.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{module} is not installed",
            where=f"needed by budwood[{extra}]",
            fix=f"pip install 'budwood[{extra}]'",
        ) from error
