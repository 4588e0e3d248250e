"""Labels that are probably mistakes: spellings of one name, names that look alike, and rows that models doubt."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["label_errors", "similar_names", "spelling_variants"]

SEPARATORS = re.compile(r"(?<=\w)[\s_./-]+(?=\w)")
TRAILING = re.compile(r"[.,:;!]+$")
SHORT = 5
"""Characters below which names that differ in one of them are usually different words: `cat`, `car`."""
MANY = 2_000
"""Names above which comparing each with each is left out."""


def spelling_variants(labels: Mapping[str, int]) -> dict[str, str]:
    """Variant to the commonest spelling, for names equal but for case, white space and separators.

    Names without letters are left alone (`-1` is not `1`), and so are `C`, `C++` and `C#`.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        if any(character.isalpha() for character in label):
            alike[fold(label)].append(label)
    variants: dict[str, str] = {}
    for names in alike.values():
        best = min(names, key=lambda name: (-labels[name], name))
        variants |= {name: best for name in names if name != best}
    return variants


def fold(label: str) -> str:
    return SEPARATORS.sub(" ", TRAILING.sub("", label.strip())).casefold()


def similar_names(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that differ by a plural s or by one letter; digits count as different (`level_1`, `level_2`)."""
    names = sorted(labels)
    if len(names) > MANY:
        return []
    pairs = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            if abs(len(first) - len(second)) <= 1 and look_alike(first.casefold(), second.casefold()):
                pairs.append((first, second))
    return pairs


def look_alike(first: str, second: str) -> bool:
    short, long = sorted((first, second), key=len)
    if long == short + "s" and len(short) >= 3:
        return True
    if len(short) < SHORT:
        return False
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    rest, other = short[start:], long[start:]
    if len(short) < len(long):
        return rest == other[1:] and other[0].isalpha()
    if rest[1:] == other[1:]:
        return rest[0].isalpha() and other[0].isalpha()
    return rest[:2] == other[1::-1] and rest[2:] == other[2:] and rest[:2].isalpha()


def label_errors(given: NDArray[np.int64], probabilities: NDArray[np.floating]) -> list[tuple[int, int]]:
    """(row, likely class) for rows whose label is probably wrong, the surest first.

    Northcutt, Jiang and Chuang 2021, "Confident learning": a row counts towards class j when its probability of j is
    at least the mean probability of j over the rows labelled j; rows that count towards another class are suspect.

    Args:
        given: class numbers, shape (rows,).
        probabilities: shape (rows, classes), from models that were not trained on the row.
    """
    rows, classes = probabilities.shape
    if rows == 0:
        return []
    counts = np.bincount(given, minlength=classes)
    own = probabilities[np.arange(rows), given]
    means = np.bincount(given, weights=own, minlength=classes) / np.maximum(counts, 1)
    thresholds = np.where(counts > 0, means, np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = confident.argmax(axis=1)
    suspect = np.flatnonzero((confident.max(axis=1) >= 0) & (likely != given))
    margin = own[suspect] - probabilities[suspect, likely[suspect]]
    ranked = suspect[np.argsort(margin, kind="stable")]
    return [(int(row), int(likely[row])) for row in ranked]
