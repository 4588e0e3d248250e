"""What is written down of requests: the access log, which nobody can forge, and nowhere a key or a text."""

import io
import json
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import served

from budwood.serving.access import Access
from budwood.serving.keys import Key, create_key
from budwood.serving.worker import JsonLines, log_to_stderr

CANARY = "canary-51c0ffee"
HOSTILE = (
    'a\n{"level": "error"}',
    "a\r\x1b[2J\x1b[31mred",
    "%s%n%(message)s{0}",
    "\u2028\u2029\u0085",
    "\x00\x07\x08",
    "x" * 1_000_000,
)
"""Line breaks, commands for a terminal, formats, and a megabyte."""


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_line_of_the_access_log_cannot_be_forged(text: str) -> None:
    """Names that come from folders and files are bounded where they are read; here they are as hostile as can be."""
    out = io.StringIO()
    request: Any = SimpleNamespace(
        id=b"0123", model=SimpleNamespace(name=text, version=text), key=Key(text, "12345678", "0" * 64)
    )
    Access(2, out).note(request, "POST /predict", 200, 0.0123)
    written = out.getvalue()
    assert written.isascii()
    assert written.count("\n") == 1
    assert not set(written[:-1]) & {"\n", "\r", "\x1b", "\x00"}
    assert json.loads(written)["ms"] == 12.3


def test_the_access_log_has_a_line_for_each_request_and_no_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key = create_key(tmp_path / "keys", "alice")
    with served.start_null(tmp_path / "b", keys=tmp_path / "keys", access_log=True) as handle:
        headers = {"authorization": f"Bearer {key}", "x-request-id": "mine-1", "cookie": CANARY, "user-agent": CANARY}
        for path, body in (
            ("/predict", {"text": CANARY}),
            ("/predict", {"txet": CANARY}),
            (f"/models/{CANARY}/predict", {"text": "a"}),
            (f"/{CANARY}", {}),
            (f"/predict?top={CANARY}", {"text": "a"}),
        ):
            httpx.post(handle.url + path, json=body, headers=headers)
        httpx.post(f"{handle.url}/predict", json={"text": "a"}, headers={"x-api-key": CANARY, "x-request-id": "a\tb"})
        httpx.get(f"{handle.url}/readyz")
    said = capfd.readouterr()
    found = lines(said.err)
    assert [(item["route"], item["status"], item["key"]) for item in found] == [
        ("POST /predict", 200, "alice"),
        ("POST /predict", 422, "alice"),
        ("POST /models/{name}/predict", 404, "alice"),
        ("", 404, None),
        ("POST /predict", 422, "alice"),
        ("POST /predict", 401, None),
        ("GET /readyz", 200, None),
    ]
    assert {item["request_id"] for item in found[:5]} == {"mine-1"}
    assert len(found[5]["request_id"]) == 32  # one with a tab in it is not kept
    assert all(item["ms"] >= 0 and item["model"] == "tiny" for item in found)
    for secret in (CANARY, key, key[8:]):
        assert secret not in said.out + said.err


def test_there_is_no_access_log_unless_it_is_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with served.start_null(tmp_path / "b") as handle:
        httpx.post(f"{handle.url}/predict", json={"text": "a"})
    assert capfd.readouterr().err == ""


def test_a_key_is_in_no_answer_figure_log_or_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """All routes are asked with real keys, with failing inputs too; then all that was said and written is searched."""
    from budwood.serving.routes import ROUTES

    caplog.set_level(logging.DEBUG)
    key, admin = create_key(tmp_path / "keys", "alice"), create_key(tmp_path / "keys", "root", "admin")
    said = []
    handle = served.start_null(tmp_path / "b", keys=tmp_path / "keys", access_log=True)
    with handle, httpx.Client(base_url=handle.url) as client:
        for secret in (key, admin):
            client.headers["authorization"] = f"Bearer {secret}"
            for route in ROUTES:
                path = route.path.replace("{name}", "tiny").replace("{version}", "1")
                # A page hands its own query on to its parts, so what its reader puts there comes back to its reader.
                path += "" if route.shape == "html" else f"?key={secret}"
                if route.method == "GET":
                    replies = [client.get(path)]
                else:
                    replies = [client.post(path, json={"text": text}) for text in ("fine", served.POISON, served.NAN)]
                said += [f"{route.path}: {reply.text} {reply.headers}" for reply in replies]
        raw = served.send_bytes(handle.url, f"GET / HTTP/1.1\r\nauthorization: Bearer {key}\r\n{key}\r\n\r\n".encode())
        said += [str(reply) for reply in raw]
    output = capfd.readouterr()
    records = [JsonLines(0).format(item) for item in caplog.records if item.name.startswith(("budwood", "uvicorn"))]
    said += [output.out, output.err, *records]
    said += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(said) > 100
    said = [text.replace(str(tmp_path), "") for text in said]
    for secret in (key, admin):
        assert not [text for text in said if secret in text or secret[8:] in text]


def test_warnings_of_libraries_are_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        log_to_stderr(1)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("odd\nimage", stacklevel=1)
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = before
    (line,) = lines(capfd.readouterr().err)
    assert line["level"] == "warning"
    assert "odd\nimage" in line["message"]
