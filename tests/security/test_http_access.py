"""Who may ask: keys, Host, Origin, and the inventory of all routes with no key, a user's and an admin's."""

import hashlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import served

from budwood.core.errors import NotFoundError, UsageError
from budwood.serving.auth import Keys, check_binding, create_key, is_loopback
from budwood.serving.errors import HttpError
from budwood.serving.routes import ROUTES, Route
from budwood.serving.server import Handle

OPEN = {"/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready", "/", "/write", "/live", "/docs"}
"""The routes that answer anybody, written out so that a new one is a decision."""
ADMIN = {"/metrics", "/grafana.json", "/models/{name}/report"}
"""The routes that need a key with the scope admin, written out for the same reason."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted, and reading the certificates of the machine for each request takes longer than it."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Handle, str, Path]]:
    """A server with two keys; the admin's is in a file."""
    folder = tmp_path_factory.mktemp("guarded")
    key = create_key(folder / "keys", "alice")
    (folder / "admin").write_text(create_key(folder / "keys", "root", "admin"))
    with pytest.MonkeyPatch.context() as patch, served.start_null(folder / "bundle", keys=folder / "keys") as handle:
        patch.setattr("budwood.serving.keys.FAILURES_PER_MINUTE", 100_000)
        yield handle, key, folder / "keys"


def ask(url: str, route: Route, headers: dict[str, str]) -> httpx.Response:
    path = route.path.replace("{name}", "tiny").replace("{version}", "1")
    if route.method == "GET":
        return httpx.get(url + path, headers=headers, verify=NO_TLS)
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
    bodies = {"infer": {"inputs": [tensor]}, "embedding": {"input": "hello"}, "feedback": {"label": "delivery"}}
    return httpx.post(url + path, json=bodies.get(route.shape, {"text": "hello"}), headers=headers, verify=NO_TLS)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_with_no_key_a_users_and_an_admins(guarded: tuple[Handle, str, Path], route: Route) -> None:
    handle, key, path = guarded
    # This server has no model that writes, draws or gives vectors, and no answer is called {request_id}.
    known = {"completion": 404, "chat": 404, "drawing": 404, "feedback": 404, "embedding": 404}.get(route.shape, 200)
    admin = (path.parent / "admin").read_text()
    assert ask(handle.url, route, {"authorization": f"Bearer {admin}"}).status_code == known
    allowed = 403 if route.path in ADMIN else known
    assert ask(handle.url, route, {"authorization": f"Bearer {key}"}).status_code == allowed
    assert ask(handle.url, route, {"x-api-key": key}).status_code == allowed
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {key}"}, {"x-api-key": key[:-1]}):
        reply = ask(handle.url, route, headers)
        assert reply.status_code == (200 if route.path in OPEN else 401)
        if reply.status_code == 401:
            assert "unauthorized" in reply.text
            assert reply.headers["www-authenticate"] == "Bearer"
            assert key not in reply.text


def test_nobody_reaches_the_answers_of_others(guarded: tuple[Handle, str, Path]) -> None:
    """Two callers with the same id of their own making: feedback goes to one's own answer, or to none."""
    handle, key, path = guarded
    other = (path.parent / "admin").read_text()
    asked = {"x-api-key": key, "x-request-id": "same-1"}
    assert httpx.post(f"{handle.url}/predict", json={"text": "hello"}, headers=asked).status_code == 200
    label = {"label": "delivery"}
    for name in ("same-1", "alice:same-1", "alice%3Asame-1"):
        reply = httpx.post(f"{handle.url}/feedback/{name}", json=label, headers={"x-api-key": other})
        assert reply.status_code == 404
    reply = httpx.post(f"{handle.url}/feedback/same-1", json=label, headers={"x-api-key": key})
    assert (reply.status_code, reply.json()["request_id"]) == (200, "same-1")


def test_open_routes_tell_nothing_of_the_models(guarded: tuple[Handle, str, Path]) -> None:
    handle, key, _ = guarded
    for path in (*OPEN, "/static/common.js", "/static/try.js", "/static/docs.js", "/static/page.css"):
        reply = httpx.get(handle.url + path)
        assert "tiny" not in f"{reply.text} {reply.headers}", path
    assert "x-model" not in httpx.get(f"{handle.url}/stats").headers
    assert "x-model" not in httpx.get(f"{handle.url}/stats", headers={"x-api-key": f"{key[:-1]}!"}).headers


def test_a_key_in_the_query_is_no_key(guarded: tuple[Handle, str, Path]) -> None:
    handle, key, _ = guarded
    assert httpx.get(f"{handle.url}/v1/models?key={key}&api_key={key}").status_code == 401


def test_keys_are_stored_as_hashes_and_can_be_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, second = create_key(path, "alice"), create_key(path, "bob")
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text()
    assert first not in text
    assert hashlib.sha256(first.encode()).hexdigest() in text
    keys = Keys(path)
    for key in (first, second):
        keys.check({b"x-api-key": key.encode()})
    path.write_text("".join(line for line in text.splitlines(keepends=True) if line.startswith("bob")))
    keys.refresh()
    keys.check({b"x-api-key": second.encode()})
    with pytest.raises(HttpError) as caught:
        keys.check({b"x-api-key": first.encode()})
    assert caught.value.status == 401


def test_two_keys_with_one_prefix(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = [f"samepref{i}" for i in range(2)]
    path.write_text("".join(f"n {key[:8]} {hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys))
    for key in keys:
        Keys(path).check({b"authorization": f"bearer {key}".encode()})


@pytest.mark.parametrize("line", ["alice", "alice short " + "0" * 64, "alice 12345678 abc", "a b c d"])
def test_a_damaged_keys_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(UsageError, match="not a key") as caught:
        Keys(path)
    assert caught.value.where == f"{path}, line 3"


def test_a_missing_keys_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        Keys(tmp_path / "none")


def test_a_keys_file_that_stops_being_text_leaves_the_keys_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    key = create_key(path, "me")
    keys = Keys(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NotFoundError, match="cannot be read"):
        keys.refresh()
    keys.check({b"authorization": f"Bearer {key}".encode()})


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "../x"])
def test_key_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        create_key(tmp_path / "keys", name)


def test_the_command_that_the_help_names_makes_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "budwood.serving.auth"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    made = run(str(tmp_path / "keys"), "alice")
    assert made.returncode == 0
    Keys(tmp_path / "keys").check({b"x-api-key": made.stdout.strip().encode()})
    for arguments in ((), (str(tmp_path / "keys"), "a b"), (str(tmp_path / "none" / "keys"), "bob")):
        refused = run(*arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_no_keys_no_other_machines(host: str) -> None:
    with pytest.raises(UsageError, match="no keys"):
        check_binding(host, None)
    check_binding(host, Path("keys"))


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("a", False)])
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served.start_null(tmp_path_factory.mktemp("plain") / "bundle") as handle:
        yield handle.url


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "localhost@evil.example", "10.0.0.1"]
)
def test_foreign_hosts_are_refused(plain: str, host: str) -> None:
    (reply,) = served.send_bytes(plain, served.post("/predict", b'{"text": "a"}', host=host))
    assert reply.status == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:80", "127.0.0.2"])
def test_own_hosts_are_accepted(plain: str, host: str) -> None:
    (reply,) = served.send_bytes(plain, served.post("/predict", b'{"text": "a"}', host=host))
    assert reply.status == 200


def test_a_second_host_is_refused(plain: str) -> None:
    (reply,) = served.send_bytes(plain, served.post("/predict", b'{"text": "a"}', "host: evil.example"))
    assert reply.status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_others_cannot_post(plain: str, headers: dict[str, str]) -> None:
    assert httpx.post(f"{plain}/predict", json={"text": "a"}, headers=headers).status_code == 403


def test_our_own_page_can_post(plain: str) -> None:
    headers = {"origin": plain, "sec-fetch-site": "same-origin"}
    assert httpx.post(f"{plain}/predict", json={"text": "a"}, headers=headers).status_code == 200


def test_pages_have_a_strict_policy(plain: str) -> None:
    for path in ("/", "/docs"):
        reply = httpx.get(plain + path)
        assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["x-content-type-options"] == "nosniff"
        for forbidden in ("<script>", "onclick", "onload", "javascript:", "style=", "http://", "https://"):
            assert forbidden not in reply.text, (path, forbidden)
