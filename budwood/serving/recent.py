"""Rings of fixed-size records in the shared figures: the latest answers of each worker, for all workers to read.

One worker writes its own ring, anybody reads all of them, and nothing is locked: a record that is overwritten while it
is read is one odd row among thousands.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ANSWERS", "INSIGHTS", "KEYS", "Records", "Ring"]


@dataclass(frozen=True)
class Records:
    """How many records of which numbers a ring holds."""

    columns: tuple[str, ...]
    room: int

    @property
    def cells(self) -> int:
        """Doubles in the shared memory: the records, and how many were ever written."""
        return 1 + self.room * len(self.columns)


ANSWERS = Records(("time", "length", "prediction", "confidence", "value", "similarity"), 2048)
"""Of one model: when it answered (seconds of the monotonic clock), the length of the input, and what it said."""
INSIGHTS = Records(("time", "brightness", "contrast", "unknown", *(f"direction_{i}" for i in range(16))), 256)
"""Of one model: what only a closer look at an input tells. Few inputs are looked at."""
KEYS = Records(("key", "claim", "kind", "prediction"), 1 << 16)
"""Of all models of a worker: what was answered to which request, for labels that come later."""


class Ring:
    """One ring in a worker's part of the memory. One object writes it; any number of others read it.

    Args:
        row: all figures of the worker.
        start: the ring's first cell in it.
    """

    def __init__(self, records: Records, row: "memoryview[float]", start: int) -> None:
        self.records = records
        self.pack = struct.Struct(f"{len(records.columns)}d").pack_into
        self.bytes = row.cast("B")
        self.written = row[start : start + 1]
        self.count = int(self.written[0])
        self.step = 8 * len(records.columns)
        self.first = 8 * (start + 1)

    def append(self, *record: float) -> None:
        """Write one record over the oldest."""
        self.pack(self.bytes, self.first + self.count % self.records.room * self.step, *record)
        self.count += 1
        self.written[0] = self.count

    def read(self) -> NDArray[np.float64]:
        """The records that are there, in no order, shape (records, columns)."""
        there = min(int(self.written[0]), self.records.room)
        columns = len(self.records.columns)
        cells = np.frombuffer(self.bytes, np.float64, self.records.room * columns, self.first)
        return cells.reshape(-1, columns)[:there].copy()
