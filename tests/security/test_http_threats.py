"""What hostile inputs cost: image bombs, floods of characters, addresses as inputs, numbers without bounds."""

import base64
import socket
import ssl
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pictures
import pytest
import served
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from budwood.serving.limits import Limits
from budwood.serving.model import Served, served_name
from budwood.serving.server import Handle, start

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted, and reading the certificates of the machine for each request takes longer than it."""
LABELS = ("<img src=x onerror=alert(1)>", '"><script>alert(1)</script>')
"""Labels that a page must show as text."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served.start_null(tmp_path_factory.mktemp("text") / "bundle") as handle:
        yield handle.url


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bundle = served.null_images(tmp_path_factory.mktemp("image") / "bundle")
    with start([Served("photos", "1", bundle)], runtime="null", limits=served.QUICK) as handle:
        yield handle.url


def ask(url: str, content: bytes, kind: str = "image/png") -> httpx.Response:
    return httpx.post(f"{url}/predict", content=content, headers={"content-type": kind}, timeout=30, verify=NO_TLS)


def png(width: int, height: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of any size whose pixels are `data`, compressed; `more` are chunks before them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def zeros(count: int) -> bytes:
    """So many zero bytes, compressed a thousandfold without ever being in memory at once."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block[: min(1 << 20, count - at)]) for at in range(0, count, 1 << 20)]
    return b"".join(parts) + packer.flush()


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (14_000, 14_000), (2**31 - 1, 2**31 - 1)])
def test_image_bombs_are_refused_by_their_header(image: str, width: int, height: int) -> None:
    """The first two are valid files of some hundred kilobytes that would take 80 and 200 MB."""
    data = zeros(height * (width + 1)) if width < 20_000 else b""
    reply = ask(image, png(width, height, data))
    assert reply.status_code == 422
    assert "pixels" in reply.json()["detail"]


def test_an_image_with_more_data_than_pixels_is_answered_or_refused(image: str) -> None:
    assert ask(image, png(4, 4, zeros(64 << 20))).status_code in (200, 422)


def test_a_huge_profile_is_not_expanded(image: str) -> None:
    profile = b"icc\0\0" + zeros(64 << 20)
    text = b"Comment\0\0" + zeros(64 << 20)
    for kind, body in ((b"iCCP", profile), (b"zTXt", text)):
        assert ask(image, png(4, 4, zeros(20), (kind, body))).status_code in (200, 422)


def test_a_flood_of_frames_costs_one(image: str) -> None:
    frames = [Image.new("P", (8, 8), number % 250) for number in range(500)]
    content = pictures.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert ask(image, content, "image/gif").status_code == 200


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_strips_of_a_tiff_do_not_add_up(image: str) -> None:
    """A million strips in the header of a file of a few bytes."""
    entries = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1_000_000, 8), (278, 4, 1, 1)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    assert ask(image, content, "image/tiff").status_code == 422


@pytest.mark.parametrize(("width", "height", "mode"), [(1, 1, "L"), (30_000, 1, "L"), (16, 16, "RGBA"), (16, 16, "1")])
def test_odd_images_get_an_answer_or_a_reason(image: str, width: int, height: int, mode: str) -> None:
    reply = ask(image, pictures.encoded(Image.new(mode, (width, height))))
    assert reply.status_code == (422 if width > 1_000 else 200), reply.text


def test_many_form_parts_are_refused(image: str) -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="image"\r\n\r\n1\r\n'
    assert ask(image, part * 10_000 + b"--x--", "multipart/form-data; boundary=x").status_code == 422


ADDRESSES = (
    "//169.254.169.254/latest/meta-data/",
    "//example.org/a.png",
    "//[::ffff:127.0.0.1]/",
    "//0x7f.1/",
    "//user@127.0.0.1:1/",
)
"""Of the machine's own network, of this machine in other words, and of elsewhere."""
INPUTS = (
    *(f"{scheme}:{address}" for scheme in ("http", "https", "ftp", "gopher", "file") for address in ADDRESSES),
    *ADDRESSES,
    "file:///etc/passwd",
    "/etc/passwd",
    "../../etc/passwd",
    "data:image/svg+xml,<svg/>",
)


@pytest.mark.parametrize("address", INPUTS)
def test_addresses_are_no_inputs_and_nothing_is_fetched(
    image: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    original = socket.getaddrinfo

    def look(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return original(host, *rest, **more)

    with httpx.Client(base_url=image) as client:
        client.get("/livez")  # the connection is there before anything is watched
        monkeypatch.setattr(socket, "getaddrinfo", look)
        monkeypatch.setattr(socket, "create_connection", look)
        reply = client.post("/predict", json={"image": address})
        assert reply.status_code == 422
        assert reply.json()["errors"][0]["field"] == "image"
        assert "root:" not in reply.text
        assert client.post("/predict", json={"image_url": address}).status_code == 422
        assert client.post("/predict", json={"image": {"url": address}}).status_code == 422
    assert asked == []


FLOODS = {
    "one letter": "a" * 100_000,
    "newlines": "\n" * 99_999 + "a",
    "zalgo": "a" + "\u0301\u0316\u0334" * 33_000,
    "emoji": "\U0001f642" * 100_000,
    "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 20_000,
    "right to left": "\u202e\u05d0" * 50_000,
    "digits": "1" * 100_000,
    "brackets": "(" * 100_000,
    "spaces": "a " * 50_000,
    "han": "\u4e00" * 100_000,
    "nothing that shows": "\u200b" * 100_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_characters_are_answered_and_cut_openly(text: str, name: str) -> None:
    reply = httpx.post(f"{text}/predict", json={"text": FLOODS[name]}, timeout=30)
    assert reply.status_code in (200, 422), reply.text
    if reply.status_code == 200 and name not in ("emoji", "nothing that shows"):
        assert reply.json().get("truncated") in (True, None)
    assert httpx.post(f"{text}/predict", json={"text": "hello"}).status_code == 200


@pytest.mark.parametrize("letter", ["a", "\n", "\u0301"])
def test_a_million_characters_are_refused(text: str, letter: str) -> None:
    assert httpx.post(f"{text}/predict", json={"text": letter * 1_000_000}).status_code in (413, 422)


def test_a_hundred_thousand_ranges_are_refused(text: str) -> None:
    ranges = "bytes=" + ",".join(f"{i}-{i}" for i in range(100_000))
    data = f"GET / HTTP/1.1\r\nhost: localhost\r\nrange: {ranges}\r\n\r\n".encode()
    assert [reply.status for reply in served.send_bytes(text, data)] == [431]


NAME = st.one_of(
    st.text(max_size=300),
    st.sampled_from(["..", "%2e%2e", "%2e%2e%2f", "\0", "%00", "tiny/../tiny", "tiny#x", "tiny?x", ".", "\u202etiny"]),
    st.text(alphabet=".%/\\2e0", max_size=40),
)


@settings(max_examples=150)
@given(NAME, st.sampled_from(["/models/{}/predict", "/v2/models/{}", "/v2/models/{}/infer", "/models/{}/report"]))
def test_names_in_paths_are_never_files(text: str, name: str, path: str) -> None:
    """Whatever a path says, the answer is a refusal in one of the known shapes."""
    raw = "".join(
        letter if "!" < letter < "\x7f" else f"%{byte:02x}" for letter in name for byte in letter_bytes(letter)
    )
    method = "POST" if path.endswith(("predict", "infer")) else "GET"
    head = f"{method} {path.format(raw)} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n"
    (reply,) = served.send_bytes(text, f"{head}content-type: application/json\r\n\r\n".encode())
    assert reply.status in (400, 404, 405) or served_name(name) == name or "/" in name or "?" in name or "#" in name
    assert reply.status < 500
    assert b"root:" not in reply.body


def letter_bytes(letter: str) -> bytes:
    """One byte where the letter stands for itself, all of its UTF-8 where it is escaped."""
    return b"x" if "!" < letter < "\x7f" else letter.encode("utf-8", "surrogatepass")


@given(st.text(max_size=300))
def test_a_served_name_is_plain(name: str) -> None:
    found = served_name(name)
    assert 1 <= len(found) <= 64
    assert found.isascii()
    assert all(letter.isalnum() or letter in "._-" for letter in found)
    assert found not in (".", "..")
    assert served_name(found) == found


def test_every_number_in_the_document_has_bounds(text: str) -> None:
    """A number without them is how one request takes all memory; each bound is tried where a route takes it."""
    document = httpx.get(f"{text}/openapi.json").json()["components"]["schemas"]
    found = dict(numbers(document))
    assert found
    for place, schema in found.items():
        # A true number that comes later is compared and noted; nothing is as large as it says.
        if not place.split(".")[0].endswith("Request") or place.startswith("FeedbackRequest.properties.label"):
            continue
        for bound in ("minimum", "maximum"):
            exclusive = f"exclusive{bound.title()}"
            assert bound in schema or exclusive in schema or "const" in schema or "enum" in schema, (place, bound)


def numbers(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield place, schema
        for name, inner in schema.items():
            if name == "not":  # what is refused needs no bounds
                continue
            yield from numbers(inner, f"{place}.{name}" if place else name)
    elif isinstance(schema, list):
        for at, inner in enumerate(schema):
            yield from numbers(inner, f"{place}.{at}")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    bundle = served.null_bundle(tmp_path_factory.mktemp("hostile") / "bundle", labels=LABELS)
    with start([Served(LABELS[0], "1", bundle)], runtime="null", limits=served.QUICK) as handle:
        yield handle


def test_markup_in_labels_and_inputs_stays_text(hostile: Handle) -> None:
    """Every page and part of one is asked for; what comes as HTML has no tag of a label or an input in it."""
    from budwood.serving.routes import ROUTES

    name = served_name(LABELS[0])
    reply = httpx.post(f"{hostile.url}/predict", json={"text": LABELS[1]})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    pages = [route for route in ROUTES if route.method == "GET"]
    assert len(pages) > 10
    for route in pages:
        path = route.path.replace("{name}", name).replace("{version}", "1")
        for query in ("", f"?model={name}", "?model=%3Cimg%20src=x%20onerror=alert(1)%3E"):
            reply = httpx.get(hostile.url + path + query, verify=NO_TLS)
            assert reply.status_code < 500, path
            assert reply.headers["x-content-type-options"] == "nosniff"
            if reply.headers["content-type"].startswith("text/html"):
                assert "<img src=x" not in reply.text, path
                assert "<script>alert" not in reply.text, path
                policy = reply.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", ""), path
                assert "frame-ancestors 'none'" in policy
                assert reply.headers["x-frame-options"] == "DENY"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that is reached under a name of its own."""
    path = tmp_path_factory.mktemp("named") / "bundle"
    with served.start_null(path, hosts=("Api.Example.org", "2001:db8::1")) as handle:
        yield handle.url


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example.org", 200),
        ("API.example.org:8443", 200),
        ("[2001:db8::1]:80", 200),
        ("localhost", 200),
        ("evil.example.org", 400),
        ("api.example.org.evil.example", 400),
        ("xapi.example.org", 400),
        ("api.example.org@evil.example", 400),
        ("", 400),
    ],
)
def test_only_the_named_hosts_are_served(named: str, host: str, status: int) -> None:
    (reply,) = served.send_bytes(named, served.post("/predict", b'{"text": "a"}', host=host))
    assert reply.status == status


def test_a_page_under_the_own_name_may_post_and_no_other(named: str) -> None:
    for origin, status in (("https://api.example.org", 200), ("https://evil.example", 403), ("null", 403)):
        data = served.post("/predict", b'{"text": "a"}', f"origin: {origin}", host="api.example.org")
        assert [reply.status for reply in served.send_bytes(named, data)] == [status]


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "//a", "a/b", "a:80", "*", "-a"])
def test_what_is_no_name_of_a_host_is_refused(tmp_path: Path, name: str) -> None:
    from budwood.core.errors import UsageError

    with pytest.raises(UsageError, match="no name of a host"):
        served.start_null(tmp_path / "b", hosts=(name,))


def test_long_bodies_of_images_are_counted(tmp_path: Path) -> None:
    """Where a body may have 32 MB, those that are held at the same time have a sum."""
    limits = Limits(notice_seconds=0, bodies_bytes=3 << 20)
    with start([Served("photos", "1", served.null_images(tmp_path / "b"))], runtime="null", limits=limits) as handle:
        head = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 2097152\r\n\r\n"
        with served.connect(handle.url) as first, served.connect(handle.url) as second:
            first.sendall(head.encode() + b"x")
            second.sendall(head.encode() + b"x")
            first_or_second = [served.receive(second) or b""]
            assert first_or_second[0].startswith(b"HTTP/1.1 503 ")
        small = base64.b64encode(pictures.encoded(Image.new("L", (8, 8)))).decode()
        assert httpx.post(f"{handle.url}/predict", json={"image": small}).status_code == 200


def test_an_image_in_base64_is_the_same_image(image: str) -> None:
    stream = BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    reply = httpx.post(f"{image}/predict", json={"image": base64.b64encode(stream.getvalue()).decode()})
    assert reply.json() == ask(image, stream.getvalue()).json()
