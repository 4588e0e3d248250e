"""What has to be installed to serve: this Budwood as a wheel, and the exact versions of everything that it needs.

Use it to write folders from which a server is installed elsewhere. It reads what is installed here and asks no index.
"""

import base64
import hashlib
import re
import zipfile
from collections.abc import Collection, Iterator
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from budwood.core.errors import BudwoodError

__all__ = ["requirements", "write_wheel"]

PACKAGE = "budwood"
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?", re.DOTALL)
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}", re.ASCII)
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the wheel, so that equal code gives equal bytes."""


def requirements(extras: Collection[str] = ()) -> list[str]:
    """`NAME==VERSION` of all that Budwood needs to serve, as installed here, sorted; without Budwood itself.

    Args:
        extras: of Budwood, such as `chem`.

    Raises:
        BudwoodError: something that is needed is not installed, or its version cannot be written down.
    """
    found: dict[str, str] = {}
    waiting = [(PACKAGE, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name == PACKAGE:
                raise not_installed(name) from None
            continue  # its marker names another platform: what runs here is what is written down
        found[name] = checked(name, distribution.version)
        waiting += needed(distribution.requires or (), wanted)
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != PACKAGE]


def needed(lines: Collection[str], wanted: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Name and extras of each requirement that holds with the wanted extras."""
    for line in lines:
        matched = REQUIREMENT.match(line)
        if matched is None:
            continue
        name, extras, marker = matched.groups()
        asked = EXTRA.search(marker or "")
        if asked is None or asked[1] in wanted:
            plain = re.sub(r"[-_.]+", "-", name).lower()
            yield plain, frozenset(part.strip() for part in (extras or "").split(",") if part.strip())


def checked(name: str, version: str) -> str:
    """A version of which nothing but a version can be read, wherever it is put."""
    if VERSION.fullmatch(version) is None:
        raise BudwoodError(f"{version!a} is no version", where=name, fix="install it from a package index")
    return version.partition("+")[0] if name != PACKAGE else version


def not_installed(name: str) -> BudwoodError:
    return BudwoodError(f"{name} is not installed as a package here", where=name, fix="pip install budwood")


def write_wheel(folder: Path) -> Path:
    """Write the package that runs now as a wheel; equal code gives equal bytes. Raises BudwoodError."""
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise not_installed(PACKAGE) from None
    version = checked(PACKAGE, distribution.version)
    info = f"{PACKAGE}-{version}.dist-info"
    content = {f"{PACKAGE}/{name}": data for name, data in sorted(package_files(files(PACKAGE)))}
    content[f"{info}/METADATA"] = (distribution.read_text("METADATA") or "").encode()
    content[f"{info}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: budwood\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},sha256={digest(data)},{len(data)}\n" for name, data in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{PACKAGE}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, FIRST_DAY)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return path


def package_files(folder: Traversable, before: str = "") -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each file of the package."""
    for item in folder.iterdir():
        if item.is_dir() and item.name != "__pycache__":
            yield from package_files(item, f"{before}{item.name}/")
        elif item.is_file() and not item.name.endswith((".pyc", ".pyo")):
            yield before + item.name, item.read_bytes()


def digest(data: bytes) -> str:
    """A SHA-256 as RECORD files spell it: base64 for addresses, without padding (PEP 376)."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
