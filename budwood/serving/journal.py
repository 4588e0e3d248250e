"""The SQLite file of predictions and of the labels that came later, shared by all workers.

A `Journal` is one connection: open it in the thread that uses it. Write-ahead logging lets workers write to one file.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from budwood.core.errors import UsageError
from budwood.serving.monitor import Kept

__all__ = ["Entry", "Given", "Journal", "Total", "prepare"]

APPLICATION = 0x42554457
"""Marks the file as ours, in its header."""
VERSION = 1
BUSY_SECONDS = 5.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    id TEXT NOT NULL, place INTEGER NOT NULL, time REAL NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    kind INTEGER NOT NULL, prediction TEXT, confidence REAL, ms REAL, input_sha256 TEXT, input BLOB
);
CREATE INDEX IF NOT EXISTS predictions_by_id ON predictions (id, place);
CREATE INDEX IF NOT EXISTS predictions_by_time ON predictions (time);
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT NOT NULL, place INTEGER NOT NULL, time REAL NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    kind INTEGER NOT NULL, prediction TEXT, label TEXT NOT NULL, score REAL NOT NULL, PRIMARY KEY (id, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feedback_by_time ON feedback (time);
"""
DAY = 86_400.0
PART = 10
"""Of a file that is too large the oldest tenth goes, until it fits."""


class Entry(NamedTuple):
    """One line of the log: the columns of `predictions`."""

    id: str
    place: int
    time: float
    model: str
    version: str
    kind: int
    prediction: str | None
    """JSON: a label, a list of labels, a number; None for a text."""
    confidence: float | None
    ms: float
    input_sha256: str | None
    input: str | bytes | None


class Given(NamedTuple):
    """A label that came later: the columns of `feedback`."""

    id: str
    place: int
    time: float
    model: str
    version: str
    kind: int
    prediction: str | None
    label: str
    """JSON."""
    score: float
    """1 or 0 for right or wrong, the F1 of a set of labels, or the absolute error of a number."""


class Total(NamedTuple):
    """What the labels say of one version."""

    model: str
    version: str
    kind: int
    n: int
    sum: float
    squares: float


def prepare(path: Path) -> None:
    """Make the file, readable by its owner only, or see that it is one of ours.

    Raises:
        UsageError: it is something else, or cannot be written.
    """
    try:
        with opened(path):
            pass
        with closing(connect(path)) as connection:
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if tables and (found, version) != (APPLICATION, VERSION):
                raise UsageError("this database is not a prediction log", where=str(path), fix="--log another file")
            if not tables:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                # The mark comes first: another worker may prepare the same file now.
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.executescript(SCHEMA)
        with opened(path) as descriptor:  # only now: a file of somebody else keeps its mode
            os.fchmod(descriptor, 0o600)
    except (OSError, sqlite3.Error) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        fix = "--log FILE, a new one or a log, in a folder that exists"
        raise UsageError(f"the prediction log cannot be opened: {cause}", where=str(path), fix=fix) from error


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of the file itself, never of what a link names; a new file is its owner's alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


class Journal:
    """One connection to the file. All methods raise sqlite3.Error, as when the disk is full."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)
        # A crash of the machine may cost the last seconds, never the file.
        self.connection.execute("PRAGMA synchronous = NORMAL")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def write(self, entries: Sequence[Entry]) -> None:
        """All of them, or none."""
        marks = ", ".join("?" * len(Entry._fields))
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self.connection.executemany(f"INSERT INTO predictions VALUES ({marks})", entries)  # noqa: S608
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # a full disk has ended it already
                self.connection.execute("ROLLBACK")
            raise

    def find(self, request_id: str, place: int) -> Kept | None:
        """The latest prediction of this name."""
        query = "SELECT model, version, kind, prediction FROM predictions WHERE id = ? AND place = ? ORDER BY time DESC"
        row = self.connection.execute(f"{query} LIMIT 1", (request_id, place)).fetchone()
        return Kept(row[0], row[1], row[2], None if row[3] is None else json.loads(row[3])) if row else None

    def given(self, request_id: str, place: int) -> Given | None:
        """The label that came for an answer."""
        query = "SELECT * FROM feedback WHERE id = ? AND place = ?"
        row = self.connection.execute(query, (request_id, place)).fetchone()
        return Given(*row) if row else None

    def give(self, given: Given, *, replace: bool) -> Given:
        """Keep a label, unless there is one and it is not to be replaced. What is there now, whoever came first."""
        marks = ", ".join("?" * len(Given._fields))
        verb = "REPLACE" if replace else "IGNORE"
        self.connection.execute(f"INSERT OR {verb} INTO feedback VALUES ({marks})", given)  # noqa: S608
        return self.given(given.id, given.place) or given

    def totals(self) -> list[Total]:
        query = (
            "SELECT model, version, max(kind), count(*), sum(score), sum(score * score) FROM feedback "
            "GROUP BY model, version"
        )
        return [Total(*row) for row in self.connection.execute(query)]

    def prune(self, days: float, megabytes: float) -> None:
        """Forget what is older, and the oldest predictions while the file is larger."""
        before = time.time() - days * DAY
        for table in ("predictions", "feedback"):
            self.connection.execute(f"DELETE FROM {table} WHERE time < ?", (before,))  # noqa: S608
        while self.megabytes() > megabytes:
            rows = self.connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
            if not rows:
                break
            oldest = "SELECT rowid FROM predictions ORDER BY time LIMIT ?"
            self.connection.execute(f"DELETE FROM predictions WHERE rowid IN ({oldest})", (-(-rows // PART),))  # noqa: S608
        # As a script: `execute` frees one page only.
        self.connection.executescript("PRAGMA incremental_vacuum")
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def megabytes(self) -> float:
        """The size of what is in the file."""
        pages, free, size = (self.pragma(name) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size / 1e6

    def pragma(self, name: str) -> int:
        found: Any = self.connection.execute(f"PRAGMA {name}").fetchone()[0]
        return int(found)
