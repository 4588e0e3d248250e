"""Text that is safe to print: colours only where they are wanted, and no control characters from foreign data."""

import os
import unicodedata
from typing import TextIO

__all__ = ["clear_line", "coloured", "paint", "printable"]

BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They reorder what a terminal shows, and can so make a line read as another one."""


def coloured(stream: TextIO) -> bool:
    """Whether the stream is a terminal that wants colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    """The text in an ANSI style, such as "1;31" for bold red, where the stream shows it."""
    return f"\x1b[{style}m{text}\x1b[0m" if coloured(stream) else text


def clear_line(stream: TextIO) -> None:
    """Take away what only a waiting terminal shows."""
    if stream.isatty():
        stream.write("\r\x1b[2K")
        stream.flush()


def printable(text: str) -> str:
    """The text with control characters escaped, so that no data can move the cursor or change the terminal."""
    if text.isprintable():
        return text
    return "".join(character if safe(character) else escaped(character) for character in text)


def safe(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and character not in BIDIRECTIONAL


def escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
