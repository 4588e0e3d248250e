"""When two texts are the same, and when nearly so. Used by the splits and the data doctor."""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embed", "Vectors", "nearest", "nearest_before", "ngram_vectors", "normalise"]

Vectors = NDArray[np.float32]
"""One unit vector a row."""
Embed = Callable[[Sequence[str]], NDArray[np.floating]]
"""Texts to vectors, such as a sentence encoder; they need not have unit length."""

DIMENSIONS = 1024
BLOCK = 2048
"""Rows handled at once, so that memory does not grow with the product of two tables."""
MULTIPLIERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], dtype=np.uint32)


def normalise(text: str) -> str:
    """The text without what does not count: compatibility forms (NFKC), case, and the amount of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def ngram_vectors(texts: Sequence[str]) -> Vectors:
    """TF-IDF of hashed character 3- and 4-grams, shape (texts, 1024): near duplicates have a cosine close to 1.

    Weinberger et al. 2009, "Feature hashing for large scale multitask learning" (a sign bit evens out collisions).
    """
    vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        vectors[start : start + len(block)] = ngram_counts(block)
    present = np.count_nonzero(vectors, axis=0)
    vectors *= (np.log((1 + len(texts)) / (1 + present)) + 1).astype(np.float32)
    return unit(vectors)


def ngram_counts(texts: Sequence[str]) -> NDArray[np.float64]:
    padded = [f" {normalise(text)} " for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    owner = np.repeat(np.arange(len(padded)), [len(text) for text in padded])
    counts = np.zeros(len(padded) * DIMENSIONS)
    for size in (3, 4):
        if len(codes) < size:
            continue
        end = len(codes) - size + 1
        mixed = np.full(end, size, dtype=np.uint32)
        for offset in range(size):
            mixed = (mixed ^ codes[offset : offset + end]) * MULTIPLIERS[offset]
            mixed ^= mixed >> np.uint32(15)
        inside = owner[:end] == owner[size - 1 :]
        bucket = (mixed % np.uint32(DIMENSIONS)).astype(np.int64)
        sign = np.where(mixed >> np.uint32(31), 1.0, -1.0)
        place = owner[:end] * DIMENSIONS + bucket
        counts += np.bincount(place[inside], weights=sign[inside], minlength=len(counts))
    return counts.reshape(len(padded), DIMENSIONS)


def nearest(rows: Vectors, others: Vectors, threshold: float) -> list[tuple[int, int, float]]:
    """For each row whose most similar other reaches the cosine threshold: (row, that other, cosine)."""
    pairs: list[tuple[int, int, float]] = []
    if not len(others):
        return pairs
    for start in range(0, len(rows), BLOCK):
        similar = rows[start : start + BLOCK] @ others.T
        best = similar.argmax(axis=1)
        cosine = similar[np.arange(len(best)), best]
        pairs += [(start + int(i), int(best[i]), float(cosine[i])) for i in np.flatnonzero(cosine >= threshold)]
    return pairs


def nearest_before(rows: Vectors, threshold: float) -> list[tuple[int, int, float]]:
    """For each row whose most similar earlier row reaches the threshold: (row, that row, cosine).

    Time grows with the square of the rows; memory is one block of similarities, `BLOCK` times the rows.
    """
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        similar = block @ rows[: start + len(block)].T
        similar[:, start:][np.triu_indices(len(block))] = -1.0  # itself and what comes after
        best = similar.argmax(axis=1)
        cosine = similar[np.arange(len(best)), best]
        pairs += [(start + int(i), int(best[i]), float(cosine[i])) for i in np.flatnonzero(cosine >= threshold)]
    return pairs


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Vectors scaled to length 1; zero vectors stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
