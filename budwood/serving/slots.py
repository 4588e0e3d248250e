"""Where each figure of a server is in shared memory: a row for each process, in it a slot for each model and version.

A slot is claimed when a version begins to answer, and stays readable after it has ended. A worker claims in its own
row only, so workers agree without a lock: the same version may have another slot in another row, and `Board` in
`metrics.py` brings them together by name. When no slot is free, the one that was released first is used again.
"""

import json
import time
import zlib
from collections.abc import Iterable, Sequence
from ctypes import Array, c_double
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import RawArray

from budwood.core.errors import BudwoodError

__all__ = ["OTHER", "Described", "Layout", "Slots", "allocate", "read_slot"]

SPARE = 6
"""Slots beyond two for each served model, for versions of the past."""
LABELS = 32
"""The least number of labels that a slot has room for."""
TEXT_BYTES = 2048
"""The least room for a slot's name, version and labels."""
OTHER = "(other)"
"""Stands for the labels of a version that has more of them than its slot has room for."""


@dataclass(frozen=True)
class Described:
    """What the figures say of one model."""

    name: str
    version: str
    labels: tuple[str, ...]
    edges: tuple[float, ...] = ()
    """Bounds of the histogram of the numbers that it answers."""

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.version

    def text(self) -> bytes:
        return json.dumps([self.name, self.version, self.labels, self.edges]).encode()


class Layout:
    """Where each figure is in a row of doubles. All processes compute the same one from the same models.

    Args:
        models: those that are served at first; room is left for versions with twice as many labels.
        workers: worker processes.
        scalars: names of the single figures of a row.
        shared: cells of the other figures of a row, by name.
        figures: cells of each figure of a slot, by name; `predictions` are added, one cell for each label.
    """

    def __init__(
        self,
        models: Sequence[Described],
        workers: int,
        scalars: Iterable[str],
        shared: dict[str, int],
        figures: dict[str, int],
    ) -> None:
        self.workers = workers
        self.labels = max(LABELS, *(2 * len(model.labels) for model in models), 0)
        self.text_bytes = max(TEXT_BYTES, *(2 * len(model.text()) for model in models), 0)
        self.size = 0
        self.scalars = {name: self.take(1) for name in scalars}
        self.shared = {name: self.take(cells) for name, cells in shared.items()}
        self.count = 2 * len(models) + SPARE
        """Slots of a row."""
        block = {"number": 1, "released": 1, "length": 1, "check": 1, "text": -(-self.text_bytes // 8)}
        self.sizes = block | figures | {"predictions": self.labels + 1}
        self.slots = [{name: self.take(cells) for name, cells in self.sizes.items()} for _ in range(self.count)]
        """For each slot, where each of its figures starts in the row."""

    def take(self, cells: int) -> int:
        start = self.size
        self.size += cells
        return start

    @property
    def rows(self) -> int:
        """One row a worker, one for the successor of a worker that still finishes its requests, one for the parent."""
        return self.workers + 2

    def block(self, slot: int) -> slice:
        """All cells of a slot."""
        starts = self.slots[slot]
        return slice(starts["number"], starts["predictions"] + self.sizes["predictions"])


def allocate(layout: Layout) -> "Array[c_double]":
    """The shared memory, zeroed. It passes to child processes by fork and by spawn."""
    return RawArray(c_double, layout.rows * layout.size)


class Slots:
    """The slots of one row, as their worker writes them."""

    def __init__(self, layout: Layout, row: "memoryview[float]") -> None:
        self.layout, self.row = layout, row
        self.uses = [0] * layout.count
        self.places: list[dict[str, int]] = [{} for _ in range(layout.count)]
        """For each slot, the cell of each label."""
        self.edges: list[tuple[float, ...]] = [()] * layout.count
        for slot in range(layout.count):  # those of an earlier process in this row
            if self.number(slot):
                self.set(slot, "released", time.time())

    def number(self, slot: int) -> float:
        """The how manieth claim of this row it was; 0 for a free slot."""
        return self.row[self.layout.slots[slot]["number"]]

    def set(self, slot: int, name: str, value: float) -> None:
        self.row[self.layout.slots[slot][name]] = value

    def claim(self, model: Described) -> int:
        """The slot of a version: the one that it had before in this row, a free one, or the one released first.

        Raises:
            BudwoodError: every slot is in use.
        """
        wanted = self.fitting(model)
        numbers = range(self.layout.count)
        found = next((i for i in numbers if self.number(i) and read_slot(self.layout, self.row, i) == wanted), None)
        if found is None:
            found = self.unused()
            self.begin(found, wanted)
        self.set(found, "released", 0.0)
        self.uses[found] += 1
        room = len(wanted.labels) - (wanted.labels[-1:] == (OTHER,) and OTHER not in model.labels)
        first = self.layout.slots[found]["predictions"]
        self.edges[found] = model.edges
        self.places[found] = {label: first + min(i, room) for i, label in enumerate(model.labels)}
        return found

    def release(self, slot: int) -> None:
        """The version of a slot answers no more, as often as it was claimed."""
        self.uses[slot] -= 1
        if not self.uses[slot]:
            self.set(slot, "released", time.time())

    def unused(self) -> int:
        free = [i for i in range(self.layout.count) if not self.uses[i]]
        if not free:
            raise BudwoodError("more versions are open than there are figures for", fix="wait until older ones ended")
        return min(free, key=lambda i: (bool(self.number(i)), self.row[self.layout.slots[i]["released"]]))

    def begin(self, slot: int, model: Described) -> None:
        """Zero a slot and name it. Its number comes last, so that no reader takes it for finished before."""
        layout, text = self.layout, model.text()
        number = 1 + max(self.number(i) for i in range(layout.count))
        block = layout.block(slot)
        self.row[block] = memoryview(bytes(8 * (block.stop - block.start))).cast("d")
        start = layout.slots[slot]["text"]
        cells = layout.sizes["text"]
        self.row[start : start + cells] = memoryview(text.ljust(8 * cells, b"\0")).cast("d")
        self.set(slot, "length", len(text))
        self.set(slot, "check", zlib.crc32(text))
        self.set(slot, "number", number)

    def fitting(self, model: Described) -> Described:
        """The same with as many of its labels as there is room for; one more stands for the others."""
        kept = model.labels[: self.layout.labels]
        found = model
        while len(found.labels) > self.layout.labels + 1 or len(found.text()) > self.layout.text_bytes:
            found = replace(model, labels=(*kept, OTHER))
            kept = kept[: -max(1, len(kept) // 8)]
        return found


def read_slot(layout: Layout, row: "memoryview[float]", slot: int) -> Described | None:
    """What a slot is for; None for a free one, and for one that is being named just now."""
    starts = layout.slots[slot]
    if not row[starts["number"]]:
        return None
    text = row[starts["text"] : starts["text"] + layout.sizes["text"]].tobytes()[: int(row[starts["length"]])]
    if zlib.crc32(text) != row[starts["check"]]:
        return None
    name, version, labels, edges = json.loads(text)
    return Described(name, version, tuple(labels), tuple(edges))
