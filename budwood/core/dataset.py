"""Typed rows with a fingerprint, and splits that a row never leaves."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from budwood.core.task import Row

__all__ = ["Dataset", "ReadOptions", "Splits", "row_hash"]


@dataclass(frozen=True)
class Dataset:
    """Rows with the task's field names: `{"text": …, "label": …}`, and `"group"` where rows belong together."""

    rows: tuple[Row, ...]
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Row], *sources: str) -> "Dataset":
        return cls(tuple(rows), sources)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the rows' contents; their order does not matter."""
        return hashlib.sha256("".join(sorted(self.hashes)).encode()).hexdigest()

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each row's whole content."""
        return tuple(row_hash({"row": sorted(row.items())}, ("row",)) for row in self.rows)

    def canonical(self) -> "Dataset":
        """The same rows in the order of their hashes, which depends on nothing but the rows."""
        order = sorted(range(len(self)), key=self.hashes.__getitem__)
        if order == list(range(len(self))):
            return self
        return Dataset(tuple(self.rows[i] for i in order), self.sources)


@dataclass(frozen=True)
class ReadOptions:
    """How rows were read and split, as far as that was not found out from the data: what reading them again needs."""

    target: str | None = None
    input: str | None = None
    group: str | None = None
    shots: int | None = None
    test: tuple[tuple[str, str], ...] = ()
    """The name and the SHA-256 of each file of a separate test set."""
    split: str | None = None
    """The way in which rows were set aside, where one was named."""


@dataclass(frozen=True)
class Splits:
    """`train` to learn from, `validation` to choose by, `test` to be read once for the reported score.

    Each part is put into its canonical order. What is learnt depends on the order of the rows, so equal fingerprints
    must mean equal orders: a table that was sorted anew gives the same model, and finds the work that was begun.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    seed: int
    notes: tuple[str, ...] = ()
    """What was decided and removed while splitting, to be printed."""
    options: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            object.__setattr__(self, name, getattr(self, name).canonical())

    @property
    def fingerprint(self) -> str:
        parts = (self.train.fingerprint, self.validation.fingerprint, self.test.fingerprint)
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


def row_hash(row: Row, fields: Sequence[str] = ("text",)) -> str:
    """SHA-256 of the named fields of a row; equal for equal inputs, whatever the label."""
    values: list[Any] = [row.get(field) for field in fields]
    return hashlib.sha256(
        json.dumps(values, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    ).hexdigest()
