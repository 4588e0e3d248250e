"""Who may ask: API keys from a file of hashes, and the Host and Origin checks that keep web pages of others out.

`python -m budwood.serving.auth FILE NAME` makes a key, appends its hash to FILE and prints the key once.
"""

import hashlib
import hmac
import ipaddress
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

from budwood.core.errors import BudwoodError, NotFoundError, UsageError
from budwood.serving.errors import HttpError

__all__ = ["Keys", "check_binding", "check_host", "check_origin", "create_key", "is_loopback"]

PREFIX = 8
"""This many characters of a key find its line; they say nothing about the rest."""


class Keys:
    """The keys file: lines of `NAME PREFIX SHA256`. It is read again when it changes, so a key can be revoked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = (0, 0)
        self.hashes: dict[str, list[str]] = {}
        if not path.is_file():
            raise NotFoundError("the keys file does not exist", where=str(path), fix=MAKE.format(path=path))
        self.refresh()

    def refresh(self) -> None:
        """Read the file if it changed. Raises UsageError when a line is off, NotFoundError when it is gone."""
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self.stamp:
                return
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NotFoundError("the keys file cannot be read", where=str(self.path)) from error
        hashes: dict[str, list[str]] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            parts = line.split()
            if not parts or parts[0].startswith("#"):
                continue
            if len(parts) != 3 or len(parts[1]) != PREFIX or len(parts[2]) != 64:
                where = f"{self.path}, line {number}"
                fix = MAKE.format(path=self.path)
                raise UsageError("not a key: a line is NAME PREFIX SHA256", where=where, fix=fix)
            hashes.setdefault(parts[1], []).append(parts[2])
        self.hashes, self.stamp = hashes, stamp

    def check(self, headers: dict[bytes, bytes]) -> None:
        """Raises HttpError 401, without detail, unless `Authorization: Bearer` or `X-API-Key` has a known key."""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = given.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        actual = hashlib.sha256(key).hexdigest()
        found = False
        for expected in self.hashes.get(key[:PREFIX].decode("latin-1"), [NOBODY]):
            found |= hmac.compare_digest(actual, expected)
        if not found:
            raise HttpError(401, "unauthorized", headers=((b"www-authenticate", b"Bearer"),))


NOBODY = "0" * 64
MAKE = "python -m budwood.serving.auth {path} NAME"


def create_key(path: Path, name: str) -> str:
    """A new 256-bit key, whose hash is appended to the file (mode 0600). The key itself is kept nowhere."""
    if not name.isidentifier():
        raise UsageError(f"{name!r} is not a name for a key", fix="use letters, digits and underscores")
    key = secrets.token_urlsafe(32)
    line = f"{name} {key[:PREFIX]} {hashlib.sha256(key.encode()).hexdigest()}\n"
    path.touch(mode=0o600)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    return key


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(host: str, keys: Path | None) -> None:
    """Raises UsageError when the server would be open to others without keys."""
    if keys is None and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached by others, and there are no keys",
            where="--host",
            fix=f"--keys FILE (make one: {MAKE.format(path='FILE')}), or leave out --host",
        )


def check_host(headers: dict[bytes, bytes]) -> None:
    """On loopback, only names of this machine are accepted, so that DNS rebinding finds nobody at home.

    Raises:
        HttpError: 400 for a missing or foreign Host header.
    """
    value = headers.get(b"host", b"").lower()
    if value not in KNOWN_HOSTS:
        name = hostname(value)
        if not name or not is_loopback(name):
            raise HttpError(400, "this Host is not served here")
        if len(KNOWN_HOSTS) < 64:
            KNOWN_HOSTS.add(value)


KNOWN_HOSTS: set[bytes] = set()


def hostname(value: bytes) -> str:
    try:
        return urlsplit("//" + value.decode("ascii")).hostname or ""
    except ValueError:
        return ""


def check_origin(headers: dict[bytes, bytes]) -> None:
    """A page of another site must not post in its visitor's name. Raises HttpError 403."""
    origin = headers.get(b"origin")
    if origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower():
        raise HttpError(403, "requests from other sites are refused")
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        raise HttpError(403, "requests from other sites are refused")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {MAKE.format(path='FILE')}")
    try:
        sys.stdout.write(create_key(Path(sys.argv[1]), sys.argv[2]) + "\n")
    except (BudwoodError, OSError) as error:
        sys.exit(f"error: {error}")
