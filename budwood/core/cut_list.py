"""The list of channels that a cut network keeps, `cuts.json`: checked like every file of a bundle."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from budwood.core.formats import load_json, read_capped, refuse

__all__ = ["CUTS", "load_cuts"]

CUTS = "cuts.json"
MAX_BYTES = 4 << 20
MAX_CHANNELS = 1 << 16


def load_cuts(path: Path, name: str = CUTS) -> dict[str, dict[str, list[int]]]:
    """The list: `{"version": 1, "cuts": {module: {"outputs": [0, 2, …], "inputs": […]}}}`, without what is around it.

    Raises:
        BundleError: it is larger than such lists are, or holds anything but rising channel numbers.
    """
    read_capped(path, name, MAX_BYTES)
    content = load_json(path, name)
    if not isinstance(content, dict) or content.keys() != {"version", "cuts"} or content["version"] != 1:
        raise refuse(path, f"{name} is not a list of kept channels of version 1")
    cuts: Any = content["cuts"]
    if not isinstance(cuts, dict) or not all(isinstance(kept, dict) for kept in cuts.values()):
        raise refuse(path, f"{name} is not a list of kept channels")
    for module, kept in cuts.items():
        for side, numbers in kept.items():
            whole = isinstance(numbers, list) and numbers and all(type(number) is int for number in numbers)
            if side not in ("outputs", "inputs") or not whole or not 0 <= numbers[0] <= numbers[-1] < MAX_CHANNELS:
                raise refuse(path, f"{name} has no channel numbers for {module[:80]!a}")
            if any(first >= second for first, second in pairwise(numbers)):
                raise refuse(path, f"{name} has channel numbers of {module[:80]!a} that do not rise")
    return cuts
