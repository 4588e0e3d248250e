"""A file in a request body, alone or in a form."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.serving.errors import HttpError
from budwood.serving.multipart import is_file, read_file

FORM = b"multipart/form-data; boundary=b"


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    made = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%b"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n%b\r\n'
        % (name.encode(), content)
        for name, content in parts
    )
    return made + end


@given(st.binary().filter(lambda content: b"\r\n--b" not in content))
def test_the_bytes_of_a_part_come_through_as_they_are(content: bytes) -> None:
    assert read_file(FORM, form(("image", content)), "image") == content
    assert read_file(b"image/png", content, "image") == content


def test_which_types_carry_a_file() -> None:
    assert is_file(b"image/jpeg")
    assert is_file(FORM)
    assert not is_file(b"application/json")
    assert not is_file(b"")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "says"),
    [
        (b"multipart/form-data", form(("image", b"x")), 400, "boundary"),
        (b"multipart/form-data; boundary=" + b"b" * 71, form(("image", b"x")), 400, "boundary"),
        (FORM, b"no form at all", 400, "malformed"),
        (FORM, b"", 422, "cut off"),
        (FORM, form(), 422, "0 files"),
        (FORM, form(("image", b"x"), end=b""), 422, "cut off"),
        (FORM, form(("image", b"x"), ("image", b"y")), 422, "2 files"),
        (FORM, form(("photo", b"x")), 422, "unknown field 'photo'"),
        (FORM, form(*[("image", b"x")] * 9), 422, "more than 8 parts"),
        (FORM, b"--b\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(9)) + b"\r\nx\r\n--b--", 400, "header count"),
    ],
)
def test_another_form_is_refused(content_type: bytes, body: bytes, status: int, says: str) -> None:
    with pytest.raises(HttpError, match=says) as caught:
        read_file(content_type, body, "image")
    assert caught.value.status == status


@given(st.binary(max_size=200))
def test_any_bytes_give_a_file_or_a_refusal(body: bytes) -> None:
    with suppress(HttpError):
        assert isinstance(read_file(FORM, b"--b\r\n" + body, "image"), bytes)
