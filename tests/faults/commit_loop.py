"""Processes for the fault tests of the store: run `python commit_loop.py MODE STORE COUNT SEED`.

They live outside the test process, because they fork and are killed; each prints one line of JSON.
"""

import json
import os
import random
import signal
import sys
import time
from itertools import count
from pathlib import Path

import tiny

from budwood.core.bundle import Bundle
from budwood.core.commit import STAGING
from budwood.core.errors import NotFoundError
from budwood.core.store import Store

NAME = "tickets"


def change(store: Store, source: Bundle, turn: int, *, remove: bool) -> None:
    """Publish, promote, roll back, remove old versions, keep data: once each."""
    store.publish(NAME, source)
    versions = store.versions(NAME)
    store.promote(NAME, random.choice(versions[-3:]))
    store.promote(NAME, versions[-1], "candidate")
    try:
        store.rollback(NAME)
    except NotFoundError:
        store.promote(NAME, versions[-1])
    kept = {*store.aliases(NAME).values(), *versions[-3:]}
    for version in versions:
        if remove and version not in kept:
            store.remove(NAME, version)
    store.save_splits(tiny.splits(seed=turn, repeats=3 + turn % 5))


def work(store: Store, source: Bundle, seed: int, *, remove: bool) -> None:
    """Change the store without end."""
    random.seed(seed)
    for turn in count(seed):
        change(store, source, turn, remove=remove)


def problems(store: Store) -> list[str]:
    """What is not as a store must be at any moment; it raises where even reading fails."""
    found = [f"{item.name}:{item.version} {item.problem}" for item in store.list() if item.problem]
    for version in store.versions(NAME):
        store.resolve(f"{NAME}:{version}")
    for alias in store.aliases(NAME) if store.versions(NAME) else ():
        store.resolve(f"{NAME}@{alias}")
    for entry in (store.root / ".datasets").glob("[!.]*"):
        store.load_splits(entry.name)
    return found


def kill(root: Path, times: int, seed: int) -> dict[str, object]:
    """Fork a worker, kill it at a random moment, look at the store; again and again."""
    store = Store(root)
    source = tiny.small_bundle(root / ".work" / "source")
    generator = random.Random(seed)
    found: list[str] = []
    interrupted = 0
    start = time.monotonic()
    change(store, source, 0, remove=True)
    usual = time.monotonic() - start  # so that the kills hit every part of a change, on a slow machine too
    for turn in range(times):
        pid = os.fork()
        if not pid:
            try:
                work(store, source, seed + turn, remove=True)
            finally:
                os._exit(1)  # a worker never ends by itself: reported as a problem below
        time.sleep(generator.uniform(0.0, 1.5 * usual))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            found.append(f"worker {turn} ended by itself")
        interrupted += any(entry.name.startswith(STAGING) for entry in root.rglob(f"{STAGING}*"))
        found += problems(store)
    store.publish(NAME, source)
    store.save_splits(tiny.splits())
    left = [str(path) for path in root.rglob(f"{STAGING}*")]
    return {"problems": found, "interrupted": interrupted, "newest": store.versions(NAME)[-1], "left": left}


def read(root: Path, times: int, seed: int) -> dict[str, object]:
    """Read all that there is, many times, while a worker publishes and moves aliases."""
    store = Store(root)
    source = tiny.small_bundle(root / ".work" / "source")
    first = store.publish(NAME, source).version
    pid = os.fork()
    if not pid:
        try:
            work(store, source, seed, remove=False)
        finally:
            os._exit(1)
    try:
        seen = set()
        for _ in range(times):
            for reference in (NAME, f"{NAME}@live"):
                seen.add(store.resolve(reference).version)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {"problems": problems(store), "seen": len(seen), "first": first}


def publish(root: Path, times: int, seed: int) -> dict[str, object]:
    """Publish a number of times, as fast as possible."""
    source = tiny.small_bundle(root / ".work" / f"source-{seed}")
    return {"versions": [Store(root).publish(NAME, source).version for _ in range(times)]}


if __name__ == "__main__":
    mode, place, times, seed = sys.argv[1:]
    print(json.dumps({"kill": kill, "read": read, "publish": publish}[mode](Path(place), int(times), int(seed))))
