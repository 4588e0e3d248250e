"""Foreign text made harmless inside YAML and Markdown, and the few shapes that a model card needs of both."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["code", "fenced", "markdown_table", "text", "yaml"]

PLAIN = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")
"""Words that YAML reads as themselves, but for those below."""
RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
SPECIAL = re.compile(r"([\\`*_\[\]|~<>&$@]|:(?=/)|(?<=www)\.)", re.IGNORECASE)
"""What Markdown, or HTML within it, may take for more than itself, anywhere in a line."""
BLOCK = re.compile(r"[-+](?=\s|$)|[-=]+$|#")
NUMBERED = re.compile(r"^(\d{1,9})(?=[.)](?:\s|$))")
"""What starts a list, a heading or a rule."""
LONGEST = 300


def yaml(fields: Mapping[str, Any]) -> str:
    """A mapping of plain values, lists and mappings as YAML 1.2 block text, a line feed at the end of each line."""
    return "".join(f"{line}\n" for line in mapping_lines(fields))


def mapping_lines(fields: Mapping[str, Any]) -> Iterator[str]:
    for key, value in fields.items():
        if isinstance(value, Mapping | list | tuple) and value:
            yield f"{scalar(key)}:"
            yield from (f"  {line}" for line in nested_lines(value))
        else:
            yield f"{scalar(key)}: {empty_or_scalar(value)}"


def nested_lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from mapping_lines(value)
        return
    for item in value:
        if isinstance(item, Mapping) and item:
            lines = mapping_lines(item)
            yield f"- {next(lines)}"
            yield from (f"  {line}" for line in lines)
        else:
            yield f"- {empty_or_scalar(item)}"


def empty_or_scalar(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    return "[]" if isinstance(value, list | tuple) else scalar(value)


def scalar(value: Any) -> str:
    """One value on one line. Texts that are no simple word are quoted, and what a reader may trip over is escaped."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return format(value, ".10f").rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    word = str(value)
    if PLAIN.fullmatch(word) and word not in RESERVED:
        return word
    return '"' + "".join(quoted(char) for char in word) + '"'


def quoted(char: str) -> str:
    if char in '\\"':
        return "\\" + char
    if char.isprintable():
        return char
    number = ord(char)
    if 0xD800 <= number <= 0xDFFF:  # half of a pair is no character, and no escape may name it
        return "\\uFFFD"
    return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"


def text(value: str) -> str:
    """Foreign text on one line of Markdown, shown as it is: no HTML, no link, no picture, no table or heading."""
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(value.split()))
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    line = SPECIAL.sub(r"\\\1", line)
    line = NUMBERED.sub(r"\1\\", line)
    return f"\\{line}" if BLOCK.match(line) else line


def code(value: str) -> str:
    """Foreign text as a code span, also within a table."""
    line = "".join(char if char.isprintable() else "?" for char in value).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def fenced(program: str, language: str) -> list[str]:
    return [f"```{language}", *program.rstrip("\n").split("\n"), "```"]


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of cells that are Markdown already."""
    lines = [headers, ["---"] * len(headers), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
