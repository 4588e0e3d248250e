"""Documents to training blocks of one length: little padding, no attention and no loss across documents. numpy only.

Positions start at 0 in each document. transformers sees that and keeps the documents of a block apart
(block-diagonal attention, its `find_packed_sequence_indices`), in both its eager and its sdpa attention on a CPU.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from budwood.engine.vocabulary import Document

__all__ = ["IGNORED", "Blocks", "Segment", "block_length", "pack", "segments"]

IGNORED = -100
"""The target of a position that is not learnt."""
LONGEST = 512
"""Blocks are no longer than this: attention costs grow with the square, and few documents need more to be learnt."""


class Segment(NamedTuple):
    """Up to a block of one document: `ids[i + 1]` is what position i learns to say."""

    document: int
    ids: list[int]
    """One more than positions."""
    learnt: list[bool]

    @property
    def size(self) -> int:
        return len(self.ids) - 1


class Blocks(NamedTuple):
    """Packed rows, each array of shape (blocks, block length), int64."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    """`IGNORED` where nothing is learnt."""
    positions: NDArray[np.int64]
    documents: NDArray[np.int64]
    """The number of the document of each position, -1 for padding."""

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, size: int, random: np.random.Generator | None = None) -> Iterator["Blocks"]:
        """All blocks in batches, shuffled where a random generator is given."""
        order = np.arange(len(self)) if random is None else random.permutation(len(self))
        for start in range(0, len(order), size):
            yield Blocks(*(array[order[start : start + size]] for array in self))


def block_length(documents: Sequence[Document], window: int, longest: int = LONGEST) -> int:
    """Room for four usual documents (the 95th percentile), at most the model's window and `longest`.

    Fewer would leave much of a block empty, more would cost attention for nothing.
    """
    usual = float(np.percentile([len(document.ids) for document in documents], 95))
    return int(min(window, longest, -(-4 * usual // 32) * 32))


def segments(documents: Sequence[Document], block: int, random: np.random.Generator | None = None) -> list[Segment]:
    """Documents cut into segments of at most `block` positions; no token is lost between two segments.

    With `random` the first cut of a long document moves, so each epoch sees its sentences at other positions.
    """
    result = []
    for number, document in enumerate(documents):
        total = len(document.ids) - 1
        start = 0
        first = int(random.integers(1, block + 1)) if random is not None and total > block else block
        while start < total:
            stop = min(total, start + (first if start == 0 else block))
            part = Segment(number, document.ids[start : stop + 1], document.learnt[start : stop + 1])
            if any(part.learnt[1:]):
                result.append(part)
            start = stop
    return result


def pack(parts: Sequence[Segment], block: int, pad: int = 0) -> Blocks:
    """Segments in blocks, the longest first, each into the fullest block that has room (best fit decreasing)."""
    bins: list[list[Segment]] = []
    rooms: list[list[int]] = [[] for _ in range(block + 1)]
    for part in sorted(parts, key=lambda part: -part.size):
        room = next((size for size in range(part.size, block + 1) if rooms[size]), None)
        at = len(bins) if room is None else rooms[room].pop()
        if room is None:
            bins.append([])
        bins[at].append(part)
        rooms[(block if room is None else room) - part.size].append(at)
    shape = (len(bins), block)
    blocks = Blocks(
        np.full(shape, pad, np.int64),
        np.full(shape, IGNORED, np.int64),
        np.zeros(shape, np.int64),
        np.full(shape, -1, np.int64),
    )
    for row, content in enumerate(bins):
        start = 0
        for part in content:
            stop = start + part.size
            blocks.ids[row, start:stop] = part.ids[:-1]
            blocks.targets[row, start:stop] = np.where(part.learnt[1:], part.ids[1:], IGNORED)
            blocks.positions[row, start:stop] = np.arange(part.size)
            blocks.documents[row, start:stop] = part.document
            start = stop
        # Padding counts on from 0 again, so it is a document of its own that nobody looks at.
        blocks.positions[row, start:] = np.arange(block - start)
    return blocks
