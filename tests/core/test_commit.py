"""Commits: the order of syncs, names that are taken, locks, and what killed processes leave behind."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny

from budwood.core.commit import STAGING, locked, staged, sweep, write_atomic
from budwood.core.errors import StorageError, UsageError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order."""
    seen: list[tuple[str, str]] = []
    sync, rename, replace = os.fsync, os.rename, os.replace

    def record_sync(handle: int) -> None:
        seen.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", lambda a, b: (seen.append(("rename", f"{a} {b}")), rename(a, b)))
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(("replace", f"{a} {b}")), replace(a, b)))
    return seen


def test_files_then_folders_then_rename_then_parent(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    with staged(tmp_path / "final") as stage:
        (stage / "sub" / "deeper").mkdir(parents=True)
        for name in ("a", "sub/b", "sub/deeper/c"):
            (stage / name).write_text(name)
        assert not calls
    kinds = [kind for kind, _ in calls]
    paths = [path.replace(str(stage), "S").replace(str(tmp_path), "P") for _, path in calls]
    assert kinds == ["fsync"] * 6 + ["rename", "fsync"]
    assert sorted(paths[:3]) == ["S/a", "S/sub/b", "S/sub/deeper/c"]
    assert paths[3:6] == ["S/sub/deeper", "S/sub", "S"]
    assert paths[6:] == ["S P/final", "P"]


def test_a_whole_bundle_is_synced_before_it_appears(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    tiny.small_bundle(tmp_path / "b")
    names = [path.rsplit("/", 1)[-1] for _, path in calls]
    assert {*names[:3]} == {"config.json", "README.md", "bundle.json"}
    assert names[3].startswith(STAGING)
    assert [kind for kind, _ in calls][4:] == ["rename", "fsync"]
    assert calls[-1][1] == str(tmp_path)


def test_a_new_parent_folder_is_synced_too(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    write_atomic(tmp_path / "a" / "b" / "pointer", b"x")
    assert [path for kind, path in calls if kind == "fsync"][:2] == [str(tmp_path), str(tmp_path / "a")]


def test_a_pointer_is_synced_replaced_and_its_folder_synced(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    (tmp_path / "pointer").write_bytes(b"old")
    write_atomic(tmp_path / "pointer", b"new")
    assert [kind for kind, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0][1].startswith(str(tmp_path / STAGING))
    assert calls[2][1] == str(tmp_path)
    assert (tmp_path / "pointer").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["pointer"]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    final = tmp_path / "final"
    {"folder": final.mkdir, "file": final.touch, "dangling link": lambda: final.symlink_to("nowhere")}[kind]()
    with pytest.raises(UsageError, match="already exists"), staged(final):
        pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == ["final"]


def commit_two(final: Path) -> None:
    with staged(final) as stage:
        (stage / "mine").touch()
        with staged(final) as other:
            (other / "theirs").touch()


def test_a_name_that_is_taken_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already exists"):
        commit_two(tmp_path / "final")
    assert os.listdir(tmp_path) == ["final"]
    assert os.listdir(tmp_path / "final") == ["theirs"]


def test_a_name_that_is_taken_at_the_very_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "theirs").touch()
    monkeypatch.setattr("budwood.core.commit.refuse_existing", lambda path: None)
    with pytest.raises(UsageError, match="already exists"), staged(tmp_path / "final") as stage:
        (stage / "mine").touch()
    assert os.listdir(tmp_path / "final") == ["theirs"]


def fail(final: Path, error: type[BaseException]) -> None:
    with staged(final) as stage:
        (stage / "half").touch()
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail(tmp_path / "final", error)
    assert not os.listdir(tmp_path)


def test_a_link_in_a_staging_folder_is_not_followed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="symbolic"), staged(tmp_path / "final") as stage:
        (stage / "link").symlink_to("/etc/passwd")
    assert not os.listdir(tmp_path)


def test_an_io_error_in_the_block_is_explained(tmp_path: Path) -> None:
    import errno

    with pytest.raises(StorageError, match="disk is full") as caught, staged(tmp_path / "final"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.where == str(tmp_path / "final")
    assert caught.value.fix == f"df -h {tmp_path}"
    with pytest.raises(FileNotFoundError), staged(tmp_path / "final"):
        (tmp_path / "nowhere").read_bytes()


# Sweeping


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_sweep_removes_what_dead_processes_left(tmp_path: Path) -> None:
    pid = dead_process()
    (tmp_path / f"{STAGING}{pid}-aaaa").mkdir()
    (tmp_path / f"{STAGING}{pid}-aaaa" / "half").touch()
    (tmp_path / f"{STAGING}{pid}-bbbb").touch()
    (tmp_path / f"{STAGING}{pid}-cccc").symlink_to(tmp_path)
    (tmp_path / f"{STAGING}nonsense").touch()
    for name in ("1", "aliases.json", ".other"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".other", "1", "aliases.json"]
    sweep(tmp_path / "nowhere")


def test_sweep_leaves_living_processes_alone(tmp_path: Path) -> None:
    with staged(tmp_path / "final") as stage:
        (stage / "a").touch()
        sweep(tmp_path)
        assert stage.is_dir()
    assert (tmp_path / "final" / "a").exists()


def test_sweep_respects_the_lock_of_a_process_that_it_cannot_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budwood.core.commit.alive", lambda pid: False)  # as from another container
    with staged(tmp_path / "final") as stage:
        sweep(tmp_path)
        assert stage.is_dir()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["final"]


# Locks


def test_a_second_holder_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", wait=False):
        with pytest.raises(UsageError, match=f"process {os.getpid()}") as caught, locked(tmp_path / "lock", wait=False):
            pytest.fail("the lock was given twice")
        assert f"kill {os.getpid()}" in caught.value.fix
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_waiting_holder_gets_its_turn(tmp_path: Path) -> None:
    turns: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with locked(tmp_path / "lock"):
            turns.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(tmp_path / "lock"):
        inside.set()
        turns.append("first")
    thread.join()
    assert turns == ["first", "second"]


HOLD = """
import sys
from pathlib import Path
from budwood.core.commit import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_killed_holder_frees_its_lock(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {process.pid}"), locked(tmp_path / "lock", wait=False):
            pytest.fail("the lock was given twice")
        process.kill()
    with locked(tmp_path / "lock", wait=False):
        pass
