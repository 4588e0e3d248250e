"""A file in a request body: the bytes as they are (`content-type: image/png`), or as one part of a form."""

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from budwood.serving.errors import HttpError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["is_file", "read_file"]

FORM = b"multipart/form-data"
MAX_PARTS = 8
"""The parser itself limits the headers of a part, to 8 and 4 KiB."""


def is_file(content_type: bytes) -> bool:
    """Whether a request of this type carries a file: a form, or an image as it is."""
    kind, _ = parse_options_header(content_type)
    return kind == FORM or kind.startswith(b"image/")


def read_file(content_type: bytes, body: bytes, field: str) -> bytes:
    """The bytes of the file.

    Args:
        content_type: of the request.
        field: the name that the part must have in a form, or `file`.

    Raises:
        HttpError: 400 when the form is malformed, 422 when it does not hold exactly one such part.
    """
    kind, options = parse_options_header(content_type)
    if kind != FORM:
        return body
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise HttpError(400, "the form has no boundary of 1 to 70 characters")
    form = Form()
    parser = MultipartParser(boundary, form.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise HttpError(400, f"the form is malformed: {error}") from error
    found = [content for name, content in form.parts if name in (field, "file")]
    others = [name for name, _ in form.parts if name not in (field, "file")]
    if others:
        raise HttpError(422, f"unknown field {others[0][:50]!r} in the form; send one part named {field}", field=field)
    if len(found) != 1 or not form.ended:
        problem = "is cut off" if not form.ended else f"holds {len(found)} files"
        raise HttpError(422, f"the form {problem}; send one part named {field}", field=field)
    return found[0]


class Form:
    """What the parser has read so far: the name and the bytes of each part."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self.ended = False
        self.name = b""
        self.value = b""
        self.headers: dict[bytes, bytes] = {}
        self.content: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise HttpError(422, f"the form has more than {MAX_PARTS} parts")
        self.headers, self.content = {}, []

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.content.append(data[start:end])

    def part_end(self) -> None:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        self.parts.append((options.get(b"name", b"").decode("utf-8", "replace"), b"".join(self.content)))

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        self.headers[self.name.lower()] = self.value
        self.name = self.value = b""

    def end(self) -> None:
        self.ended = True
