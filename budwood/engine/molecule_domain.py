"""The applicability domain of a molecule model: how near a molecule is to those that the model learnt from.

The training molecules travel in the bundle as fingerprints of 256 bytes and digests of their canonical SMILES.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import BundleError
from budwood.engine.molecules import BITS, KEY_BYTES, canonical, fingerprints, keys, prepared

__all__ = ["FILE", "Domain", "Neighbours", "domain_of", "pack"]

FILE = "training_molecules.safetensors"
LOWEST = 0.05
"""The share of training molecules that are less similar to their own nearest neighbour than the limit."""
SAMPLE = 2_000


@dataclass(frozen=True)
class Neighbours:
    """Molecules to be compared with, laid out so that a comparison adds up the fifty rows of a molecule's own bits.

    That is ten times faster than comparing all 2048 bits, and takes 2 KiB of memory a molecule.
    """

    columns: NDArray[np.uint8]
    """Shape (2048, molecules)."""
    sizes: NDArray[np.uint16]
    """Bits of each molecule."""

    @classmethod
    def of(cls, bits: NDArray[np.uint64]) -> "Neighbours":
        columns = np.ascontiguousarray(unpack(bits).T)
        return cls(columns, columns.sum(axis=0, dtype=np.uint16))

    def nearest(self, queries: NDArray[np.uint64], rank: int = 0) -> NDArray[np.float64]:
        """The Tanimoto similarity of each query to its most similar molecule here, shape (queries,).

        Args:
            queries: packed fingerprints, shape (queries, 32).
            rank: 0 for the most similar one, 1 for the second; for queries that are among the molecules themselves.
        """
        result = np.zeros(len(queries))
        if len(self.sizes) <= rank:
            return result
        for number, row in enumerate(unpack(queries)):
            present = np.flatnonzero(row)
            common = self.columns[present].sum(axis=0, dtype=np.uint16)
            similarity = common / np.maximum(self.sizes + len(present) - common, 1)
            result[number] = similarity.max() if rank == 0 else np.partition(similarity, -rank - 1)[-rank - 1]
        return result


@dataclass(frozen=True)
class Domain:
    """Where the model knows its way."""

    bits: NDArray[np.uint64]
    """Packed fingerprints of the training molecules, shape (molecules, 32)."""
    known: frozenset[bytes]
    """Digests of their canonical SMILES."""
    limit: float
    """Tanimoto similarity to the nearest training molecule from which a molecule counts as inside."""

    @classmethod
    def of(cls, counts: NDArray[np.uint8], digests: NDArray[np.uint8]) -> "Domain":
        """The domain of training molecules, from fingerprints (molecules, 2048) and keys (molecules, 16).

        The limit is the 5 % quantile of each training molecule's similarity to its nearest neighbour among the others
        (of 2,000 molecules spread evenly, where there are more).
        """
        bits = pack(counts)
        picks = np.unique(np.linspace(0, len(bits) - 1, min(len(bits), SAMPLE)).astype(int))
        similarity = Neighbours.of(bits).nearest(bits[picks], rank=1)
        limit = round(float(np.quantile(similarity, LOWEST)), 4)
        return cls(bits, frozenset(row.tobytes() for row in digests), limit)

    @classmethod
    def open(cls, folder: Path) -> "Domain | None":
        """The domain in a bundle's folder, or None when it has none.

        Raises:
            BundleError: the file has other tensors than `save` writes.
        """
        from safetensors import safe_open

        path = folder / FILE
        if not path.exists():
            return None
        with safe_open(str(path), framework="np") as file:
            limit = float((file.metadata() or {}).get("similarity_limit", "nan"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
        shapes = {name: (str(value.dtype), value.shape[1:]) for name, value in tensors.items()}
        if shapes != {"bits": ("uint8", (BITS // 8,)), "keys": ("uint8", (KEY_BYTES,))} or not 0 <= limit <= 1:
            raise BundleError("the training molecules are not as Budwood writes them", where=str(path))
        digests = frozenset(row.tobytes() for row in tensors["keys"])
        return cls(np.ascontiguousarray(tensors["bits"]).view(np.uint64), digests, limit)

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours.of(self.bits)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        rows = b"".join(sorted(self.known))
        tensors = {
            "bits": np.ascontiguousarray(self.bits).view(np.uint8),
            "keys": np.frombuffer(rows, np.uint8).reshape(-1, KEY_BYTES).copy(),
        }
        save_file(tensors, folder / FILE, {"similarity_limit": repr(self.limit)})

    def describe(self, counts: NDArray[np.uint8], digests: NDArray[np.uint8]) -> list[dict[str, float | bool]]:
        """`similarity`, `in_domain` and `in_training` of each molecule."""
        similarity = self.neighbours.nearest(pack(counts))
        return [
            {
                "similarity": round(float(value), 4),
                "in_domain": bool(value >= self.limit),
                "in_training": digest.tobytes() in self.known,
            }
            for value, digest in zip(similarity, digests, strict=True)
        ]


def pack(counts: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Fingerprints of shape (molecules, 2048) as bits, shape (molecules, 32)."""
    return np.packbits(counts > 0, axis=1).view(np.uint64)


def unpack(bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.unpackbits(bits.view(np.uint8), axis=1)


def domain_of(smiles: Sequence[str]) -> Domain:
    """The domain of these training molecules; those that cannot be parsed are left out."""
    molecules = [found.molecule for text in smiles if (found := prepared(text)) is not None]
    return Domain.of(fingerprints(molecules), keys([canonical(molecule) for molecule in molecules]))
