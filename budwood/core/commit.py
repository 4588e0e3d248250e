"""Crash-safe commits: after `kill -9` at any moment a folder or a pointer file is the old one or the new one.

Order of a folder's commit: stage on the same file system, fsync each file, fsync each folder, rename, fsync the parent.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from budwood.core.errors import UsageError

__all__ = ["STAGING", "staged", "sweep", "write_atomic"]

STAGING = ".staging-"
"""Prefix of folders and files that are not committed yet; readers ignore them."""


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync(Path(root) / name)
        fsync(Path(root))


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; when the block ends well it becomes `final`, otherwise it is removed.

    Raises:
        UsageError: `final` already exists; nothing is ever overwritten.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    refuse_existing(final)
    stage = final.parent / f"{STAGING}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    stage.mkdir()
    try:
        yield stage
        fsync_tree(stage)
        refuse_existing(final)
        os.rename(stage, final)
        fsync(final.parent)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def refuse_existing(final: Path) -> None:
    if os.path.lexists(final):
        raise UsageError(f"{final.name} already exists", where=str(final), fix="choose another name, or remove it first")


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a small file so that readers see the old content or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.parent / f"{STAGING}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        with stage.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(stage, path)
        fsync(path.parent)
    except BaseException:
        stage.unlink(missing_ok=True)
        raise


def sweep(parent: Path) -> None:
    """Remove what killed processes left behind in `parent`: staging entries whose process is gone."""
    if not parent.is_dir():
        return
    for entry in parent.iterdir():
        if entry.name.startswith(STAGING) and not alive(entry.name.removeprefix(STAGING).split("-")[0]):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
