"""Crash-safe commits: after `kill -9` at any moment a folder or a pointer file is the old one or the new one.

Order of a folder's commit: stage on the same file system, fsync each file, fsync each folder, rename, fsync the parent.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from budwood.core.errors import BudwoodError, StorageError, UsageError

__all__ = ["STAGING", "locked", "make_parents", "remove_folder", "staged", "sweep", "write_atomic"]

STAGING = ".staging-"
"""Prefix of folders and files that are not committed yet; readers ignore them."""


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Every file first, then every folder, the deepest first."""
    folders: list[Path] = []
    for root, _, names in os.walk(folder, topdown=False):
        folders.append(Path(root))
        for name in names:
            fsync(Path(root) / name)
    for path in folders:
        fsync(path)


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; when the block ends well it becomes `final`, otherwise it is removed.

    Raises:
        UsageError: `final` already exists; nothing is ever overwritten.
        StorageError: the disk is full, read-only or fails; nothing is left behind.
    """
    with explained(final):
        make_parents(final.parent)
        refuse_existing(final)
        stage = staging_name(final.parent)
        stage.mkdir()
        try:
            with holding(stage):
                yield stage
                fsync_tree(stage)
                refuse_existing(final)
                rename(stage, final)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        fsync(final.parent)


def make_parents(folder: Path) -> None:
    """Make a folder and those above it, and sync each new name, so that a commit below cannot vanish with them.

    Raises:
        StorageError: the disk is full, read-only or fails.
    """
    missing = [folder, *folder.parents]
    missing = missing[: next((i for i, path in enumerate(missing) if path.is_dir()), len(missing))]
    with explained(folder):
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            fsync(path.parent)


def remove_folder(folder: Path) -> None:
    """Delete a committed folder: it vanishes at once, and what a killed process leaves is swept later."""
    gone = staging_name(folder.parent)
    with explained(folder):
        folder.rename(gone)
        shutil.rmtree(gone)
        fsync(folder.parent)


def staging_name(parent: Path) -> Path:
    return parent / f"{STAGING}{os.getpid()}-{uuid.uuid4().hex[:8]}"


def rename(stage: Path, final: Path) -> None:
    """Rename, where another process may have taken the name since it was looked at."""
    try:
        stage.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise existing(final) from error
        raise


def refuse_existing(final: Path) -> None:
    if os.path.lexists(final):
        raise existing(final)


def existing(final: Path) -> UsageError:
    return UsageError(f"{final.name} already exists", where=str(final), fix="choose another name, or remove it first")


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a small file so that readers see the old content or the new content, never a part.

    Raises:
        StorageError: the disk is full, read-only or fails; the old content is still there.
    """
    with explained(path):
        make_parents(path.parent)
        stage = staging_name(path.parent)
        try:
            with stage.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                stage.replace(path)
        except BaseException:
            stage.unlink(missing_ok=True)
            raise
        fsync(path.parent)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say plainly what a failing disk did to a commit."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise StorageError(DISK_FAULTS[error.errno], where=str(path), fix=f"df -h {path.parent}") from error


DISK_FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk fails",
}


def sweep(parent: Path) -> None:
    """Remove what killed processes left behind in `parent`: staging entries whose process is gone."""
    if not parent.is_dir():
        return
    for entry in parent.iterdir():
        if entry.name.startswith(STAGING) and abandoned(entry):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def abandoned(entry: Path) -> bool:
    """Whether no process works on a staging entry: it is gone, and so is its lock, were it in another container."""
    if alive(entry.name.removeprefix(STAGING).split("-")[0]):
        return False
    try:
        with holding(entry):
            return True
    except (BudwoodError, OSError):
        return not entry.exists() or entry.is_symlink()


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL)
"""What file systems without locks for folders answer; there the process number alone protects a staging folder."""


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold the lock of an existing file or folder. Raises UsageError at once when another process has it."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{path.name} is in use by another process", where=str(path)) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`. It is freed when the block ends or the process dies; the file stays.

    Args:
        wait: wait for another holder; otherwise refuse at once and name its process.

    Raises:
        UsageError: another process holds it and `wait` is False.
    """
    make_parents(path.parent)
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
            raise UsageError(
                f"the same work is being done by process {holder}",
                where=str(path),
                fix=f"wait for it, or: kill {holder}",
            ) from error
        with explained(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
