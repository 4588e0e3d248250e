"""Who may ask: the Host and Origin checks that keep web pages of others out, and no open address without keys.

`python -m budwood.serving.auth FILE NAME` makes a key, as `budwood keys make` does.
"""

import ipaddress
import re
import sys
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from budwood.core.errors import BudwoodError, UsageError
from budwood.serving.errors import HttpError
from budwood.serving.keys import MAKE, Key, Keys, create_key

__all__ = [
    "Key",
    "Keys",
    "check_binding",
    "check_host",
    "check_origin",
    "checked_hosts",
    "create_key",
    "is_loopback",
]


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


def checked_hosts(hosts: Collection[str]) -> frozenset[str]:
    """Names for the list of accepted hosts, in small letters. Raises UsageError for what no Host header can name."""
    for name in hosts:
        if not HOST_NAME.fullmatch(name):
            fix = "a name or an address without port, such as --allow-host api.example.org"
            raise UsageError(f"{name!a} is no name of a host", where="--allow-host", fix=fix)
    return frozenset(name.lower().strip("[]") for name in hosts)


HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|\[?[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?", re.ASCII)


def check_host(headers: dict[bytes, bytes], hosts: frozenset[str] = frozenset()) -> None:
    """Only names of this machine and those in `hosts` are accepted, so that DNS rebinding finds nobody at home.

    Raises:
        HttpError: 400 for a missing or foreign Host header.
    """
    value = headers.get(b"host", b"").lower()
    if value not in KNOWN_HOSTS:
        name = hostname(value)
        if name and name in hosts:
            return
        if not name or not is_loopback(name):
            raise HttpError(400, "this Host is not served here; the server names it with --allow-host")
        if len(KNOWN_HOSTS) < 64:
            KNOWN_HOSTS.add(value)


KNOWN_HOSTS: set[bytes] = set()
"""Host headers that name this machine by its loopback address; reading them takes time."""


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
