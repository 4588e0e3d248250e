"""Opening images: formats, modes, orientation, limits and every kind of broken file."""

import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from PIL import Image, ImageOps

from budwood.core.errors import DataError
from budwood.engine import images
from budwood.engine.images import from_base64, inspect_image, open_image, open_upright

WARNS = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
"""Pillow warns of damaged tags while it opens a file."""
LOSSLESS = ("PNG", "BMP", "TIFF")


def bomb_png(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than the file has bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", [*LOSSLESS, "JPEG", "WEBP", "GIF"])
def test_each_format_is_read_by_its_content(format, tmp_path):
    picture = noise()
    path = tmp_path / "renamed.txt"
    path.write_bytes(encoded(picture, format))
    found = open_image(path)
    assert found.mode == "RGB"
    assert found.size == picture.size
    assert inspect_image(path) == (format, *picture.size)
    if format in LOSSLESS:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation):
    picture = noise(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(content)))
    found = open_image(content)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert open_image(encoded(found)).size == found.size


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    picture = noise().convert(mode)
    format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    found = open_image(encoded(picture, format))
    assert (found.mode, found.size) == ("RGB", picture.size)


def test_transparent_parts_are_white_in_rgba_and_in_palettes():
    picture = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    picture.putpixel((0, 0), (0, 0, 255, 255))
    found = open_image(encoded(picture))
    assert found.getpixel((1, 1)) == (255, 255, 255)
    assert found.getpixel((0, 0)) == (0, 0, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert open_image(encoded(palette, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_greys_keep_their_range(format):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = np.asarray(open_image(encoded(Image.fromarray(ramp), format)))
    np.testing.assert_array_equal(found[..., 0], (ramp >> 8).astype(np.uint8))


def test_the_first_frame_of_a_moving_gif_is_read():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(content).getpixel((3, 3)) == (255, 0, 0)


def test_a_floating_point_image_is_refused():
    content = encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    with pytest.raises(DataError, match="32-bit"):
        open_image(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image of a format"),
        (b"%PDF-1.7 and more", "not an image of a format"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not an image of a format"),
        (b"\xff\xd8\xff\xe0 nothing more", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (bomb_png(30_000, 30_000), "30,000 × 30,000 pixels"),
        (bomb_png(60_000, 20), "strip"),
        (bomb_png(100, 100), "damaged"),
    ],
)
def test_what_is_no_usable_image_is_refused(content, message):
    with pytest.raises(DataError, match=message) as caught:
        open_image(content)
    assert caught.value.where == "image"
    assert caught.value.fix


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_file_that_ends_early_is_refused(format):
    content = encoded(noise(), format)
    with pytest.raises(DataError, match="damaged"):
        open_image(content[: len(content) // 2])


@WARNS
@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_random_damage_never_raises_anything_but_a_data_error(format, damage):
    content = bytearray(encoded(noise(12, 14), format))
    for place, value in damage:
        content[int(place * (len(content) - 1))] = value
    try:
        found = open_image(bytes(content))
    except DataError:
        return
    assert found.mode == "RGB"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("width", "height"), [(1007, 1001), (1001, 1007), (1001, 1001), (300, 900)])
def test_the_size_of_a_turned_image_is_that_of_the_shown_one(format, width, height):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (width, height)), format, exif=exif)
    found = open_upright(content, 100)
    assert (found.width, found.height) == (height, width)


@WARNS
def test_damaged_exif_does_not_spoil_an_image():
    content = encoded(noise(), "JPEG", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\x7f garbage")
    assert open_image(content).size == noise().size


def test_a_large_file_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    path = tmp_path / "large.png"
    path.write_bytes(encoded(noise()))
    with pytest.raises(DataError, match="larger than") as caught:
        open_image(path)
    assert caught.value.where == str(path)


def test_files_that_are_not_there_or_not_files(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            open_image(path)


def test_a_draft_keeps_both_sides_and_nearly_the_picture():
    smooth = noise(6, 8).resize((1600, 1200), Image.Resampling.BICUBIC)
    content = encoded(smooth, "JPEG", quality=95)
    draft = open_image(content, 256)
    assert draft.size == (400, 300)
    small = np.asarray(draft.resize((64, 48), Image.Resampling.BICUBIC), np.float64)
    full = np.asarray(open_image(content).resize((64, 48), Image.Resampling.BICUBIC), np.float64)
    assert np.abs(small - full).max() <= 3


def test_base64_is_read_plain_wrapped_and_as_a_data_uri(tmp_path: Path):
    content = encoded(noise(5, 5))
    plain = base64.b64encode(content).decode()
    wrapped = base64.encodebytes(content).decode()
    for text in (plain, wrapped, f"data:image/png;base64,{plain}"):
        assert from_base64(text) == content
    assert open_image(f"data:image/png;base64,{plain}").size == (5, 5)


@pytest.mark.parametrize("text", ["photo.jpg", "https://example.org/a.png", "data:image/png,abc", "a,b", "äöü"])
def test_what_is_not_base64_is_refused(text):
    with pytest.raises(DataError, match="base64"):
        from_base64(text)
