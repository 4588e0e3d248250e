"""API keys: a file with their hashes, what each key may do and how often, and what makes, rotates and revokes them.

A line is `NAME PREFIX SHA256`, then what differs from the defaults: `scope=admin`, `per-minute=600`,
`until=2027-01-31T00:00:00Z`. Several lines may have one name: that is a key and its successor.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from budwood.core.commit import holding, write_atomic
from budwood.core.errors import NotFoundError, UsageError
from budwood.serving.errors import HttpError
from budwood.serving.rates import Rates, identity

__all__ = ["Key", "Keys", "Scope", "create_key", "read_keys", "revoke_keys", "rotate_key"]

Scope = Literal["predict", "admin"]
"""`predict` asks the models. `admin` may do that too, and sees figures, reports and what others sent."""

PREFIX = 8
"""This many characters of a key find its line; they say nothing about the rest."""
FAILURES_PER_MINUTE = 60
"""Wrong keys from one address that get 401; more of them get 429, and their connections are closed."""
MOST_PER_MINUTE = 1_000_000
NOBODY = "0" * 64
UNAUTHORIZED = "unauthorized: send a key as `Authorization: Bearer KEY`"
"""The same for no key and for any that is not good, so that it tells nothing about keys."""
MAKE = "budwood keys make {path} NAME"


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the file."""

    name: str
    prefix: str
    hash: str
    scope: Scope = "predict"
    per_minute: int = 0
    """Requests a minute, over all workers and all keys of this name; 0 is no limit."""
    until: float = math.inf
    """Seconds since 1970 from which it is refused."""
    bucket: int = 0

    @property
    def line(self) -> str:
        words = [self.name, self.prefix, self.hash]
        words += [f"scope={self.scope}"] if self.scope != "predict" else []
        words += [f"per-minute={self.per_minute}"] if self.per_minute else []
        words += [f"until={written_time(self.until)}"] if self.until < math.inf else []
        return " ".join(words)


def written_time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str) -> float:
    """Seconds since 1970. Raises ValueError, also for a time without a zone: it would mean another time elsewhere."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!a} has no time zone; end it with Z")
    return found.timestamp()


def parse(line: str, path: Path, number: int) -> Key | None:
    """The key of a line, None for an empty one or a comment. Raises UsageError."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    where = f"{path}, line {number}"
    fields = dict(word.partition("=")[::2] for word in words[3:])
    known = len(words) >= 3 and len(words[1]) == PREFIX and len(words[2]) == 64
    if not known or len(fields) != len(words) - 3 or set(fields) - {"scope", "per-minute", "until"}:
        problem = "not a key: a line is NAME PREFIX SHA256 [scope=admin] [per-minute=N] [until=TIME]"
        raise UsageError(
            problem, where=where, fix="mend the line or take it out, or name the file that `keys make` wrote"
        )
    try:
        until = read_time(fields["until"]) if "until" in fields else math.inf
        per_minute = int(fields.get("per-minute", "0"))
    except ValueError as error:
        raise UsageError(f"not a key: {error}", where=where, fix="per-minute=600 until=2027-01-31T00:00:00Z") from error
    scope = checked_scope(fields.get("scope", "predict"), where)
    check_rate(per_minute, where)
    return Key(words[0], words[1], words[2].lower(), scope, per_minute, until, identity(f"key {words[0]}"))


def checked_scope(scope: str, where: str) -> Scope:
    """Raises UsageError for what is no scope."""
    for known in get_args(Scope):
        if scope == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"{scope!a} is no scope of a key", where=where, fix=f"one of {', '.join(get_args(Scope))}")


def check_rate(per_minute: int, where: str) -> None:
    if not 0 <= per_minute <= MOST_PER_MINUTE:
        fix = f"1 to {MOST_PER_MINUTE:,}, or leave it out for no limit"
        raise UsageError(f"{per_minute} requests a minute cannot be kept", where=where, fix=fix)


def read_keys(path: Path) -> list[Key]:
    """All keys of a file, in its order. Raises UsageError when a line is off, NotFoundError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        fix = MAKE.format(path=path)
        raise NotFoundError("the keys file does not exist", where=str(path), fix=fix) from error
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError("the keys file cannot be read", where=str(path)) from error
    found = (parse(line, path, number) for number, line in enumerate(text.splitlines(), start=1))
    return [key for key in found if key is not None]


class Keys:
    """The keys of a file, which is read again when it changes, so a key can be revoked while the server runs.

    Args:
        path: the file.
        rates: the buckets that all workers share; private ones when left out.
        clock: seconds since 1970, which end a key's time.
    """

    def __init__(self, path: Path, rates: Rates | None = None, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.rates = rates if rates is not None else Rates()
        self.clock = clock
        self.stamp = (0, 0)
        self.found: dict[str, list[Key]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the file if it changed. Raises as `read_keys`."""
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = (-1, -1)  # the reading says what is wrong
        if stamp == self.stamp:
            return
        found: dict[str, list[Key]] = {}
        for key in read_keys(self.path):
            found.setdefault(key.prefix, []).append(key)
        self.found, self.stamp = found, stamp

    def check(self, headers: dict[bytes, bytes], scope: Scope = "predict", address: str = "") -> Key:
        """The key in `Authorization: Bearer` or `X-API-Key`.

        Args:
            headers: of the request.
            scope: what the key must be good for.
            address: where the request comes from; wrong keys are counted by it.

        Raises:
            HttpError: 401, without detail, for a key that is not known or no longer; 403 when it is good for less;
                429 when it asks too often, or when too many wrong keys came from the address.
        """
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        text = given.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        key = self.known(text)
        if key is None:
            # A right key is never kept out by the wrong ones of others at its address, which may be a proxy's.
            wait = self.rates.take(identity(f"failures {address}"), FAILURES_PER_MINUTE)
            if wait:
                raise HttpError(429, "too many wrong keys", retry_after=math.ceil(wait), close=True)
            raise HttpError(401, UNAUTHORIZED, headers=((b"www-authenticate", b"Bearer"),))
        if scope == "admin" and key.scope != "admin":
            raise HttpError(403, "this needs a key with the scope admin")
        if key.per_minute and (wait := self.rates.take(key.bucket, key.per_minute)):
            detail = f"this key may ask {key.per_minute} times a minute"
            raise HttpError(429, detail, retry_after=math.ceil(wait))
        return key

    def known(self, text: bytes) -> Key | None:
        actual = hashlib.sha256(text).hexdigest()
        found = None
        for key in self.found.get(text[:PREFIX].decode("latin-1"), (NO_KEY,)):
            if hmac.compare_digest(actual, key.hash) and self.clock() < key.until:
                found = key
        return found


NO_KEY = Key("", "", NOBODY)
"""What an unknown key is compared with, so that it takes as long as a wrong one."""


def create_key(path: Path, name: str, scope: str = "predict", per_minute: int = 0, until: float = math.inf) -> str:
    """A new 256-bit key, whose hash is appended to the file (mode 0600). The key itself is kept nowhere.

    Raises:
        UsageError: the name, the scope or the rate is off.
    """
    key, text = new_key(name, checked_scope(scope, "scope"), per_minute, until)
    path.touch(mode=0o600)
    with holding(path.parent), path.open("r+", encoding="utf-8") as file:
        content = file.read()
        file.write(("\n" if content and not content.endswith("\n") else "") + key.line + "\n")
    return text


def new_key(name: str, scope: Scope, per_minute: int, until: float) -> tuple[Key, str]:
    if not name.isidentifier():
        raise UsageError(f"{name!a} is not a name for a key", fix="use letters, digits and underscores")
    check_rate(per_minute, "per-minute")
    text = secrets.token_urlsafe(32)
    return Key(name, text[:PREFIX], hashlib.sha256(text.encode()).hexdigest(), scope, per_minute, until), text


def rotate_key(path: Path, name: str, overlap_seconds: float, clock: Callable[[], float] = time.time) -> str:
    """A successor to the newest key of a name, with its scope and rate; the older ones end after the overlap.

    Raises:
        NotFoundError: the file has no key of that name.
    """
    with holding(path.parent):
        keys = read_keys(path)
        newest = next((key for key in reversed(keys) if key.name == name), None)
        if newest is None:
            raise no_such_key(path, name)
        key, text = new_key(name, newest.scope, newest.per_minute, math.inf)
        end = clock() + overlap_seconds
        rewrite(path, lambda old: replace(old, until=min(old.until, end)) if old.name == name else old, key)
    return text


def revoke_keys(path: Path, name: str) -> int:
    """Take all keys of a name out of the file; how many they were. Raises NotFoundError when there is none."""
    with holding(path.parent):
        count = sum(key.name == name for key in read_keys(path))
        if not count:
            raise no_such_key(path, name)
        rewrite(path, lambda old: None if old.name == name else old)
    return count


def no_such_key(path: Path, name: str) -> NotFoundError:
    return NotFoundError(f"there is no key named {name!a}", where=str(path), fix=f"budwood keys list {path}")


def rewrite(path: Path, change: Callable[[Key], Key | None], *more: Key) -> None:
    """Replace the file by one with changed lines; comments stay where they are."""
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        old = parse(line, path, number)
        new = None if old is None else change(old)
        lines += [line] if old is None or new is old else [new.line] if new is not None else []
    mode = path.stat().st_mode & 0o777
    write_atomic(path, ("\n".join([*lines, *(key.line for key in more)]) + "\n").encode())
    path.chmod(mode)
