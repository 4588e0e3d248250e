"""The disk is full at the k-th write, sync or rename, for every k: the old state or the new one, never a half."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from budwood.core.bundle import Bundle
from budwood.core.commit import STAGING
from budwood.core.errors import StorageError
from budwood.core.store import Store


class Disk:
    """Counts what reaches the disk and is full at the k-th time, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> None:
        self.left = 0
        self.code = code
        for name in ("fsync", "mkdir", "rename", "replace"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        self.open = io.open
        monkeypatch.setattr(io, "open", self.opened)

    def tick(self) -> None:
        self.left -= 1
        if not self.left:
            raise OSError(self.code, os.strerror(self.code))

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            self.tick()
            return call(*arguments, **options)

        return wrapper

    def opened(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        result = self.open(file, mode, *arguments, **options)
        return Writer(result, self) if set(mode) & set("wxa") else result


class Writer:
    """An open file whose writes count."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self.file = file
        self.disk = disk

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: Any) -> Any:
        self.disk.tick()
        return self.file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def every_fault(disk: Disk, prepare: Callable[[int], Callable[[], object]], check: Callable[[int], None]) -> int:
    """Run what `prepare` gives with a fault at the first, second, … operation until it ends well."""
    for k in range(1, 200):
        action = prepare(k)
        disk.left = k
        problem = outcome(action)
        if disk.left > 0:  # the fault was not reached
            disk.left = 0
            return k - 1
        assert problem in (None, "the disk is full")  # None: a folder was there already, so its mkdir did not matter
        check(k)
        action()
        check(k)
    raise AssertionError("it never ended well")


def outcome(action: Callable[[], object]) -> str | None:
    try:
        action()
    except StorageError as error:
        return error.cause
    return None


def leftovers(folder: Path) -> list[Path]:
    return [*folder.rglob(f"{STAGING}*")]


def test_creating_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)

    def prepare(k: int) -> Callable[[], object]:
        final = tmp_path / "store" / str(k) / "b"
        return lambda: Bundle.open(final) if final.exists() else tiny.small_bundle(final)

    def check(k: int) -> None:
        final = tmp_path / "store" / str(k) / "b"
        assert not leftovers(tmp_path)
        if final.exists():
            Bundle.open(final)

    assert every_fault(disk, prepare, check) >= 12


def test_copying_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.small_bundle(tmp_path / "source")
    disk = Disk(monkeypatch)

    def prepare(k: int) -> Callable[[], object]:
        final = tmp_path / "copies" / str(k)
        return lambda: final.exists() or source.copy(final)

    def check(k: int) -> None:
        final = tmp_path / "copies" / str(k)
        assert not leftovers(tmp_path)
        assert not final.exists() or Bundle.open(final).id == source.id

    assert every_fault(disk, prepare, check) >= 9


def check_store(store: Store, least: int) -> None:
    assert not leftovers(store.root)
    assert not [item for item in store.list() if item.problem]
    for version in store.versions("tickets"):
        store.resolve(f"tickets:{version}")
    if store.versions("tickets"):
        assert {*store.aliases("tickets").values()} <= {*store.versions("tickets")}
    assert len(store.versions("tickets")) >= least


def test_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.small_bundle(tmp_path / "source")
    disk = Disk(monkeypatch)

    def prepare(k: int) -> Callable[[], object]:
        return lambda: Store(tmp_path / f"store-{k}").publish("tickets", source)

    assert every_fault(disk, prepare, lambda k: check_store(Store(tmp_path / f"store-{k}"), 0)) >= 14
    disk.left = 0
    store = Store(tmp_path / "store-1")
    assert store.aliases("tickets") == {"live": 1}


def test_moving_an_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.small_bundle(tmp_path / "source")
    store = Store(tmp_path / "store")
    for _ in range(2):
        store.publish("tickets", source)
    disk = Disk(monkeypatch)

    def prepare(k: int) -> Callable[[], object]:
        disk.left = 0
        store.promote("tickets", 1)
        return lambda: store.promote("tickets", 2)

    def check(k: int) -> None:
        check_store(store, 2)
        assert store.aliases("tickets")["live"] in (1, 2)

    assert every_fault(disk, prepare, check) >= 4


def test_keeping_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = tiny.splits()
    disk = Disk(monkeypatch)

    def prepare(k: int) -> Callable[[], object]:
        return lambda: Store(tmp_path / str(k)).save_splits(splits)

    def check(k: int) -> None:
        kept = tmp_path / str(k) / ".datasets" / splits.fingerprint
        assert not leftovers(tmp_path)
        if kept.exists():
            assert Store(tmp_path / str(k)).load_splits(splits.fingerprint) == splits

    assert every_fault(disk, prepare, check) >= 12


@pytest.mark.parametrize(("code", "cause"), [(errno.EROFS, "read-only"), (errno.EIO, "fails"), (errno.EDQUOT, "quota")])
def test_other_faults_of_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, cause: str) -> None:
    disk = Disk(monkeypatch, code)
    disk.left = 4
    with pytest.raises(StorageError, match=cause):
        tiny.small_bundle(tmp_path / "b")
    assert not os.listdir(tmp_path)
