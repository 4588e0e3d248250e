"""What a bundle's folder may contain, decided by content and not by name alone. Nothing here runs a model's code."""

import json
import os
import stat
from pathlib import Path

from budwood.core.errors import BundleError

__all__ = ["check_content", "list_files"]

ALLOWED_SUFFIXES = (".json", ".safetensors", ".onnx", ".md", ".svg", ".png", ".txt")


def list_files(folder: Path) -> list[str]:
    """Names of all files below `folder`, with `/`, sorted.

    Raises:
        BundleError: an entry is a link, a device, a hard link, has an unsafe name or a suffix that is not allowed.
    """
    raise BundleError("opening is not written yet", where=str(folder))


def check_content(path: Path, name: str) -> None:
    """Refuse a file whose bytes are not what its suffix says.

    Raises:
        BundleError: the file is unsafe; `where` names it.
    """
    raise BundleError("opening is not written yet", where=name)
