"""True labels that come later: joined with their answers, counted once, and told as live accuracy with an interval."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import served
import tiny
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats

from budwood.serving import live_accuracy
from budwood.serving.errors import HttpError
from budwood.serving.journal import Given, Journal, Total, prepare
from budwood.serving.live_accuracy import accuracy, scored, student, wilson
from budwood.serving.monitor import CLASS, CLASSES, NUMBER, TEXT, Kept
from budwood.serving.prediction_log import LogOptions
from budwood.serving.server import Handle


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_accuracy, "FRESH_SECONDS", 0.0)


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    with served.start_null(tmp_path_factory.mktemp("judged") / "bundle") as handle:
        yield handle


def ask(handle: Handle, *texts: str) -> tuple[str, list[str]]:
    """The request's id and the labels that were answered."""
    reply = httpx.post(f"{handle.url}/predict", json={"inputs": list(texts)})
    return reply.headers["x-request-id"], [item["label"] for item in reply.json()["outputs"]]


def give(handle: Handle, request_id: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{handle.url}/feedback/{request_id}", json=body)


def told(handle: Handle) -> Any:
    return httpx.get(f"{handle.url}/stats").json()["models"][0]["feedback"]


def other(label: str) -> str:
    return next(name for name in tiny.LABELS if name != label)


def test_labels_become_live_accuracy(tmp_path: Path) -> None:
    with served.start_null(tmp_path / "bundle") as handle:
        assert told(handle) == {"n": 0, "metric": None, "value": None, "ci": None}
        for right in (True, True, True, False):
            request_id, (label,) = ask(handle, "Where is my parcel?")
            answer = give(handle, request_id, label=label if right else other(label))
            assert answer.status_code == 200
            assert answer.json()["prediction"] == label
            assert answer.json()["score"] == float(right)
            assert (answer.headers["x-model"], answer.headers["x-model-version"]) == ("tiny", "1")
        found = told(handle)
        assert (found["n"], found["metric"], found["value"]) == (4, "accuracy", 0.75)
        low, high = stats.binomtest(3, 4).proportion_ci(method="wilson")
        assert found["ci"] == pytest.approx([low, high], abs=1e-6)
        families = text_string_to_metric_families(httpx.get(f"{handle.url}/metrics").text)
        samples = {item.name: item for family in families for item in family.samples}
        assert samples["budwood_feedback_labels"].value == 4
        assert samples["budwood_live_score"].value == 0.75
        assert samples["budwood_live_score"].labels == {"model": "tiny", "version": "1", "metric": "accuracy"}
        # Labels are no requests to the model.
        assert samples["budwood_request_duration_seconds_count"].value == 4


def test_the_same_label_twice_counts_once_and_another_has_to_say_so(handle: Handle) -> None:
    request_id, (label,) = ask(handle, "Thank you")
    before = told(handle)["n"]
    first, second = (give(handle, request_id, label=label) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    conflict = give(handle, request_id, label=other(label))
    assert conflict.status_code == 409
    assert conflict.json()["errors"][0]["field"] == "label"
    assert told(handle)["n"] == before + 1
    corrected = give(handle, request_id, label=other(label), replace=True)
    assert (corrected.status_code, corrected.json()["score"]) == (200, 0.0)
    assert told(handle)["n"] == before + 1


def test_each_input_of_a_list_has_its_own_label(handle: Handle) -> None:
    request_id, labels = ask(handle, "Thank you", "Where is my parcel?")
    assert [give(handle, request_id, label=label, input=place).json()["score"] for place, label in enumerate(labels)]
    assert give(handle, request_id, label=labels[0], input=2).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "label"),
        ({"label": "refnd"}, 422, "label"),
        ({"label": 1}, 422, "label"),
        ({"label": None}, 422, "label"),
        ({"label": "refund", "input": -1}, 422, "input"),
        ({"label": "refund", "input": True}, 422, "input"),
        ({"label": "refund", "replace": 1}, 422, "replace"),
        ({"label": "refund", "other": 1}, 422, "other"),
    ],
)
def test_what_is_off_is_named(handle: Handle, body: dict[str, Any], status: int, field: str) -> None:
    request_id, _ = ask(handle, "Thank you")
    answer = give(handle, request_id, **body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


@pytest.mark.parametrize("request_id", ["0" * 32, "never-asked", "%00", "x" * 200, "a%20b"])
def test_unknown_answers_are_not_found(handle: Handle, request_id: str) -> None:
    assert give(handle, request_id, label="refund").status_code == 404


def test_a_log_finds_answers_after_a_restart(tmp_path: Path) -> None:
    log = LogOptions(tmp_path)
    with served.start_null(tmp_path / "first", log=log) as handle:
        request_id, (label,) = ask(handle, "Thank you")
        early, (early_label,) = ask(handle, "Refund me")
        give(handle, early, label=early_label)
    with served.start_null(tmp_path / "second", log=log) as handle:
        assert give(handle, request_id, label=label).json()["score"] == 1.0
        assert told(handle)["n"] == 2


def test_no_label_is_kept_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "none"))
    with served.start_null(tmp_path / "bundle") as handle:
        request_id, (label,) = ask(handle, "Thank you")
        answer = give(handle, request_id, label=label)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_the_scratch_folder_goes_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder))
    with served.start_null(tmp_path / "bundle") as handle:
        request_id, (label,) = ask(handle, "Thank you")
        assert list(folder.iterdir()) == []
        give(handle, request_id, label=label)
        (made,) = folder.iterdir()
        assert made.stat().st_mode & 0o077 == 0
    assert list(folder.iterdir()) == []


def test_a_file_that_another_worker_begins_just_now_is_taken(tmp_path: Path) -> None:
    class Answers:
        board: Any = None

        def find(self, key: float) -> Kept:
            return kept(TEXT, None)

    class Board:
        def find(self, name: str, version: str) -> None:
            return None

    answers: Any = Answers()
    answers.board = Board()
    path = tmp_path / "feedback.sqlite"
    path.touch(mode=0o600)  # it has no tables yet
    given = live_accuracy.Feedback(path).give(answers, "id", 0, True, False)
    assert (given.id, given.score) == ("id", 1.0)


def kept(kind: int, prediction: Any) -> Kept:
    return Kept("m", "1", kind, prediction)


def test_scores_of_each_kind() -> None:
    assert scored(kept(CLASS, "a"), "b", ("a", "b")) == 0
    assert scored(kept(CLASSES, ["a", "b"]), ["b", "c"], ("a", "b", "c")) == 0.5
    assert scored(kept(CLASSES, []), [], ()) == 1
    assert scored(kept(NUMBER, 2.5), 4, ()) == 1.5
    assert scored(kept(TEXT, None), False, ()) == 0
    assert scored(kept(CLASS, "a"), "z", ("a", "(other)")) == 0
    for kind, label in (
        (NUMBER, True),
        (NUMBER, "4"),
        (NUMBER, float("inf")),
        (CLASSES, "a"),
        (CLASSES, [1]),
        (TEXT, 1),
    ):
        with pytest.raises(HttpError):
            scored(kept(kind, [] if kind == CLASSES else 1.0), label, ())


def test_intervals() -> None:
    for successes, n in ((0, 1), (1, 1), (9, 10), (50, 200)):
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx(tuple(expected))
    errors = [0.5, 1.0, 0.0, 2.5, 1.0]
    told = accuracy(Total("m", "1", NUMBER, 5, sum(errors), sum(x * x for x in errors)))
    assert (told["metric"], told["value"]) == ("mae", 1.0)
    half = stats.t.ppf(0.975, 4) * stats.sem(errors)
    assert told["ci"] == pytest.approx([max(0.0, 1 - half), 1 + half], rel=2e-3)
    assert accuracy(Total("m", "1", NUMBER, 4, 4.0, 4.0))["ci"] is None
    for freedom in (4, 10, 1000):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)
    high = accuracy(Total("m", "1", CLASSES, 5, 4.5, 4.25))
    assert (high["metric"], high["ci"][1]) == ("f1", 1.0)


def test_a_number_that_has_one_label_has_no_interval(tmp_path: Path) -> None:
    path = tmp_path / "log"
    prepare(path)
    with Journal(path) as journal:
        journal.give(Given("id", 0, time.time(), "tiny", "1", NUMBER, "1.0", "2.0", 1.0), replace=False)
    with served.start_null(tmp_path / "bundle", log=LogOptions(path)) as handle:
        assert told(handle) == {"n": 1, "metric": "mae", "value": 1.0, "ci": None}
        families = text_string_to_metric_families(httpx.get(f"{handle.url}/metrics").text)
        samples = {item.name for family in families for item in family.samples}
    assert "budwood_live_score" in samples
    assert "budwood_live_score_low" not in samples


def test_labels_are_added_up_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[str]()
    plain = Journal.totals
    monkeypatch.setattr(
        Journal, "totals", lambda journal: (threads.append(threading.current_thread().name), plain(journal))[1]
    )
    with served.start_null(tmp_path / "bundle", log=LogOptions(tmp_path / "log")) as handle:
        told(handle)
        httpx.get(f"{handle.url}/metrics").raise_for_status()
        httpx.get(f"{handle.url}/page/live").raise_for_status()
        assert threads
        assert handle.thread.name not in threads
