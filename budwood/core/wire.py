"""A walk over the protobuf wire format of an ONNX model that finds references to other files.

Written here because serving installs have no `onnx` package, and because that package follows what it parses.
Field numbers are those of onnx.proto3; lengths are skipped, so weights are not read.
"""

from mmap import mmap

__all__ = ["scan_onnx"]

MAX_DEPTH = 100
"""Protobuf's own limit for nested messages."""

NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message to its fields that can hold a tensor, however deep."""
EXTERNAL_DATA = 13
DATA_LOCATION = 14
OP_TYPE = 4
FOREIGN_OPS = (b"EPContext", b"PythonOp", b"PyOp")
"""Operators that load a compiled blob from a file, or call Python."""


class WireError(ValueError):
    pass


def scan_onnx(content: bytes | mmap) -> str:
    """What is wrong with a serialized ModelProto, as the end of a sentence; empty when nothing is."""
    try:
        return scan(content)
    except WireError as error:
        return f"is not a valid ONNX file: {error}"


def scan(content: bytes | mmap) -> str:
    pending = [("model", 0, len(content), 0)]
    seen: set[int] = set()
    while pending:
        message, position, end, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise WireError("messages are nested too deeply")
        nested = NESTED[message]
        while position < end:
            field, kind, position = tag(content, position, end)
            start, stop, value = payload(content, kind, position, end)
            position = stop
            if message == "model":
                seen.add(field)
            if field in nested:
                if kind != 2:
                    raise WireError(f"field {field} of a {message} has the wrong type")
                pending.append((nested[field], start, stop, depth + 1))
            elif message == "tensor" and (field == EXTERNAL_DATA or (field == DATA_LOCATION and (kind or value))):
                return "keeps weights in another file; export it again as one file"
            elif message == "node" and field == OP_TYPE and content[start:stop] in FOREIGN_OPS:
                return f"uses the operator {content[start:stop].decode()}, which loads code"
    if not {1, 7} <= seen:
        raise WireError("it has no version or no graph")
    return ""


def tag(content: bytes | mmap, position: int, end: int) -> tuple[int, int, int]:
    """Field number, wire type, and where the field's payload starts."""
    value, after = varint(content, position, end)
    if after - position > 5 or not 0 < value >> 3 < 1 << 29:
        raise WireError(f"byte {position} starts no field")
    return value >> 3, value & 7, after


def payload(content: bytes | mmap, kind: int, position: int, end: int) -> tuple[int, int, int]:
    """Where a payload starts and stops; for a varint also its value."""
    value = 0
    start = position
    if kind == 0:
        value, stop = varint(content, position, end)
    elif kind == 1:
        stop = position + 8
    elif kind == 2:
        length, start = varint(content, position, end)
        stop = start + length
    elif kind == 5:
        stop = position + 4
    else:
        raise WireError(f"wire type {kind} at byte {position}")
    if stop > end:
        raise WireError(f"it is cut off: {stop - end} bytes are missing at byte {position}")
    return start, stop, value


def varint(content: bytes | mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise WireError(f"it is cut off at byte {position}")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError(f"a number at byte {position} is too long")
