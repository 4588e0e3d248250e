"""Checks by content for each type of file that a bundle may hold: JSON, safetensors, ONNX, text, SVG, PNG.

Nothing here needs the library that will load the file, and nothing large is read whole.
"""

import json
import mmap
import os
import pickletools
import re
import stat
import struct
from collections.abc import Callable
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from budwood.core.errors import BundleError
from budwood.core.packed import MAX_START, PackedError, read_header
from budwood.core.packed import SUFFIX as PACKED
from budwood.core.wire import scan_onnx

__all__ = ["CHECKS", "deeper_than", "load_json", "open_regular", "read_capped", "refuse"]

MAX_TEXT_BYTES = 64 << 20
MAX_HEADER_BYTES = 100 << 20
MAX_JSON_DEPTH = 64
MAX_PICKLE_BYTES = 4 << 20
"""Longer texts are not searched for a pickle: nothing here would load one anyway."""

MAGIC: dict[bytes, str] = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"PK\x07\x08": "a zip archive",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"(\xb5/\xfd": "a zstd archive",
    b"7z\xbc\xaf'\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"#!": "a script",
    b"\x93NUMPY": "a numpy file",
    b"GGUF": "a GGUF file",
}
PICKLE_START = re.compile(rb"\x80[\x01-\x0a]")
PYC_START = re.compile(rb"[\s\S]{2}\r\n")
PICKLE_CALLS = frozenset({"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1"})

RUNS_CODE = frozenset({"auto_map", "auto_mapping", "custom_pipeline", "custom_pipelines", "trust_remote_code"})
"""Keys by which a configuration asks its loader to import code."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Files whose keys are tokens, so any word may be one."""
SENTENCE_MODULES = frozenset(
    f"sentence_transformers.models.{name}"
    for name in ("Transformer", "Pooling", "Normalize", "Dense", "Dropout", "LayerNorm")
)

BITS = {"F4": 4} | dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8)
BITS |= dict.fromkeys(("I16", "U16", "F16", "BF16"), 16) | dict.fromkeys(("I32", "U32", "F32"), 32)
BITS |= dict.fromkeys(("I64", "U64", "F64", "C64"), 64)
"""Bits of one element of each safetensors type."""

SVG_TAGS = frozenset(
    [
        *("svg", "g", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "title"),
        *(
            "desc",
            "metadata",
            "defs",
            "style",
            "symbol",
            "use",
            "linearGradient",
            "radialGradient",
            "stop",
            "clipPath",
            "mask",
        ),
    ]
)
SVG_SPACE = "http://www.w3.org/2000/svg"
NOTES = (
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "http://purl.org/dc/elements/1.1/",
    "http://creativecommons.org/ns#",
)
"""Namespaces of the notes on origin that plotting libraries write; nothing acts on them."""
SVG_DOCTYPE = re.compile(
    r'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1\.1//EN"\s+"http://www\.w3\.org/Graphics/SVG/1\.1/DTD/svg11\.dtd">'
)
DISTRUST = "do not use this model; take it from a source that you trust"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def refuse(where: str | Path, cause: str, fix: str = DISTRUST) -> BundleError:
    """The error for an unsafe file. The caller raises it."""
    return BundleError(cause, where=str(where), fix=fix)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. Neither a link nor a pipe that was put there in the meantime is opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refuse(path, f"{path.name} cannot be opened: {error.strerror}", "check the file's permissions") from error
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise refuse(path, f"{path.name} is not a regular file", "remove it")
    return file


def read_capped(path: Path, name: str, limit: int = MAX_TEXT_BYTES) -> bytes:
    """The bytes of a small file. Raises BundleError when it is larger than `limit` or is something in disguise."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise refuse(path, f"{name} is larger than {limit >> 20} MiB", "a file of this type is small in a real model")
    refuse_disguise(path, name, content)
    return content


def refuse_disguise(path: Path, name: str, content: bytes) -> None:
    kind = next((kind for magic, kind in MAGIC.items() if content.startswith(magic)), None)
    if PICKLE_START.match(content):
        kind = "a Python pickle"
    elif PYC_START.match(content) and not content[:2].isascii():
        kind = "compiled Python code"
    elif content[257:262] == b"ustar":
        kind = "a tar archive"
    if kind:
        raise refuse(path, f"{name} is {kind}, not what its suffix says")


def check_text(path: Path, name: str) -> None:
    content = read_capped(path, name)
    decode(path, name, content)
    if text_pickle(content):
        raise refuse(path, f"{name} is a Python pickle, not what its suffix says")


def decode(path: Path, name: str, content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise refuse(path, f"{name} is not UTF-8 text (byte {error.start})") from error
    if "\0" in text:
        raise refuse(path, f"{name} has a NUL character, so it is not text")
    return text


def text_pickle(content: bytes) -> bool:
    """Whether a text is a pickle of protocol 0, which has no magic number, that would call something."""
    if len(content) > MAX_PICKLE_BYTES or not content.rstrip().endswith(b"."):
        return False
    try:
        return any(opcode.name in PICKLE_CALLS for opcode, _, _ in [*pickletools.genops(content)])
    except (ValueError, LookupError, TypeError, ArithmeticError, EOFError, struct.error):
        return False  # it is not a pickle


def check_json(path: Path, name: str) -> None:
    content = load_json(path, name)
    if name.rsplit("/", 1)[-1] == "modules.json":
        check_modules(path, name, content)


def load_json(path: Path, name: str) -> Any:
    """Parse a JSON file.

    Raises:
        BundleError: not JSON, a key twice, NaN, nested too deeply, or a key that makes a loader run code.
    """
    text = decode(path, name, read_capped(path, name))
    vocabulary = name.rsplit("/", 1)[-1] in VOCABULARIES

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = unique(pairs)
        for key in RUNS_CODE & found.keys():
            if found[key] is not None and not (vocabulary and type(found[key]) is int):
                raise refuse(path, f"{name} asks its loader to run code (key {key!r})", f"remove the key {key!r}")
        for key, value in found.items():
            if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
                raise refuse(path, f"{name} asks to download a kernel (key {key!r})", f"remove {key!r}")
        return found

    try:
        content = json.loads(text, object_pairs_hook=fields, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise refuse(path, f"{name} is not valid JSON: {detail}") from error
    if deeper_than(content, MAX_JSON_DEPTH):
        raise refuse(path, f"{name} is not valid JSON: nested too deeply")
    return content


def refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def deeper_than(content: Any, limit: int) -> bool:
    level = [content]
    for _ in range(limit):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)


def check_modules(path: Path, name: str, content: Any) -> None:
    """`modules.json` makes sentence-transformers import classes by name, so only its own are allowed."""
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise refuse(path, f"{name} is not a list of modules")
    for item in content:
        if str(item.get("type")) not in SENTENCE_MODULES:
            raise refuse(path, f"{name} names a class that is not allowed: {str(item.get('type'))[:80]!r}")
        if not re.fullmatch(r"[A-Za-z0-9_-]*", str(item.get("path", ""))):
            raise refuse(path, f"{name} leads out of the folder: {str(item['path'])[:80]!r}")


def check_safetensors(path: Path, name: str) -> None:
    """The layout of the safetensors format: 8 bytes length, a JSON header, then the tensors without gaps."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        if start[8:] != b"{":
            refuse_disguise(path, name, start + file.read(256))
            raise refuse(path, f"{name} is not a safetensors file")
        (length,) = struct.unpack("<Q", start[:8])
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise refuse(path, f"{name} is damaged: its header would have {length} bytes, the file has {size}")
        header = b"{" + file.read(length - 1)
    try:
        tensors = json.loads(header, object_pairs_hook=unique, parse_constant=refuse_constant)
        end = layout_end(tensors)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refuse(path, f"{name} is damaged: its header is not valid ({str(error)[:120]})") from error
    if end != size - 8 - length:
        raise refuse(path, f"{name} is damaged: it has {size - 8 - length} bytes of tensors, its header says {end}")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def layout_end(tensors: dict[str, Any]) -> int:
    """Where the last tensor ends. Raises ValueError where sizes and offsets do not agree, or leave a gap."""
    metadata = tensors.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata must be text")
    position = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1]["data_offsets"], item[0])):
        shape = tensor["shape"]
        begin, end = tensor["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
            raise ValueError(f"{key[:80]!r} has an impossible shape")
        if begin != position or (end - begin) * 8 != prod(shape) * BITS[tensor["dtype"]]:
            raise ValueError(f"{key[:80]!r} is not where its neighbours end, or not of its shape's size")
        position = end
    return position


def check_onnx(path: Path, name: str) -> None:
    """A protobuf ModelProto that refers to no other file."""
    with open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise refuse(path, f"{name} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            refuse_disguise(path, name, content[:262])
            problem = scan_onnx(content)
    if problem:
        raise refuse(path, f"{name} {problem}")


def check_packed(path: Path, name: str) -> None:
    """A packed graph, or packed weights, whose header agrees with its size. What it expands to is checked when it is
    loaded; so it may only stand for a file of which that check is known."""
    if not (name.endswith(".onnx" + PACKED) or name == "model.safetensors" + PACKED):
        raise refuse(path, f"{name} is packed, which only a graph (.onnx) and model.safetensors may be")
    with open_regular(path) as file:
        try:
            read_header(file.read(MAX_START), os.fstat(file.fileno()).st_size)
        except PackedError as error:
            raise refuse(path, f"{name} {error}") from error


def check_svg(path: Path, name: str) -> None:
    """A drawing without scripts, foreign objects, entities, or references to anything outside the file."""
    text = decode(path, name, read_capped(path, name))
    text = SVG_DOCTYPE.sub("", text, count=1)
    if re.search(r"<!(DOCTYPE|ENTITY)|<\?(?!xml\s)", text, re.IGNORECASE):
        raise refuse(path, f"{name} has a document type, an entity or an instruction")
    if re.search(r"""<\?xml[^>]*encoding\s*=\s*["'](?!utf-8)""", text, re.IGNORECASE):
        raise refuse(path, f"{name} is not declared as UTF-8")
    try:
        # No document type is left, so there are no entities to expand.
        parser = ElementTree.XMLParser(target=Drawing(path, name))  # noqa: S314
        parser.feed(text)
        parser.close()
    except ElementTree.ParseError as error:
        raise refuse(path, f"{name} is not valid SVG: {error}") from error


class Drawing:
    """An XML parser target that keeps nothing and refuses what could act."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        space, _, local = tag.removeprefix("{").rpartition("}")
        self.depth += 1
        known = local in SVG_TAGS and space in ("", SVG_SPACE) if space not in NOTES else self.depth > 1
        if not known or (self.depth == 1) != (local == "svg"):
            raise refuse(self.path, f"{self.name} has an element that a plot does not need: {local[:40]!r}")
        for key, value in attributes.items():
            name = key.rpartition("}")[2].lower()
            if name.startswith("on") or (name in ("href", "src") and not value.startswith("#")):
                raise refuse(self.path, f"{self.name} has an attribute that acts or leads outside: {name[:40]!r}")
            self.data(value)

    def end(self, tag: str) -> None:
        self.depth -= 1

    def data(self, text: str) -> None:
        plain = re.sub(r"\s|/\*.*?\*/", "", text).lower()
        if re.search(r"url\((?!['\"]?#)|@import|javascript:|image-set\(|\\[0-9a-f]", plain):
            raise refuse(self.path, f"{self.name} refers to something outside the file")

    def close(self) -> None:
        return None


def check_png(path: Path, name: str) -> None:
    """The signature, then whole chunks up to the end mark, then nothing."""
    content = read_capped(path, name)
    if not content.startswith(PNG_SIGNATURE + b"\0\0\0\rIHDR"):
        raise refuse(path, f"{name} is not a PNG image")
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        position += 12 + length
        if kind == b"IEND":
            break
    if kind != b"IEND" or position != len(content):
        raise refuse(path, f"{name} is damaged: it does not end where a PNG image ends")


CHECKS: dict[str, Callable[[Path, str], None]] = {
    ".json": check_json,
    ".safetensors": check_safetensors,
    ".onnx": check_onnx,
    PACKED: check_packed,
    ".md": check_text,
    ".txt": check_text,
    ".svg": check_svg,
    ".png": check_png,
}
