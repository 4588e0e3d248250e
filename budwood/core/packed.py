"""Packed models: sparse, shared and entropy-coded weights in a file that expands to the very bytes of a model file.

The layout is Deep Compression's (Han et al. 2015, arXiv:1510.00149): positions as gaps, values as numbers of a table,
both Huffman-coded (deflate without its matching). Reading one needs numpy and the standard library; `engine/packed.py`
writes them.
"""

import hashlib
import json
import lzma
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.wire import scan_onnx

__all__ = [
    "FAR",
    "LZMA_FILTERS",
    "MAGIC",
    "MAX_START",
    "SUFFIX",
    "Header",
    "PackedError",
    "Segment",
    "expand",
    "expand_graph",
    "numbers",
    "read_header",
]

SUFFIX = ".packed"
MAGIC = b"BUDPACK\x01"
MAX_HEADER_BYTES = 4 << 20
MAX_START = len(MAGIC) + 4 + MAX_HEADER_BYTES
"""No header goes beyond this byte."""
MAX_EXPANDED_BYTES = (1 << 31) - 1
"""What a protobuf message may have at most, so no ONNX file is longer."""
MAX_RATIO = 256
"""Nothing expands by more than this; a model of nothing but zeros would, and has no use."""
FREE_BYTES = 1 << 20
"""Files up to this size may expand by any ratio."""
FAR = 255
"""A gap of this many places at which nothing is stored."""
BLOCK = 1 << 14
"""Gaps that are turned into places at once."""
LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
STREAMS = ("skeleton", "codes", "gaps", "exact")


class PackedError(ValueError):
    """What is wrong with a packed file, as the end of a sentence."""


@dataclass(frozen=True)
class Segment:
    """A run of numbers in the expanded file."""

    offset: int
    count: int
    """Numbers in the expanded file."""
    width: int
    """Bytes of each: 4 for float32, 1 for bytes."""
    stored: int
    """Numbers that are not zero, or all of them where no gaps are kept."""
    gaps: int
    """Bytes of gaps; 0 where every number is stored."""
    levels: int
    """Entries of the table of values; 0 where values are stored as they are."""

    @property
    def size(self) -> int:
        return self.count * self.width

    @property
    def codes(self) -> int:
        return self.stored if self.levels or self.width == 1 else 0

    @property
    def exact(self) -> int:
        return 4 * (self.levels or self.stored) if self.width == 4 else 0


@dataclass(frozen=True)
class Header:
    expanded: int
    """Bytes of the model file."""
    sha256: str
    """Of the model file."""
    streams: tuple[int, int, int, int]
    """Bytes of the coded streams, in the order of `STREAMS`."""
    segments: tuple[Segment, ...]
    start: int
    """Where the streams start."""

    def sizes(self) -> tuple[int, int, int, int]:
        """Bytes of the streams once decoded."""
        plain = self.expanded - sum(item.size for item in self.segments)
        codes, gaps, exact = (sum(getattr(item, name) for item in self.segments) for name in ("codes", "gaps", "exact"))
        return plain, codes, gaps, exact


def expand(content: bytes) -> bytes:
    """The model file that a packed file stands for.

    Memory beside the packed file: the result, its decoded streams (for 8 bits a quarter to a half of the result, never
    more than twice it), and the largest tensor twice.

    Raises:
        PackedError: it is damaged, cut off, or larger than a model may be.
    """
    header = read_header(content, len(content))
    decoded = []
    rest = memoryview(content)[header.start :]
    for name, packed, size in zip(STREAMS, header.streams, header.sizes(), strict=True):
        decoded.append(decode(name, rest[:packed], size))
        rest = rest[packed:]
    skeleton, codes, gaps, exact = (memoryview(stream) for stream in decoded)
    whole = BytesIO()
    written = 0
    for item in header.segments:
        literal = item.offset - written
        whole.write(skeleton[:literal])
        whole.write(numbers(item, codes[: item.codes], gaps[: item.gaps], exact[: item.exact]))
        skeleton, written = skeleton[literal:], item.offset + item.size
        codes, gaps, exact = codes[item.codes :], gaps[item.gaps :], exact[item.exact :]
    whole.write(skeleton)
    found = whole.getvalue()  # its own buffer, not a copy
    if hashlib.sha256(found).hexdigest() != header.sha256:
        raise PackedError("expands to something else than was packed")
    return found


def expand_graph(content: bytes) -> bytes:
    """As `expand`, for an ONNX graph.

    Raises:
        PackedError: as `expand`; or what comes out is no graph, refers to other files, or loads code.
    """
    graph = expand(content)
    if problem := scan_onnx(graph):
        raise PackedError(f"expands to something that {problem}")
    return graph


def read_header(content: bytes, size: int) -> Header:
    """The header of a packed file of `size` bytes that starts with `content`; sizes in it agree with each other.

    Raises:
        PackedError: it is damaged, cut off, or declares more than a model may have.
    """
    start = len(MAGIC) + 4
    if content[: len(MAGIC)] != MAGIC or len(content) < start:
        raise PackedError("is no packed model")
    length = int.from_bytes(content[len(MAGIC) : start], "little")
    if length > min(MAX_HEADER_BYTES, size - start):
        raise PackedError("is damaged: its header is cut off or too long")
    try:
        fields = json.loads(content[start : start + length])
        if fields.keys() != {"expanded", "sha256", "streams", "segments"}:
            raise ValueError("unknown fields")
        segments = tuple(Segment(*whole_numbers(item, 6)) for item in fields["segments"])
        expanded, *streams = whole_numbers([fields["expanded"], *fields["streams"]], 5)
        header = Header(expanded, str(fields["sha256"]), tuple(streams), segments, start + length)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PackedError(f"is damaged: its header is not valid ({str(error)[:80]})") from error
    check_sizes(header, size)
    return header


def whole_numbers(values: Any, count: int) -> list[int]:
    if type(values) is not list or len(values) != count or any(type(item) is not int or item < 0 for item in values):
        raise ValueError(f"not {count} whole numbers")
    return values


def check_sizes(header: Header, size: int) -> None:
    if header.expanded > MAX_EXPANDED_BYTES:
        raise PackedError(f"would expand to {header.expanded >> 20} MiB, more than a model may have")
    if header.expanded > max(FREE_BYTES, MAX_RATIO * size):
        raise PackedError(f"would expand to {header.expanded // size} times its size, more than {MAX_RATIO}")
    if header.start + sum(header.streams) != size:
        raise PackedError(f"is damaged: it has {size} bytes, its header says {header.start + sum(header.streams)}")
    end = 0
    for item in header.segments:
        fits = item.offset >= end and item.width in (1, 4) and item.stored <= item.count
        fits = fits and item.levels <= min(256, item.stored)
        sparse = 0 < item.gaps <= item.stored + item.count // FAR if item.gaps else item.stored in (0, item.count)
        end = item.offset + item.size
        if not fits or not sparse or end > header.expanded or (item.width == 1 and item.levels):
            raise PackedError("is damaged: its parts overlap or do not fit")


def decode(name: str, packed: memoryview, size: int) -> bytes:
    """One stream. It is never decoded further than to the size that it must have."""
    try:
        if name == "skeleton":
            restore = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS)
            found, ended, rest = restore.decompress(packed, size + 1), restore.eof, restore.unused_data
        else:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            found = inflate.decompress(packed, size + 1)
            ended, rest = inflate.eof, inflate.unused_data + inflate.unconsumed_tail
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise PackedError(f"is damaged: its {name} cannot be decoded ({error})") from error
    if len(found) != size or not ended or rest:
        raise PackedError(f"is damaged: its {name} do not have the size that its header says")
    return found


def numbers(item: Segment, codes: memoryview, gaps: memoryview, exact: memoryview) -> memoryview:
    """The bytes of a segment."""
    if item.width == 1:
        values: NDArray[Any] = np.frombuffer(codes, np.uint8)
    elif item.levels:
        chosen = np.frombuffer(codes, np.uint8)
        if item.stored and int(chosen.max()) >= item.levels:
            raise PackedError("is damaged: it names a value that its table does not have")
        values = np.frombuffer(exact, "<f4")[chosen]
    else:  # byte by byte: all first bytes, all second ones, …
        values = np.frombuffer(exact, np.uint8).reshape(4, item.stored).T.copy().view("<f4")[:, 0]
    if item.stored != item.count:
        values = spread(item, values, np.frombuffer(gaps, np.uint8))
    return values.view(np.uint8).data


def spread(item: Segment, values: NDArray[Any], gaps: NDArray[np.uint8]) -> NDArray[Any]:
    """The stored numbers at their places, zeros at all others: a gap is how many zeros come before the next number, or
    `FAR` zeros and no number. Block by block, since places need more room than numbers do."""
    full = np.zeros(item.count, values.dtype)
    used, last = 0, -1
    for start in range(0, len(gaps), BLOCK):
        block = gaps[start : start + BLOCK]
        near = block != FAR
        ends = last + np.cumsum(block + near, dtype=np.int64)
        places = ends[near]
        used, last = used + len(places), int(ends[-1])
        if used > item.stored or (len(places) and int(places[-1]) >= item.count):
            break
        full[places] = values[used - len(places) : used]
    else:
        if used == item.stored:
            return full
    raise PackedError("is damaged: a number lies outside its tensor")
