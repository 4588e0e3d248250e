"""The user's cache folder, for what can be made again: measurements of runtimes, engines, fetched test packages."""

import os
import sys
from pathlib import Path

__all__ = ["user_cache"]


def user_cache(name: str) -> Path:
    """The folder `name` in Budwood's part of the user's cache; it is not made here.

    `XDG_CACHE_HOME` where it is set, otherwise the place of the system: `~/.cache`, or `~/Library/Caches` on a Mac.
    """
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else usual) / "budwood" / name
