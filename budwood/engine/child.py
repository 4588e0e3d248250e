"""How a module of this package is started in a process of its own, whatever lies in the working directory."""

import os
import sys
from pathlib import Path

__all__ = ["child_command", "child_environment"]


def child_command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE` without the working directory on the path: a numpy.py that lies there is not run."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """The environment of this process, with this package where the child finds it, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]  # empty is the working directory
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
