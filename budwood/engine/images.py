"""Images as they come from files and requests: identified by content, limited, upright, in RGB.

    image = open_image(Path("photo.jpg"))

The serving half: Pillow and numpy only.
"""

import base64
import os
import re
import stat
import struct
import threading
import zlib
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from budwood.core.errors import DataError

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Facts",
    "Source",
    "from_base64",
    "inspect_image",
    "open_image",
    "open_upright",
    "plain_png",
    "read_source",
    "stored_and_turn",
]

Source = bytes | str | Path
"""The bytes of an image file, the path of one, or a `data:` URI with base64."""

MAX_BYTES = 32 << 20
MAX_PIXELS = 1 << 26
"""67 megapixels, more than phones take: 200 MB in memory. A small file can promise far more (a decompression bomb)."""
LARGE_PIXELS = 1 << 22
ONE_LARGE = threading.Lock()
"""Images above so many pixels are decoded one at a time: a few kilobytes can ask for half a gigabyte each."""
MAX_ASPECT = 100
"""Longer side by shorter side; resizing by the shorter side would blow a thin strip up to gigabytes."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""What image files are called; the content decides how they are read."""

READERS: tuple[tuple[re.Pattern[bytes], str, type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG", JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", PngImageFile),
    (re.compile(rb"RIFF[\s\S]{4}WEBP"), "WEBP", WebPImageFile),
    (re.compile(rb"BM"), "BMP", BmpImageFile),
    (re.compile(rb"GIF8[79]a"), "GIF", GifImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF", TiffImageFile),
)
"""By the first bytes. Pillow knows forty more formats, some with a long history of holes; they are not tried."""

BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(AttributeError, NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's readers raise on damaged files."""

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to undo each EXIF orientation."""
ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


class Facts(NamedTuple):
    """What the header of an image says."""

    format: str
    width: int
    height: int


def inspect_image(source: Source) -> Facts:
    """Read the header only.

    Raises:
        DataError: as `open_image`, except for what shows only when the pixels are decoded.
    """
    image, format_name = identify(read_source(source), label(source))
    return Facts(format_name, *image.size)


def open_image(source: Source, at_least: int = 0) -> Image.Image:
    """Decode an image: the first frame, turned upright by its EXIF orientation, in RGB (on white where transparent).

    Args:
        at_least: above 0, a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides
            keep this many pixels; that saves most of the time on large photos.

    Raises:
        DataError: the bytes are not a JPEG, PNG, WebP, BMP, GIF or TIFF image, are damaged or end early, or the image
            is too large; `where` is the path, or `image`.
    """
    return open_upright(source, at_least)[0]


class Upright(NamedTuple):
    """An image as it is meant to be seen, and the width and height that it has when it is decoded in full."""

    image: Image.Image
    width: int
    height: int


def open_upright(source: Source, at_least: int = 0) -> Upright:
    """As `open_image`, with the size of the whole image: what boxes are measured in."""
    image, format_name = identify(read_source(source), label(source))
    size = image.size
    try:
        if at_least and format_name == "JPEG":
            image.draft("RGB", (at_least, at_least))
        large = image.width * image.height > LARGE_PIXELS
        with ONE_LARGE if large else nullcontext():
            image.load()
            lies = orientation_of(image) in ON_ITS_SIDE  # not told by sides: a draft of a nearly square image is square
            turned = to_rgb(upright(image))
        return Upright(turned, *(size[::-1] if lies else size))
    except DataError as error:
        raise DataError(error.cause, where=label(source), fix=error.fix) from error
    except BROKEN as error:
        raise DataError(
            f"the image is damaged: {describe(error)}", where=label(source), fix="save or download it again"
        ) from error


def read_source(source: Source) -> bytes:
    """The bytes of an image file. Raises DataError when there is no such file, or it is empty or too large."""
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, str) and source.startswith("data:"):
        content = from_base64(source)
    else:
        content = read_file(Path(source))
    if not content:
        raise DataError("the image file is empty", where=label(source), fix="save or download it again")
    if len(content) > MAX_BYTES:
        raise too_many_bytes(label(source))
    return content


def read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError("it is not a regular file", where=str(path), fix="name an image file")
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"the image cannot be read: {error.strerror}", where=str(path), fix="check the path") from error


def from_base64(text: str) -> bytes:
    """The bytes of base64, with or without a `data:` URI around it; white space in it does not matter.

    Raises:
        DataError: it is not base64, or too long.
    """
    head, _, body = text.rpartition(",")
    if head and not (head.startswith("data:") and head.endswith(";base64")):
        raise DataError("the image is not base64", where="image", fix="data:image/jpeg;base64,…")
    if len(body) > 2 * MAX_BYTES:
        raise too_many_bytes("image")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise DataError(
            "the image is not valid base64", where="image", fix="send the file itself, not its name or address"
        ) from error


def identify(content: bytes, where: str) -> tuple[ImageFile, str]:
    """The opened but not yet decoded image, within the limits, and its format."""
    found = next(((name, reader) for start, name, reader in READERS if start.match(content)), None)
    if found is None:
        raise DataError(
            "this is not an image of a format that is read", where=where, fix="save it as JPEG, PNG, WebP or TIFF"
        )
    format_name, reader = found
    try:
        image = reader(BytesIO(content))
    except BROKEN as error:
        raise DataError(
            f"the {format_name} header is damaged: {describe(error)}", where=where, fix="save or download it again"
        ) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the image has {width:,} × {height:,} pixels, at most {MAX_PIXELS:,} are read",
            where=where,
            fix="make it smaller: models look at a few hundred pixels",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(
            f"the image is a strip of {width:,} × {height:,} pixels",
            where=where,
            fix="cut it into pieces that show something",
        )
    return image, format_name


def upright(image: Image.Image) -> Image.Image:
    """The image as it was meant to be seen."""
    how = UPRIGHT.get(orientation_of(image))
    return image if how is None else image.transpose(how)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation. Damaged EXIF says nothing, so the pixels stay as they are."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except BROKEN:
        return 1
    return found if found in UPRIGHT else 1


def stored_and_turn(source: Source) -> tuple[int, int, int]:
    """Width and height of an image as it is stored, and its EXIF orientation (1 where it is upright); header only.

    Raises:
        DataError: as `inspect_image`.
    """
    image, _ = identify(read_source(source), label(source))
    return (*image.size, orientation_of(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel in RGB: 16-bit greys are scaled down, transparent parts are laid on white.

    Raises:
        DataError: the pixels are 32-bit numbers, whose black and white nobody states.
    """
    if image.mode in SIXTEEN_BIT:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError("the image has 32-bit pixels", fix="save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, (255, 255, 255))
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def plain_png(colour: tuple[int, int, int], size: int = 8) -> bytes:
    """A PNG of one colour, for examples and tests."""
    stream = BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, "PNG")
    return stream.getvalue()


def label(source: Source) -> str:
    """How errors name a source."""
    return "image" if isinstance(source, bytes) or str(source).startswith("data:") else str(source)


def describe(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def too_many_bytes(where: str) -> DataError:
    return DataError(f"the image file is larger than {MAX_BYTES >> 20} MiB", where=where, fix="save a smaller one")
