"""Plug-ins are found by their file names: the name of the file in the folder is the name of the plug-in.

Another package adds its own through entry points of the group `budwood.<folder>` (dots for slashes), such as
`budwood.tasks` or `budwood.steps.shrink`.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any

from budwood.core.errors import NotFoundError

__all__ = ["get", "names"]


@cache
def names(folder: str) -> tuple[str, ...]:
    """The plug-ins of a folder of `budwood`, sorted: `names("tasks")`, `names("steps/shrink")`."""
    own = {
        entry.name.removesuffix(".py")
        for entry in files("budwood").joinpath(folder).iterdir()
        if entry.name.endswith(".py") and not entry.name.startswith("_")
    }
    foreign = {point.name for point in entry_points(group=group(folder))}
    return tuple(sorted(own | foreign))


def get(folder: str, name: str) -> Any:
    """The one public name of a plug-in file.

    Raises:
        NotFoundError: there is no such plug-in; the message lists those that exist.
    """
    if name not in names(folder):
        raise NotFoundError(
            f"no {folder} named {name!r}",
            where=f"budwood/{folder}",
            fix=f"choose one of: {', '.join(names(folder))}",
        )
    for point in entry_points(group=group(folder), name=name):
        return point.load()
    module = import_module(f"budwood.{folder.replace('/', '.')}.{name}")
    (export,) = module.__all__
    return getattr(module, export)


def group(folder: str) -> str:
    return f"budwood.{folder.replace('/', '.')}"
