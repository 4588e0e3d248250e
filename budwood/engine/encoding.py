"""Bytes to text without guessing wrong: Unicode first, Western Windows text only where it reads as such."""

import codecs
import re

from budwood.core.errors import DataError
from budwood.engine.table import note

__all__ = ["decode"]

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, the longer before those that begin alike."""

MULTIBYTE = re.compile(rb"[\xc3-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
FOREIGN = re.compile(r"[^\W\d_a-zA-Z]{4,}")
"""Four letters in a row with none of a to z: Cyrillic or Chinese bytes read as Western ones, not French or German."""
SYMBOL_IN_WORD = re.compile(r"[^\W\d_][¡¿¹²³¼½¾¯ªº¤¦¨¬±¶¸×÷][^\W\d_]")


def decode(content: bytes, name: str) -> tuple[str, str]:
    """The text of a file and a note on its encoding.

    Raises:
        DataError: a byte cannot be decoded, or is NUL; `where` names its offset, counted from 0.
    """
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return strict(content, encoding, name), note("encoding", encoding, "the file starts with a byte order mark")
    if (position := content.find(b"\0")) >= 0:
        raise DataError(
            "the file holds a NUL byte, so it is not text, or it is UTF-16 without a byte order mark",
            where=f"{name}: byte {position}",
            fix=f"save it as UTF-8, for example: iconv -f UTF-16LE -t UTF-8 {name} > new-{name}",
        )
    try:
        return content.decode(), note("encoding", "utf-8", "every byte decodes")
    except UnicodeDecodeError as error:
        if MULTIBYTE.search(content) is None and (text := western(content)) is not None:
            return text, note("encoding", "cp1252", f"byte {error.start} is not UTF-8, and all of it reads as Western")
        raise undecodable(error, "UTF-8", name) from error


def strict(content: bytes, encoding: str, name: str) -> str:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise undecodable(error, encoding, name) from error
    if (position := text.find("\0")) >= 0:
        raise DataError("the file holds a NUL character", where=f"{name}: character {position}", fix="remove it")
    return text


def western(content: bytes) -> str | None:
    """The text read as Windows-1252, or None when that would be mojibake."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return None if FOREIGN.search(text) or SYMBOL_IN_WORD.search(text) else text


def undecodable(error: UnicodeDecodeError, encoding: str, name: str) -> DataError:
    return DataError(
        f"byte 0x{error.object[error.start]:02x} is not {encoding}",
        where=f"{name}: byte {error.start}",
        fix=f"save it as UTF-8, for example: iconv -f ENCODING -t UTF-8 {name} > new-{name}",
    )
