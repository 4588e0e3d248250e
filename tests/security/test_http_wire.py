"""What no well-behaved client sends: smuggling, slow and endless requests, huge headers; and what is never logged."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import served

from budwood.core.errors import UsageError
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start
from budwood.serving.worker import JsonLines

POST = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BODY = b'{"text": "hello"}'
SHORT = Limits(notice_seconds=0, read_seconds=1.0, connections=20, answer_seconds=0.3)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served.start_null(tmp_path_factory.mktemp("wire") / "bundle") as handle:
        yield handle.url


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    with served.start_null(tmp_path_factory.mktemp("short") / "bundle", limits=SHORT) as handle:
        yield handle


def chunked(*parts: bytes, end: bool = True) -> bytes:
    head = POST + b"transfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if end else b"")


def statuses(url: str, data: bytes) -> list[int]:
    return [reply.status for reply in served.send_bytes(url, data)]


@pytest.mark.parametrize(
    "kind",
    [
        "application/pickle",
        "application/x-pickle",
        "application/python-pickle",
        "application/octet-stream",
        "application/vnd.bentoml+pickle",
        "application/x-npy",
        "application/x-joblib",
        "application/x-yaml",
        "application/xml",
        "text/html",
    ],
)
def test_serialized_objects_are_refused(url: str, kind: str) -> None:
    reply = httpx.post(f"{url}/predict", content=b"\x80\x04cos\nsystem\n", headers={"content-type": kind})
    assert reply.status_code == 415


def test_many_form_parts_are_refused(url: str) -> None:
    body = b"".join(b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(10_000)) + b"--x--"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert httpx.post(f"{url}/predict", content=body, headers=headers).status_code == 415


def test_ranges_are_ignored(url: str) -> None:
    ranges = "bytes=" + ",".join(f"{i}-{i}" for i in range(3000))
    reply = httpx.get(url, headers={"range": ranges})
    assert (reply.status_code, reply.headers.get("content-range")) == (200, None)


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    data = b"".join(served.post("/predict", BODY, f"x-request-id: id-{i}") for i in range(20))
    replies = served.send_bytes(url, data, expected=20)
    assert [reply.headers["x-request-id"] for reply in replies] == [f"id-{i}" for i in range(20)]


@pytest.mark.parametrize(
    "headers",
    [
        "content-length: 17\r\ntransfer-encoding: chunked",
        "content-length: 17\r\ncontent-length: 5",
        "content-length: -1",
        "content-length: 1_7",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: xchunked",
        "content-length : 17",
        "x: a\r\n b: c\r\n\x00: d",
        "x: a\x00b",
    ],
)
def test_ambiguous_framing_is_refused(url: str, headers: str) -> None:
    start = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n\r\n"
    replies = served.send_bytes(url, start.encode("latin-1") + BODY)
    assert [reply.status for reply in replies] == [400]
    assert replies[0].headers["connection"] == "close"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(url: str, data: bytes) -> None:
    assert statuses(url, data) == [400]


def test_no_host_is_refused(url: str) -> None:
    assert statuses(url, b"GET /livez HTTP/1.1\r\n\r\n") == [400]


@pytest.mark.parametrize("path", ["/%2e%2e/%2e%2e/etc/passwd", "/static/../app.py", "/static/%2e%2e%2fapp.py", "//etc"])
def test_paths_are_names_and_not_files(url: str, path: str) -> None:
    assert statuses(url, f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()) == [404]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_long_headers_are_refused(url: str, whole: bool, many: bool) -> None:
    several = b"".join(b"x-%d: %s\r\n" % (i, b"a" * 100) for i in range(700))
    lines = several if many else b"x: " + b"a" * 65536 + b"\r\n"
    data = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n" + lines + (b"\r\n" if whole else b"")
    assert statuses(url, data) == [431]


def test_a_long_path_is_refused(url: str) -> None:
    assert statuses(url, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n") == [431]


def test_chunked_bodies_are_read(url: str) -> None:
    assert statuses(url, chunked(BODY[:5], BODY[5:])) == [200]


def test_an_endless_body_is_cut_off(url: str) -> None:
    with served.connect(url) as connection:
        connection.sendall(chunked(b" " * 60_000, end=False))
        for _ in range(400):
            try:
                connection.sendall(b"ea60\r\n" + b" " * 60_000 + b"\r\n")
            except OSError:
                break
        else:
            pytest.fail("24 MB were accepted")


def test_a_body_that_says_it_is_too_long_is_not_read(url: str) -> None:
    head = POST + b"content-length: 99999999999\r\n\r\n"
    with served.connect(url) as connection:
        connection.sendall(head)
        (reply,) = served.read_replies(connection)
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"POST /predict HTT",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
        served.post("/predict", BODY)[:-5],
        chunked(BODY[:5], end=False),
    ],
)
def test_slow_requests_are_closed(short: Handle, data: bytes) -> None:
    with served.connect(short.url) as connection:
        connection.sendall(data)
        assert [reply.status for reply in served.read_replies(connection)] == [408]
        assert connection.recv(1) == b""


def test_clients_that_take_no_answers_are_closed(short: Handle) -> None:
    """Many requests, no reading: the buffers fill, and the connection ends instead of staying for ever."""
    with served.connect(short.url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        data = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                connection.sendall(data)
            except TimeoutError:
                continue
            except OSError:
                return
        pytest.fail("it stayed open")


def test_silent_connections_are_closed(short: Handle) -> None:
    with served.connect(short.url) as connection:
        assert connection.recv(1) == b""


def test_slow_headers_do_not_keep_others_out(short: Handle) -> None:
    """Fifteen half-open requests, and a normal one is answered at once; more than the allowed number get 503."""
    slow = [served.connect(short.url) for _ in range(15)]
    try:
        for connection in slow:
            connection.sendall(b"POST /predict HTTP/1.1\r\nx: ")
        assert httpx.post(f"{short.url}/predict", json={"text": "hello"}).status_code == 200
        more = [served.connect(short.url) for _ in range(10)]
        replies = [served.read_replies(connection) for connection in more]
        assert 503 in [reply.status for part in replies for reply in part]
        for connection in more:
            connection.close()
    finally:
        for connection in slow:
            connection.close()


def test_clients_that_go_away_are_taken_out(tmp_path: Path) -> None:
    """Of requests that wait behind a slow one, those whose clients leave are cancelled and counted."""
    with served.start_null(tmp_path / "b", delay_seconds=0.5) as handle:
        connections = [served.connect(handle.url) for _ in range(12)]
        for connection in connections:
            connection.sendall(served.post("/predict", BODY))
        time.sleep(0.2)
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 20
        while (found := cancelled(handle.url)) < 10 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found >= 10
        assert httpx.get(f"{handle.url}/stats").json()["queue_depth"] == 0


def cancelled(url: str) -> int:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("budwood_cancelled_total ")))


def test_a_client_that_goes_away_while_it_sends(url: str) -> None:
    for data in (served.post("/predict", BODY)[:-5], chunked(BODY[:5], end=False)):
        with served.connect(url) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert served.read_replies(connection) == []
    assert httpx.post(f"{url}/predict", json={"text": "hello"}).status_code == 200


NAMES = {
    "My Model (v2)": "My-Model-v2",
    'a\r\nx-evil: 1\r\n\r\n<b>"\\': "a-x-evil-1-b",
    "模型": "model",
    "..": "model",
    "caf\u00e9\x00\u2028": "caf",
    "-" * 10 + "a" * 100: "a" * 54,
    "": "model",
    "tickets_2.v-1": "tickets_2.v-1",
}


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_folder_is_called_no_header_can_be_forged(tmp_path: Path, name: str) -> None:
    """The name is in headers, paths, figures and lists; a version is treated in the same way."""
    expected = NAMES[name]
    entry = Served(name, name, served.null_bundle(tmp_path / "b"))
    with start([entry], runtime="null", limits=Limits(notice_seconds=0)) as handle:
        path = f"/models/{expected}/predict"
        (reply,) = served.send_bytes(handle.url, served.post(path, BODY))
        assert (reply.status, reply.headers["x-model"], reply.headers["x-model-version"]) == (200, expected, expected)
        assert set(reply.headers) == EXPECTED_HEADERS
        assert httpx.get(f"{handle.url}/v1/models").json()["data"][0]["id"] == expected
        labels = f'budwood_requests_total{{model="{expected}",version="{expected}",code="200"}} 1'
        assert labels in httpx.get(f"{handle.url}/metrics").text.splitlines()


EXPECTED_HEADERS = {
    "content-type",
    "content-length",
    "x-request-id",
    "x-content-type-options",
    "x-model",
    "x-model-version",
}


def test_folders_that_become_one_name_are_refused(tmp_path: Path) -> None:
    bundle = served.null_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="named twice: a-b:0"):
        start([Served("a b", "0", bundle), Served("a/b", "0", bundle)], runtime="null")


CANARY = "canary-7f3a91c2"


def test_secrets_and_texts_stay_out_of_logs_answers_and_figures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with served.start_null(tmp_path / "b") as handle:
        headers = {"authorization": f"Bearer {CANARY}", "x-api-key": CANARY, "cookie": CANARY}
        replies = [
            httpx.post(f"{handle.url}/predict", json={"text": f"{CANARY} {word}"}, headers=headers)
            for word in ("fine", served.POISON, served.NAN)
        ]
        assert [reply.status_code for reply in replies] == [200, 422, 422]
        replies += [httpx.post(f"{handle.url}/predict", content=CANARY.encode(), headers=headers)]
        replies += [httpx.get(f"{handle.url}/{path}?key={CANARY}", headers=headers) for path in ("nowhere", "metrics")]
        replies += [httpx.get(f"{handle.url}/v2/models/{CANARY}", headers=headers)]
        raw = served.send_bytes(handle.url, f"GET / HTTP/1.1\r\n{CANARY}\r\n\r\n".encode())
    assert all(CANARY not in reply.text for reply in replies)
    assert all(CANARY.encode() not in reply.body for reply in raw)
    said = capfd.readouterr()
    records = [record for record in caplog.records if record.name.startswith(("budwood", "uvicorn"))]
    assert any("failed on one input" in record.getMessage() for record in records)
    assert CANARY not in "".join(JsonLines(0).format(record) for record in records) + said.out + said.err


def test_log_lines_cannot_be_forged() -> None:
    text = 'a\nERROR forged\r\x1b[31m%s {"level": "error"}\u2028' + "x" * 1_000_000
    record = logging.LogRecord("budwood", logging.WARNING, "", 0, "%s", (text,), None)
    line = JsonLines(3).format(record)
    assert line.isascii()
    assert not set(line) & {"\n", "\r", "\x1b"}
    assert len(line) < 5_000
    assert json.loads(line)["message"].startswith(text[:3000])
