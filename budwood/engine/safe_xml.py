"""XML of strangers: decoded by what it declares, and refused where it defines entities, which can grow without end."""

import re
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

__all__ = ["parse_xml"]

DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z][\w.-]*)["']""")
BYTE_ORDERS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))


def parse_xml(file: Path, max_bytes: int) -> Element:
    """The tree of a file. Raises ValueError where it is too large, no XML, or defines entities of its own."""
    try:
        if file.stat().st_size > max_bytes:
            raise ValueError("it is larger than any annotation")
        text = decoded(file.read_bytes())
        builder = TreeBuilder()
        parser = expat.ParserCreate("utf-8")  # it knows few encodings, so the text was decoded before
        parser.StartElementHandler = lambda name, attributes: builder.start(name, attributes)
        parser.EndElementHandler = lambda name: builder.end(name)
        parser.CharacterDataHandler = lambda data: builder.data(data)
        parser.EntityDeclHandler = refuse_entity
        parser.Parse(text.encode(), True)
        tree: Element = builder.close()
    except (expat.ExpatError, LookupError, UnicodeError, OSError, AssertionError) as error:
        raise ValueError(f"it is not XML: {error}") from error
    return tree


def decoded(content: bytes) -> str:
    """The text of a file by its byte order mark, its declaration, or else as UTF-8."""
    for mark, name in BYTE_ORDERS:
        if content.startswith(mark):
            return content.decode(name)
    found = DECLARED.match(content.removeprefix(b"\xef\xbb\xbf")[:200])
    return content.decode("utf-8-sig" if found is None or content[:3] == b"\xef\xbb\xbf" else found[1].decode())


def refuse_entity(*declaration: object) -> NoReturn:
    raise ValueError("it defines entities")
