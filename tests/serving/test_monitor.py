"""What a server says of its traffic: the same traffic is stable, another has drifted, whichever worker answered."""

import asyncio
import time
from collections.abc import Iterator
from ctypes import Array, c_double
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import served
import tiny
import tiny_language
import watched
from prometheus_client.parser import text_string_to_metric_families

from budwood.engine.reference import NONE
from budwood.serving import monitor as monitoring
from budwood.serving.batch import Answered
from budwood.serving.metrics import Board, Described, Layout, Metrics, allocate, make_layout
from budwood.serving.model import Model, Served, describe, open_model
from budwood.serving.monitor import CLASS, CLASSES, NUMBER, Monitor, counted, decoded, edges_of, key_of
from budwood.serving.recent import Records, Ring
from budwood.serving.server import Handle

FOREIGN = ("Quarterly earnings beat forecasts", "zzz qqq xxx 12345 67890 98765 43210")


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    with watched.start_watched(tmp_path_factory.mktemp("watched")) as handle:
        yield handle


def drift(handle: Handle) -> Any:
    return httpx.get(f"{handle.url}/stats").json()["models"][0]["drift"]


def ask(handle: Handle, texts: list[str]) -> None:
    for start in range(0, len(texts), 100):
        httpx.post(f"{handle.url}/predict", json={"inputs": texts[start : start + 100]}).raise_for_status()


def test_the_same_traffic_is_stable_and_another_drifts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "STALE_SECONDS", 0.0)
    with watched.start_watched(tmp_path) as handle:
        assert drift(handle)["verdict"] == "waiting"
        ask(handle, watched.texts(500, seed=1))
        found = drift(handle)
        assert (found["verdict"], found["rows"]) == ("stable", 500)
        assert {test["what"] for test in found["tests"]} >= {"labels", "length", "confidence"}
        ask(handle, watched.texts(700, seed=2, sentences=FOREIGN))
        found = drift(handle)
        assert (found["verdict"], found["rows"]) == ("drifted", 1200)
        assert ": PSI" in found["reason"]
        metrics = httpx.get(f"{handle.url}/metrics").text
    samples = {
        (item.name, item.labels.get("what")): item.value
        for family in text_string_to_metric_families(metrics)
        for item in family.samples
    }
    assert max(samples["budwood_drift_psi", what] for what in ("labels", "length", "confidence")) >= 0.25
    assert samples["budwood_drift_level", None] == 2
    assert samples["budwood_drift_rows", None] == 1200
    assert samples["budwood_confidence_ratio_count", None] == 1200


def test_some_inputs_are_looked_at(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(monitoring, "LOOK_SHARE", 1e9)
    monkeypatch.setattr(monitoring, "STALE_SECONDS", 0.0)
    with httpx.Client(base_url=handle.url) as client:
        for _ in range(20):
            for text in watched.texts(60, seed=3):
                client.post("/predict", json={"text": text}).raise_for_status()
            if "vectors" in {test["what"] for test in drift(handle)["tests"]}:
                break
    tests = {test["what"]: test for test in drift(handle)["tests"]}
    assert tests["vectors"]["method"] == "mmd"
    assert tests["vectors"]["verdict"] == "stable"


def model_of(tmp_path: Path) -> tuple[Model, Served]:
    entry = Served("tiny", "1", watched.bundle(tmp_path))
    return open_model(entry, 0, "onnxruntime", 4), entry


def answer_in_a_worker(layout: Layout, memory: "Array[c_double]", row: int, model: Model, entry: Served) -> None:
    metrics = Metrics(layout, memory, row)
    model = replace(model, index=metrics.claim(describe(entry)))
    monitor = Monitor(metrics, Board(layout, memory))
    answers = [Answered({"label": tiny.LABELS[row], "score": 0.9, "scores": {}}, b"")]
    for i in range(150):
        monitor.note(f"{row}-{i}".encode(), model, [{"text": "Where is it?"}], answers, 0.001)
    monitor.close()


def test_the_answers_of_all_workers_count(tmp_path: Path) -> None:
    model, entry = model_of(tmp_path)
    layout = make_layout([describe(entry)], 2)
    memory = allocate(layout)
    Metrics(layout, memory, 0).claim(Described("another", "1", ()))  # so that the slots differ
    for row in range(2):
        answer_in_a_worker(layout, memory, row, model, entry)
    metrics = Metrics(layout, memory, 2)
    monitor = Monitor(metrics, Board(layout, memory))
    asyncio.run(monitor.refresh([model]))
    found = monitor.drift(model)
    assert found.rows == 300
    assert found.verdict == "drifted"
    kept = monitor.find(key_of("1-149"))
    assert kept is not None
    assert (kept.model, kept.version, kept.kind, kept.prediction) == ("tiny", "1", CLASS, tiny.LABELS[1])
    assert monitor.find(key_of("1-150")) is None


def test_under_load_a_window_covers_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, entry = model_of(tmp_path)
    layout = make_layout([describe(entry)], 1)
    memory = allocate(layout)
    metrics = Metrics(layout, memory, 0)
    metrics.claim(describe(entry))
    monitor = Monitor(metrics, Board(layout, memory))
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    answers = [Answered({"label": tiny.LABELS[0], "score": 0.9, "scores": {}}, b"")]
    for _ in range(5000):
        monitor.note(b"x", model, [{"text": "Where is it?"}], answers, 0.001)
    ring = monitor.of(model).answers
    assert ring.count == ring.records.room
    for _ in range(1000):
        now += 0.001
        monitor.note(b"x", model, [{"text": "Where is it?"}], answers, 0.001)
    assert ring.count == pytest.approx(ring.records.room + 10, abs=1)
    assert len(monitor.window(monitor.board.find("tiny", "1"), monitor.of(model)).numbers["length"]) == 2048
    now += monitoring.OLDEST_SECONDS
    assert monitor.window(monitor.board.find("tiny", "1"), monitor.of(model)).rows == 0
    monitor.close()


def test_a_ring_keeps_the_latest_records_and_goes_on_after_a_restart() -> None:
    memory = memoryview(bytearray(8 * 20)).cast("d")
    records = Records(("a", "b"), 3)
    ring = Ring(records, memory, 2)
    assert ring.read().shape == (0, 2)
    for i in range(4):
        ring.append(i, -i)
    assert sorted(ring.read()[:, 0]) == [1, 2, 3]
    again = Ring(records, memory, 2)
    again.append(9, 9)
    assert sorted(again.read()[:, 0]) == [2, 3, 9]
    assert memory[2 + records.cells] == 0


def test_predictions_are_kept_as_numbers() -> None:
    labels = ("a", "b", "c")
    assert decoded(CLASS, 1.0, labels) == "b"
    assert decoded(CLASSES, 5.0, labels) == ["a", "c"]
    assert decoded(NUMBER, 2.5, ()) == 2.5
    predictions = np.asarray([5.0, 1.0, 0.0, np.nan])
    assert counted(predictions, CLASSES, labels) == {"a": 2, "c": 1, NONE: 1}
    assert counted(predictions[1:], CLASS, labels) == {"a": 1, "b": 1}
    assert counted(predictions, NUMBER, ()) == {}
    many = [str(i) for i in range(80)]
    assert counted(predictions, CLASSES, many[:52]) == {"0": 2, "2": 1, NONE: 1}
    assert counted(predictions, CLASSES, many) == {}  # as of a detector: answers with label 60 would be missing


def test_edges_are_deciles_of_what_was_answered_before() -> None:
    assert edges_of({}) == ()
    assert edges_of({"samples": {"value": [1.0] * 5}}) == ()
    assert edges_of({"samples": {"value": [1.0] * 50}}) == (1.0,)
    assert len(edges_of({"samples": {"value": list(range(100))}})) == 9


def test_without_a_reference_it_says_so(tmp_path: Path) -> None:
    with served.start_null(tmp_path / "bundle") as handle:
        httpx.post(f"{handle.url}/predict", json={"text": "hello"}).raise_for_status()
        assert drift(handle)["verdict"] == "no reference"


def test_texts_that_are_written_have_no_drift_but_can_be_judged(tmp_path: Path) -> None:
    from budwood.serving.server import start

    entry = Served("writer", "1", tiny_language.bundle(tmp_path / "bundle"))
    with start([entry], limits=served.QUICK) as handle:
        answer = httpx.post(f"{handle.url}/v1/completions", json={"prompt": "Where", "max_tokens": 2, "n": 2})
        found = httpx.post(f"{handle.url}/feedback/{answer.headers['x-request-id']}", json={"label": True, "input": 1})
        assert (found.status_code, found.json()["prediction"], found.json()["score"]) == (200, None, 1.0)
        wrong = httpx.post(f"{handle.url}/feedback/{answer.headers['x-request-id']}", json={"label": "good"})
        assert wrong.status_code == 422
        told = httpx.get(f"{handle.url}/stats").json()["models"][0]
    assert (told["feedback"]["metric"], told["feedback"]["n"]) == ("approval", 1)
    assert told["drift"]["verdict"] == "no reference"
