"""What a decoder remembers of the texts that it writes: one row of keys and values for each.

Where the runtime can, rows of different lengths lie in one block of memory that is written in place, and nothing is
copied from step to step (`SharedRows`). Everywhere else each step makes the next cache (`CopiedRows`).
"""

import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Arrays

if TYPE_CHECKING:
    from budwood.engine.generator import Shape

__all__ = ["Cache", "CopiedRows", "Row", "Rows", "SharedRows"]

Logits = NDArray[np.float32]
CAPACITY = 1024
"""Columns of a shared block at first, where the model's window is longer; doubled when a text needs more."""


class Row:
    """The memory of one text."""

    def __init__(self, at: int = 0) -> None:
        self.ids: list[int] = []
        """The tokens that it remembers."""
        self.owner: object = None
        """For whom."""
        self.at = at
        self.cache: Cache | None = None


class Rows(ABC):
    """Rows of memory, and the model that reads into them."""

    @abstractmethod
    def open(self) -> Row:
        """An empty row. The caller keeps count of how many there may be."""

    @abstractmethod
    def fork(self, row: Row, length: int) -> Row:
        """A new row that remembers the first `length` tokens of another."""

    @abstractmethod
    def cut(self, row: Row, length: int) -> None:
        """Forget all but the first `length` tokens."""

    @abstractmethod
    def close(self, row: Row) -> None:
        """Forget all of a row, and give its memory back."""

    @abstractmethod
    def read(self, row: Row, ids: Sequence[int]) -> Logits:
        """Read on in one row; the logits of the token after them, (vocabulary,)."""

    @abstractmethod
    def step(self, rows: Sequence[Row], tokens: Sequence[int]) -> Logits:
        """Read one token in each of these rows; the logits of the tokens after them, (rows, vocabulary)."""


class SharedRows(Rows):
    """Rows in one block a layer, where row number `at` is a text's. A batch is a range of rows, from the first one.

    Args:
        run: as `Runtime.run_in_place`.
        count: rows at most.
    """

    def __init__(self, run: Callable[[Arrays, Arrays], Arrays], shape: "Shape", count: int) -> None:
        self.run, self.shape = run, shape
        self.rows: list[Row | None] = [None] * count
        self.allocate(min(shape.window, CAPACITY))

    def allocate(self, capacity: int) -> None:
        """Raises MemoryError or OSError where there is no room, and changes nothing then."""
        sizes = (len(self.rows), self.shape.heads, capacity, self.shape.width)
        self.blocks = [Block(sizes) for _ in self.shape.empty(0)]
        self.arrays = {name: block.array for name, block in zip(self.shape.empty(0), self.blocks, strict=True)}
        self.capacity = capacity

    def open(self) -> Row:
        row = Row(self.rows.index(None))
        self.rows[row.at] = row
        return row

    def fork(self, row: Row, length: int) -> Row:
        found = self.open()
        found.ids = row.ids[:length]
        for array in self.arrays.values():
            array[found.at, :, :length] = array[row.at, :, :length]
        return found

    def cut(self, row: Row, length: int) -> None:
        del row.ids[length:]

    def close(self, row: Row) -> None:
        self.rows[row.at] = None
        for block in self.blocks:
            block.forget(row.at)

    def read(self, row: Row, ids: Sequence[int]) -> Logits:
        self.fit(len(row.ids) + len(ids))
        logits: Logits = self.call(row.at, np.asarray([ids], np.int64), np.asarray([len(row.ids)]))[0]
        row.ids.extend(ids)
        return logits

    def step(self, rows: Sequence[Row], tokens: Sequence[int]) -> Logits:
        self.fit(max(len(row.ids) for row in rows) + 1)
        self.gather(rows)
        order = [row.at for row in rows]
        ids, past = np.empty((len(rows), 1), np.int64), np.empty(len(rows), np.int64)
        ids[order, 0], past[order] = tokens, [len(row.ids) for row in rows]
        logits = self.call(0, ids, past)
        for row, token in zip(rows, tokens, strict=True):
            row.ids.append(token)
        return logits[order]

    def call(self, start: int, ids: NDArray[np.int64], past: NDArray[np.int64]) -> Logits:
        """Read `ids`, shape (rows, tokens), in the rows from `start` that remember `past` tokens each."""
        rows, tokens = ids.shape
        lengths = (past + tokens)[:, None]
        inputs = {
            "input_ids": ids,
            "attention_mask": (np.arange(lengths.max())[None] < lengths).astype(np.int64),
            "position_ids": past[:, None] + np.arange(tokens)[None],
            "num_logits_to_keep": np.asarray(1, np.int64),
        }
        cache = {name: array[start : start + rows] for name, array in self.arrays.items()}
        return np.asarray(self.run(inputs, cache)["logits"][:, -1])

    def gather(self, rows: Sequence[Row]) -> None:
        """Bring these rows to the beginning, in any order; those that lie there change places with them."""
        batch = set(rows)
        places = (at for at in range(len(rows)) if self.rows[at] not in batch)
        for row in rows:
            if row.at >= len(rows):
                self.swap(row, next(places))

    def swap(self, row: Row, to: int) -> None:
        other, length = self.rows[to], len(row.ids)
        before = 0 if other is None else len(other.ids)
        for block in self.blocks:
            mine, theirs = block.array[row.at, :, :length].copy(), block.array[to, :, :before].copy()
            if before != length:  # what the longer one leaves behind would take memory that nobody counts
                block.forget(row.at if before < length else to)
            block.array[to, :, :length], block.array[row.at, :, :before] = mine, theirs
        self.rows[row.at], self.rows[to] = other, row
        if other is not None:
            other.at = row.at
        row.at = to

    def fit(self, columns: int) -> None:
        """Make place for so many tokens in a row."""
        if columns <= self.capacity:
            return
        before = self.arrays
        self.allocate(min(self.shape.window, 1 << (columns - 1).bit_length()))
        for row in self.rows:
            if row is not None:
                for name, array in self.arrays.items():
                    array[row.at, :, : len(row.ids)] = before[name][row.at, :, : len(row.ids)]


class Block:
    """Zeroed memory that takes real pages only where it is written, and gives a row's pages back."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.row_bytes = 4 * int(np.prod(sizes[1:]))
        self.memory: mmap.mmap | None = None
        if sys.platform == "win32" or not sizes[0]:
            self.array = np.zeros(sizes, np.float32)
            return
        # Not numpy's own memory: it asks for pages of 2 MB, so that a short text would fill the place of a long one.
        self.memory = mmap.mmap(-1, sizes[0] * self.row_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.array = np.frombuffer(self.memory, np.float32).reshape(sizes)

    def forget(self, row: int) -> None:
        first = -(-row * self.row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (row + 1) * self.row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        if self.memory is not None and last > first:
            self.memory.madvise(mmap.MADV_DONTNEED, first, last - first)


@dataclass
class Cache:
    """What a decoder remembers of a batch of texts, padded on the left to one width."""

    past: Arrays
    """`past_key_values.N.key|value`, each (rows, heads, columns, width)."""
    mask: NDArray[np.int64]
    """(rows, columns): 1 where a row has a token."""

    def select(self, rows: Sequence[int]) -> "Cache":
        """The cache of some rows, without the columns that only others needed."""
        mask = self.mask[list(rows)]
        used = int(mask.any(axis=0).argmax()) if mask.size else 0
        return Cache({name: value[list(rows), :, used:] for name, value in self.past.items()}, mask[:, used:])

    def join(self, others: Sequence["Cache"]) -> "Cache":
        """All batches as one; the narrower are padded on the left."""
        every = (self, *others)
        width = max(cache.mask.shape[1] for cache in every)
        mask = np.concatenate([pad_left(cache.mask, 1, width) for cache in every])
        past = {name: np.concatenate([pad_left(cache.past[name], 2, width) for cache in every]) for name in self.past}
        return Cache(past, mask)

    def begin(self, columns: int) -> "Cache":
        """Its first columns only."""
        return Cache({name: value[:, :, :columns] for name, value in self.past.items()}, self.mask[:, :columns])


def pad_left(array: NDArray[Any], axis: int, width: int) -> NDArray[Any]:
    missing = width - array.shape[axis]
    return np.pad(array, [(missing, 0) if at == axis else (0, 0) for at in range(array.ndim)]) if missing else array


class CopiedRows(Rows):
    """Rows as arrays of their own, and the rows of the last step as one batch. `run` is as `Runtime.run`."""

    def __init__(self, run: Callable[[Arrays], Arrays], shape: "Shape") -> None:
        self.run, self.shape = run, shape
        self.together: list[Row] = []
        self.batch: Cache | None = None

    def open(self) -> Row:
        row = Row()
        row.cache = Cache(self.shape.empty(1), np.zeros((1, 0), np.int64))
        return row

    def fork(self, row: Row, length: int) -> Row:
        found = Row()
        found.ids, found.cache = row.ids[:length], self.own(row).begin(length)
        return found

    def cut(self, row: Row, length: int) -> None:
        row.cache = self.own(row).begin(length)
        if row in self.together:
            self.leave([row])
        del row.ids[length:]

    def close(self, row: Row) -> None:
        if row in self.together:
            self.leave([row])
        row.cache = None

    def own(self, row: Row) -> Cache:
        """The cache of one row by itself."""
        if row.cache is not None:
            return row.cache
        assert self.batch is not None
        return self.batch.select([self.together.index(row)])

    def leave(self, rows: Sequence[Row]) -> None:
        """Take these rows out of the batch."""
        stay = [at for at, row in enumerate(self.together) if row not in rows]
        self.together = [self.together[at] for at in stay]
        self.batch = self.batch.select(stay) if stay and self.batch is not None else None

    def read(self, row: Row, ids: Sequence[int]) -> Logits:
        cache = self.own(row)
        if row in self.together:
            self.leave([row])
        row.cache, found = self.call(cache, np.asarray([ids], np.int64))
        logits: Logits = found[0]
        row.ids.extend(ids)
        return logits

    def step(self, rows: Sequence[Row], tokens: Sequence[int]) -> Logits:
        if leaving := [row for row in self.together if row not in rows]:
            for row in leaving:
                row.cache = self.own(row)
            self.leave(leaving)
        if coming := [row for row in rows if row not in self.together]:
            caches = [self.own(row) for row in coming]
            self.batch = self.batch.join(caches) if self.batch is not None else caches[0].join(caches[1:])
            self.together += coming
            for row in coming:
                row.cache = None
        assert self.batch is not None
        order = [self.together.index(row) for row in rows]
        ids = np.empty((len(rows), 1), np.int64)
        ids[order, 0] = tokens
        self.batch, logits = self.call(self.batch, ids)
        for row, token in zip(rows, tokens, strict=True):
            row.ids.append(token)
        return logits[order]

    def call(self, cache: Cache, ids: NDArray[np.int64]) -> tuple[Cache, Logits]:
        """The cache with these tokens, (rows, tokens), and the logits of the token after them."""
        positions = cache.mask.sum(axis=1, keepdims=True) + np.arange(ids.shape[1])[None]
        mask = np.pad(cache.mask, [(0, 0), (0, ids.shape[1])], constant_values=1)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        # The logits of the last token only; a graph without this input gives all of them.
        outputs = self.run(inputs | cache.past | {"num_logits_to_keep": np.asarray(1, np.int64)})
        present = {name: outputs[name.replace("past_key_values", "present")] for name in cache.past}
        return Cache(present, mask), outputs["logits"][:, -1]
