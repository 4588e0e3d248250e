"""Writing packed models: Deep Compression (Han et al. 2015, arXiv:1510.00149) of the large tensors of a model file.

Zeros are left out, what remains shares few values, and both are Huffman-coded. numpy and the standard library only.
On weights, deflate without matching came within 1.2 % of the entropy and was decoded ten times as fast as LZMA, which
came within 4 %; zstandard was no smaller, and faster only where a hundred milliseconds do not matter.
"""

import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import StepError, UsageError
from budwood.core.packed import FAR, LZMA_FILTERS, MAGIC, PackedError, Segment, expand, numbers
from budwood.core.wire import payload, tag

__all__ = ["EXACT", "Found", "Packed", "find_tensors", "find_weights", "pack"]

EXACT = 32
"""Bits that keep every float32 as it is."""
SMALLEST = 256
"""Tensors of fewer numbers stay as they are: a table of values would be as large."""
SPARSE = 0.3
"""From this share of zeros on, positions cost less than zeros do."""
FITTED = 1 << 20
"""Values that a table is fitted to; more hardly move it."""
ROUNDS = 100
KEEP = "keep the model as it is: leave shrink.pack out"
EXPORT = "write the graph again: put export.onnx before"
FLOAT, BYTES = 1, (2, 3)
"""Types of ONNX tensors: float32; uint8 and int8."""


@dataclass(frozen=True)
class Found:
    """A tensor inside a model file."""

    offset: int
    count: int
    width: int


@dataclass(frozen=True)
class Packed:
    content: bytes
    report: dict[str, Any]


def pack(content: bytes, tensors: list[Found], bits: int = 8, sharing: str = "k-means") -> Packed:
    """The packed form of a model file; `core.packed.expand` gives the file back.

    Below 32 bits the values of float32 tensors change: each becomes the nearest of 2^bits that its tensor has. Bytes
    and zeros keep their value always.

    Args:
        tensors: where the large tensors are, in order, as `find_tensors` or `find_weights` gives them.
        bits: 1 to 8, or 32 to change nothing.
        sharing: how the values are chosen: `k-means`, or `linear` for even steps between the smallest and the largest.

    Raises:
        UsageError: bits or sharing are none of these.
        StepError: a weight is not a finite number, or the file would expand by more than a reader accepts.
    """
    if bits != EXACT and not 1 <= bits <= 8:
        raise UsageError(f"values of {bits} bits", where="bits", fix=f"give 1 to 8, or {EXACT} to keep them")
    if sharing not in ("k-means", "linear"):
        raise UsageError(f"there is no sharing {sharing!r}", where="sharing", fix="give k-means or linear")
    segments: list[Segment] = []
    streams: dict[str, list[bytes]] = {"codes": [], "gaps": [], "exact": []}
    skeleton: list[bytes] = []
    stayed: list[bytes | memoryview] = []
    end = 0
    for found in tensors:
        raw = content[found.offset : found.offset + found.count * found.width]
        segment, parts = coded(found, raw, bits, sharing)
        for name, part in parts.items():
            streams[name].append(part)
        segments.append(segment)
        skeleton.append(content[end : found.offset])
        stayed += [skeleton[-1], decoded(segment, parts)]
        end = found.offset + len(raw)
    skeleton.append(content[end:])
    expanded = b"".join([*stayed, skeleton[-1]])
    file = assembled(expanded, segments, b"".join(skeleton), streams)
    try:
        if expand(file) != expanded:
            raise StepError("the packed model does not expand to what was packed", where="packing", fix=KEEP)
    except PackedError as error:
        raise StepError(f"the packed model {error}", where="packing", fix=KEEP) from error
    return Packed(file, facts(content, file, segments))


def facts(content: bytes, file: bytes, segments: list[Segment]) -> dict[str, Any]:
    weights = sum(item.count for item in segments)
    return {
        "bytes": len(file),
        "expanded_bytes": len(content),
        "ratio": len(content) / len(file),
        "tensors": len(segments),
        "weights": weights,
        "zeros": weights - sum(item.stored for item in segments),
    }


def assembled(expanded: bytes, segments: list[Segment], skeleton: bytes, streams: dict[str, list[bytes]]) -> bytes:
    packed = [lzma.compress(skeleton, lzma.FORMAT_RAW, filters=LZMA_FILTERS)]
    packed += [huffman(b"".join(streams[name])) for name in ("codes", "gaps", "exact")]
    header = {
        "expanded": len(expanded),
        "sha256": hashlib.sha256(expanded).hexdigest(),
        "streams": [len(stream) for stream in packed],
        "segments": [list(asdict(item).values()) for item in segments],
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([MAGIC, len(head).to_bytes(4, "little"), head, *packed])


def huffman(content: bytes) -> bytes:
    """Deflate with Huffman codes alone."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(content) + coder.flush()


def coded(found: Found, raw: bytes, bits: int, sharing: str) -> tuple[Segment, dict[str, bytes]]:
    """A tensor as gaps, codes and a table of values (or the values themselves)."""
    values: NDArray[Any] = np.frombuffer(raw, "<f4" if found.width == 4 else np.uint8)
    if found.width == 4 and not np.isfinite(values).all():
        raise StepError("a tensor holds weights that are not finite numbers", where="packing", fix="train again")
    exact = found.width == 4 and bits == EXACT
    places = np.flatnonzero(values.view("<u4") if exact else values)  # bit by bit, -0.0 is no zero
    gaps = b""
    if len(places) <= (1 - SPARSE) * len(values):
        values, gaps = values[places], gaps_of(places)
    parts = {"gaps": gaps}
    levels = 0
    if found.width == 1:
        parts["codes"] = values.tobytes()
    elif exact or len(values) == 0:
        parts["exact"] = values.view(np.uint8).reshape(-1, 4).T.tobytes()
    else:
        table = table_of(values, 1 << bits, sharing)
        parts["exact"], parts["codes"] = table.astype("<f4").tobytes(), nearest(table, values)
        levels = len(table)
    return Segment(found.offset, found.count, found.width, len(values), len(gaps), levels), parts


def gaps_of(places: NDArray[np.int64]) -> bytes:
    """How many zeros come before each place, one byte each; `FAR` stands for that many and goes on."""
    zeros = np.diff(places, prepend=-1) - 1
    far = zeros // FAR
    found = np.full(len(places) + int(far.sum()), FAR, np.uint8)
    found[np.arange(len(places)) + np.cumsum(far)] = zeros % FAR
    return found.tobytes()


def decoded(segment: Segment, parts: dict[str, bytes]) -> memoryview:
    codes, gaps, exact = (memoryview(parts.get(name, b"")) for name in ("codes", "gaps", "exact"))
    return numbers(segment, codes, gaps, exact)


def table_of(values: NDArray[np.float32], levels: int, sharing: str) -> NDArray[np.float32]:
    """At most so many values for a tensor, ascending, each of them used. k-means starts from even steps, which keeps
    the few large weights that matter most (section 3.2 of the paper)."""
    table = np.unique(np.linspace(float(values.min()), float(values.max()), levels).astype(np.float32))
    if sharing == "k-means" and len(table) > 1:
        known = np.sort(values)
        few: NDArray[np.float32] = known[np.concatenate([[True], known[1:] != known[:-1]])]
        if len(few) <= levels:
            return few
        if len(known) > FITTED:  # every n-th in their order, with both ends
            known = known[np.linspace(0, len(known) - 1, FITTED).astype(np.int64)]
        table = fitted(table, known, levels)
    return table[np.unique(np.frombuffer(nearest(table, values), np.uint8))]


def fitted(table: NDArray[np.float32], known: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    """k-means over ascending values. A level that nothing is near moves to where the squared error is largest."""
    shift = float(known.mean(dtype=np.float64))  # around the mean, differences of sums lose no digits
    shifted = known.astype(np.float64) - shift
    sums = np.concatenate([[0.0], np.cumsum(shifted)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(shifted))])
    for _ in range(ROUNDS):
        edges = np.unique(np.concatenate([[0], np.searchsorted(known, middles(table)), [len(known)]]))
        errors = np.diff(squares[edges]) - np.diff(sums[edges]) ** 2 / np.diff(edges)
        edges = split(edges, errors, known, levels)
        moved = (np.diff(sums[edges]) / np.diff(edges) + shift).astype(np.float32)
        if np.array_equal(moved, table):
            break
        table = np.unique(moved)
    return table


def split(
    edges: NDArray[np.int64], errors: NDArray[np.float64], known: NDArray[np.float32], levels: int
) -> NDArray[np.int64]:
    """Cut the intervals of the largest errors in two, each between its ends, until there are as many as levels."""
    worst = np.argsort(-errors, kind="stable")[: levels - len(errors)]
    first, last = known[edges[worst]], known[edges[worst + 1] - 1]
    return np.unique(np.concatenate([edges, np.searchsorted(known, (first + last) / 2, "right")[first < last]]))


def middles(table: NDArray[np.float32]) -> NDArray[np.float32]:
    return (table[1:] + table[:-1]) / np.float32(2)


def nearest(table: NDArray[np.float32], values: NDArray[np.float32]) -> bytes:
    """The number of the nearest value of the table, for each value."""
    return np.searchsorted(middles(table), values).astype(np.uint8).tobytes()


def find_tensors(content: bytes) -> list[Found]:
    """The large tensors of an ONNX file: float32 with two dimensions or more, and bytes of any shape.

    Raises:
        StepError: it is no ONNX file.
    """
    try:
        return [found for found in walk(content) if found.count >= SMALLEST]
    except ValueError as error:
        raise StepError(f"the graph cannot be read: {error}", where="packing", fix=EXPORT) from error


def find_weights(content: bytes) -> list[Found]:
    """The large tensors of a safetensors file: float32 with two dimensions or more, and bytes of any shape.

    Raises:
        StepError: it is no safetensors file.
    """
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        tensors = json.loads(content[8:start])
        tensors.pop("__metadata__", None)
        found = [
            Found(start + item["data_offsets"][0], prod(item["shape"]), 4 if item["dtype"] == "F32" else 1)
            for item in sorted(tensors.values(), key=lambda item: item["data_offsets"])
            if (item["dtype"] == "F32" and len(item["shape"]) > 1) or item["dtype"] in ("I8", "U8")
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StepError(f"the weights cannot be read: {str(error)[:100]}", where="packing", fix=KEEP) from error
    return [item for item in found if item.count >= SMALLEST]


NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
}
"""Message of onnx.proto3 to its fields that lead to a tensor."""
DIMS, DATA_TYPE, RAW_DATA = 1, 2, 9


def walk(content: bytes, message: str = "model", position: int = 0, end: int | None = None) -> Iterator[Found]:
    end = len(content) if end is None else end
    if message == "tensor":
        yield from tensor(content, position, end)
        return
    while position < end:
        field, kind, position = tag(content, position, end)
        start, stop, _ = payload(content, kind, position, end)
        if kind == 2 and field in NESTED[message]:
            yield from walk(content, NESTED[message][field], start, stop)
        position = stop


def tensor(content: bytes, position: int, end: int) -> Iterator[Found]:
    """The raw data of one TensorProto, where its type is one that is packed."""
    dims: list[int] = []
    data_type, raw = 0, (0, 0)
    while position < end:
        field, kind, position = tag(content, position, end)
        start, stop, value = payload(content, kind, position, end)
        if field == DIMS:
            dims += [value] if kind == 0 else list(packed_numbers(content, start, stop))
        elif field == DATA_TYPE:
            data_type = value
        elif field == RAW_DATA:
            raw = (start, stop)
        position = stop
    count = prod(dims)
    if data_type == FLOAT and len(dims) > 1 and raw[1] - raw[0] == 4 * count:
        yield Found(raw[0], count, 4)
    elif data_type in BYTES and raw[1] - raw[0] == count:
        yield Found(raw[0], count, 1)


def packed_numbers(content: bytes, position: int, end: int) -> Iterator[int]:
    while position < end:
        _, position, value = payload(content, 0, position, end)
        yield value
