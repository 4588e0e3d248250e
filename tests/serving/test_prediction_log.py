"""The prediction log: what it keeps, for how long, that it never blocks an answer, and that workers share one file."""

import hashlib
import json
import multiprocessing
import os
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import served

from budwood.core.errors import UsageError
from budwood.serving import prediction_log
from budwood.serving.journal import DAY, Entry, Journal, prepare
from budwood.serving.model import Model, Served, open_model
from budwood.serving.monitor import CLASS, key_of
from budwood.serving.prediction_log import LogOptions, PredictionLog

TEXT = "Where is my parcel?"


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    opened = open_model(Served("tiny", "1", served.null_bundle(tmp_path / "bundle")), 0, "null", 4)
    yield opened
    opened.predictor.close()


def entry(number: int, age_days: float = 0.0, size: int = 10) -> Entry:
    when = time.time() - age_days * DAY
    return Entry(f"id-{number}", 0, when, "m", "1", CLASS, '"a"', 0.9, 1.0, None, "x" * size)


def note(log: PredictionLog, model: Model, request_id: str) -> None:
    log.note(request_id, 0, model, CLASS, {"text": TEXT}, {"label": "a", "score": 0.9, "scores": {"a": 0.9}}, 0.0015)


def rows(path: Path) -> list[tuple[object, ...]]:
    with Journal(path) as journal:
        return journal.connection.execute("SELECT * FROM predictions ORDER BY time").fetchall()


def test_a_server_logs_answers_without_inputs(tmp_path: Path) -> None:
    with served.start_null(tmp_path / "bundle", log=LogOptions(tmp_path)) as handle:
        reply = httpx.post(f"{handle.url}/predict", json={"inputs": [TEXT, served.POISON, "Thank you"]})
        before = time.time()
    found = rows(tmp_path / "predictions.sqlite")
    first = reply.json()["outputs"][0]
    assert [(row[0], row[1]) for row in found] == [(reply.headers["x-request-id"], place) for place in (0, 2)]
    assert found[0][3:8] == ("tiny", "1", CLASS, json.dumps(first["label"]), first["score"])
    assert before - 60 < found[0][2] <= before  # type: ignore[operator]
    assert found[0][8] > 0  # type: ignore[operator]
    assert found[0][9:] == (None, None)
    assert TEXT.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("predictions*"))


@pytest.mark.parametrize(("inputs", "kept"), [("hash", None), ("all", TEXT)])
def test_inputs_are_kept_where_that_is_asked_for(tmp_path: Path, model: Model, inputs: str, kept: str | None) -> None:
    options = LogOptions(tmp_path / "log", inputs=inputs)
    prepare(options.file)
    log = PredictionLog(options, lambda name, n: None)
    note(log, model, "one")
    log.close()
    (row,) = rows(options.file)
    assert row[9] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert row[10] == kept


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch(0o644)
    prepare(path)
    with Journal(path) as journal:
        journal.write([entry(1)])
        modes = {stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()}
    assert modes == {0o600}


def test_other_files_are_refused(tmp_path: Path) -> None:
    text, other, link = tmp_path / "text", tmp_path / "other.sqlite", tmp_path / "link"
    text.write_text("not a database, but long enough to be taken for one" * 20)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    link.symlink_to(tmp_path / "elsewhere")
    for path in (text, other, link, tmp_path / "none" / "log"):
        with pytest.raises(UsageError) as caught:
            prepare(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize(
    "off", [{"sample": 0.0}, {"sample": 1.5}, {"inputs": "some"}, {"days": 0.0}, {"megabytes": float("nan")}]
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, off: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        LogOptions(tmp_path, **off)  # type: ignore[arg-type]


def test_a_sample_is_chosen_by_the_request(tmp_path: Path, model: Model) -> None:
    options = LogOptions(tmp_path / "log", sample=0.25)
    prepare(options.file)
    log = PredictionLog(options, lambda name, n: None)
    names = [f"request-{i}" for i in range(800)]
    for name in names:
        note(log, model, name)
    log.close()
    found = {row[0] for row in rows(options.file)}
    assert found == {name for name in names if key_of(name) < 0.25 * 2**52}
    assert 140 <= len(found) <= 260


def test_a_full_queue_drops_and_counts(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "ROOM", 5)
    monkeypatch.setattr(prediction_log, "PAUSE_SECONDS", 60.0)
    counts: Counter[str] = Counter()
    options = LogOptions(tmp_path / "log")
    prepare(options.file)
    log = PredictionLog(options, lambda name, n: counts.update({name: n}))
    for i in range(8):
        note(log, model, str(i))
    log.close()
    assert counts == {"log_entries_dropped": 3, "log_entries_written": 5}
    assert len(rows(options.file)) == 5


def test_inputs_that_wait_are_bounded_by_their_size(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "ROOM_BYTES", 3 * len(TEXT))
    monkeypatch.setattr(prediction_log, "PAUSE_SECONDS", 60.0)
    counts: Counter[str] = Counter()
    for inputs, dropped in (("all", 2), ("off", 0)):
        counts.clear()
        options = LogOptions(tmp_path / inputs, inputs=inputs)
        prepare(options.file)
        log = PredictionLog(options, lambda name, n: counts.update({name: n}))
        for i in range(5):
            note(log, model, str(i))
        log.close()
        assert (counts["log_entries_dropped"], len(rows(options.file))) == (dropped, 5 - dropped)
        assert log.taken_in == log.taken_out


def test_an_entry_that_cannot_be_written_does_not_end_the_log(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prediction_log, "PAUSE_SECONDS", 0.01)
    counts: Counter[str] = Counter()
    options = LogOptions(tmp_path / "log", inputs="all")
    prepare(options.file)
    log = PredictionLog(options, lambda name, n: counts.update({name: n}))
    secret = "secret \ud800"  # no encoding has it
    log.note("odd", 0, model, CLASS, {"text": secret}, {"label": "a", "score": 0.9, "scores": {}}, 0.001)
    wait_until(lambda: counts["log_entries_failed"] == 1)
    note(log, model, "later")
    log.close()
    assert [row[0] for row in rows(options.file)] == ["later"]
    assert "UnicodeEncodeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_log_that_cannot_be_written_stops_nobody(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prediction_log, "PAUSE_SECONDS", 0.01)
    counts: Counter[str] = Counter()
    options = LogOptions(tmp_path / "log")
    prepare(options.file)
    full = True

    def write(journal: Journal, entries: list[Entry]) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        plain(journal, entries)

    plain = Journal.write
    monkeypatch.setattr(Journal, "write", write)
    log = PredictionLog(options, lambda name, n: counts.update({name: n}))
    for i in range(2):
        note(log, model, str(i))
        wait_until(lambda expected=i + 1: counts["log_entries_failed"] == expected)
    full = False
    note(log, model, "later")
    log.close()
    assert [row[0] for row in rows(options.file)] == ["later"]
    assert counts["log_entries_written"] == 1
    assert caplog.text.count("database or disk is full") == 1  # once a minute


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_disk_that_is_full_breaks_no_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    prepare(path)
    with Journal(path) as journal:
        journal.write([entry(0)])
        journal.connection.execute(f"PRAGMA max_page_count = {journal.pragma('page_count') + 2}")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            journal.write([entry(i, size=10_000) for i in range(1, 10)])
        journal.connection.execute("PRAGMA max_page_count = 100000")
        journal.write([entry(99)])
        assert journal.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [row[0] for row in rows(path)] == ["id-0", "id-99"]


def write_many(path: Path, worker: int) -> None:
    with Journal(path) as journal:
        for batch in range(20):
            journal.write([entry(worker * 10_000 + batch * 10 + i) for i in range(10)])


def test_workers_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    prepare(path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(path, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len({row[0] for row in rows(path)}) == 400


def test_old_and_large_logs_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    prepare(path)
    with Journal(path) as journal:
        journal.write([entry(i, age_days=40 - i) for i in range(40)])
        journal.prune(days=10.5, megabytes=1000)
        assert [row[0] for row in rows(path)] == [f"id-{i}" for i in range(30, 40)]
        journal.write([entry(100 + i, age_days=-i / 1e5, size=20_000) for i in range(200)])
        assert journal.megabytes() > 4
        journal.prune(days=10.5, megabytes=2)
        assert journal.megabytes() <= 2
        kept = [row[0] for row in rows(path)]
        assert kept[-1] == "id-299"
        assert 50 < len(kept) < 120
        journal.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert os.path.getsize(path) < 2.5e6


def test_labels_of_tasks_are_written_as_json() -> None:
    said = prediction_log.said
    assert said({"label": "a"}) == '"a"'
    assert said({"labels": ["a", "b"], "scores": {}}) == '["a", "b"]'
    assert said({"objects": [{"label": "b"}, {"label": "a"}, {"label": "b"}]}) == '["a", "b"]'
    assert said({"value": 2.5}) == "2.5"
    assert said({"properties": {"first": {"value": 1.0}, "second": {"value": 2.0}}}) == "1.0"
    assert said({"text": "secret", "tokens": 3}) is None


def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Something else\n" * 100)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="file is not a database"):
        prepare(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_log_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "log"
    prepare(path)
    path.chmod(0o644)
    prepare(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
