"""The shared figures: rows of several workers add up, and the text is what Prometheus reads."""

import multiprocessing
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from budwood.core.errors import BudwoodError
from budwood.serving.metrics import Board, Described, Metrics, allocate, live_bucket, make_layout, quantile_ms
from budwood.serving.slots import OTHER

MODEL = Described("m", "1", ('a"b\\\n', "b"))
LAYOUT = make_layout([MODEL], 2)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = list(text_string_to_metric_families(text))
    return {
        (item.name, tuple(sorted(item.labels.items()))): item.value for family in families for item in family.samples
    }


def test_rows_add_up_and_parse() -> None:
    memory = allocate(LAYOUT)
    workers = [Metrics(LAYOUT, memory, row) for row in range(3)]
    assert [worker.claim(MODEL) for worker in workers[:2]] == [0, 0]
    for seconds in (0.003, 0.03):
        for worker in workers[:2]:
            worker.request(0, 200, seconds)
    workers[0].request(0, 503, 0.1)
    workers[1].answered(0, {"label": 'a"b\\\n'})
    workers[0].answered(0, {"labels": ["b", 'a"b\\\n', "unknown"]})
    workers[0].batch(3)
    workers[2].count("worker_restarts", 2)
    workers[1].gauge("queue_depth", 7)
    found = samples(Board(LAYOUT, memory).text())
    model = (("model", "m"), ("version", "1"))
    assert found["budwood_requests_total", (("code", "200"), *model)] == 4
    assert found["budwood_requests_total", (("code", "503"), *model)] == 1
    assert found["budwood_request_duration_seconds_bucket", (("le", "0.005"), *model)] == 2
    assert found["budwood_request_duration_seconds_bucket", (("le", "+Inf"), *model)] == 4
    assert found["budwood_request_duration_seconds_count", model] == 4
    assert found["budwood_request_duration_seconds_sum", model] == pytest.approx(0.066)
    assert found["budwood_predictions_total", (("label", 'a"b\\\n'), *model)] == 2
    assert found["budwood_predictions_total", (("label", "b"), *model)] == 1
    assert found["budwood_batch_size_bucket", (("le", "4.0"),)] == 1
    assert found["budwood_worker_restarts_total", ()] == 2
    assert found["budwood_queue_depth", ()] == 7


def write_from_another_process(memory: object) -> None:
    metrics = Metrics(LAYOUT, memory, 1)  # type: ignore[arg-type]
    metrics.request(metrics.claim(MODEL), 200, 0.01)


def test_the_memory_is_shared_with_spawned_processes() -> None:
    memory = allocate(LAYOUT)
    child = multiprocessing.get_context("spawn").Process(target=write_from_another_process, args=(memory,))
    child.start()
    child.join()
    board = Board(LAYOUT, memory)
    (seen,) = board.models()
    assert (seen.model, board.figure(seen, "statuses")[0]) == (MODEL, 1)


def test_a_restarted_worker_keeps_its_counters_and_clears_its_gauges() -> None:
    memory = allocate(LAYOUT)
    first = Metrics(LAYOUT, memory, 0)
    first.count("cancelled")
    first.gauge("queue_depth", 5)
    Metrics(LAYOUT, memory, 0)
    board = Board(LAYOUT, memory)
    assert (board.scalar("cancelled"), board.scalar("queue_depth")) == (1, 0)


def test_a_version_has_one_line_whatever_its_slots_are() -> None:
    """Workers claim by themselves: the same version is one, and its labels are counted by name."""
    memory = allocate(LAYOUT)
    first, second = Metrics(LAYOUT, memory, 0), Metrics(LAYOUT, memory, 1)
    new = Described("m", "2", ("x", "b"))
    assert (first.claim(MODEL), first.claim(new)) == (0, 1)
    assert (second.claim(new), second.claim(MODEL)) == (0, 1)
    first.request(1, 200, 0.1)
    second.request(0, 200, 0.1)
    first.answered(1, {"label": "x"})
    second.answered(0, {"label": "b"})
    board = Board(LAYOUT, memory)
    assert [seen.model for seen in board.models()] == [MODEL, new]
    assert board.predictions(board.find("m", "2")) == {"x": 1, "b": 1}
    assert samples(board.text())["budwood_requests_total", (("code", "200"), ("model", "m"), ("version", "2"))] == 2


def test_the_slot_that_was_released_first_is_used_again() -> None:
    memory = allocate(LAYOUT)
    metrics, board = Metrics(LAYOUT, memory, 0), Board(LAYOUT, memory)
    versions = [Described("m", str(i), ("a",)) for i in range(LAYOUT.count + 1)]
    slots = [metrics.claim(version) for version in versions[:-1]]
    assert slots == list(range(LAYOUT.count))
    with pytest.raises(BudwoodError, match="more versions are open"):
        metrics.claim(versions[-1])
    metrics.answered(3, {"label": "a"})
    metrics.release(3)
    metrics.release(2)
    assert [seen.model.version for seen in board.models() if not seen.answers] == ["2", "3"]
    assert metrics.claim(versions[3]) == 3  # it is still there, with what was counted
    assert board.predictions(board.find("m", "3")) == {"a": 1}
    metrics.release(3)
    assert metrics.claim(versions[-1]) == 2
    assert board.find("m", "2") is None
    assert board.find("m", versions[-1].version) is not None


def test_a_restarted_worker_goes_on_in_the_slots_of_the_dead_one() -> None:
    memory = allocate(LAYOUT)
    first = Metrics(LAYOUT, memory, 0)
    first.claim(Described("old", "1", ()))
    first.request(first.claim(MODEL), 200, 0.1)
    again, board = Metrics(LAYOUT, memory, 0), Board(LAYOUT, memory)
    assert not any(seen.answers for seen in board.models())
    again.request(again.claim(MODEL), 200, 0.1)
    assert [(seen.model.name, seen.answers) for seen in board.models()] == [("old", False), ("m", True)]
    assert board.figure(board.models()[1], "statuses")[0] == 2


def test_labels_beyond_the_room_are_counted_together() -> None:
    memory = allocate(LAYOUT)
    metrics, board = Metrics(LAYOUT, memory, 0), Board(LAYOUT, memory)
    for labels in ([f"label-{i}" for i in range(500)], ["l" * 400 + str(i) for i in range(20)]):
        model = Described("m", str(len(labels)), tuple(labels))
        slot = metrics.claim(model)
        for label in labels:
            metrics.answered(slot, {"label": label})
        counts = board.predictions(board.find(*model.key))
        assert counts[labels[0]] == 1
        assert counts[OTHER] > 1
        assert sum(counts.values()) == len(labels)
        assert metrics.claim(model) == slot


def test_live_figures_cover_the_last_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = allocate(LAYOUT)
    worker, board = Metrics(LAYOUT, memory, 0), Board(LAYOUT, memory)
    worker.claim(MODEL)
    now = 1000.5
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(95):
        worker.request(0, 200, 0.004)
    for _ in range(5):
        worker.request(0, 200, 0.2)
    assert board.live()["requests_per_second"] == 0  # this second is not over
    now = 1001.0
    live = board.live()
    assert live["requests_per_second"] == 10
    assert 4 <= live["p50_ms"] <= 4.5
    assert 4 <= live["p95_ms"] <= 4.5
    now = 1012.0
    assert board.live()["p50_ms"] is None
    now = 1032.5  # the same slot of the ring
    worker.request(0, 200, 0.1)
    now = 1033.0
    assert board.live()["requests_per_second"] == 0.1


def test_buckets() -> None:
    assert live_bucket(0) == 0
    assert live_bucket(1e9) == 127
    assert quantile_ms([0] * 128, 0.5) is None
    for seconds in (0.0005, 0.01, 1.0, 100.0):
        edge = quantile_ms([float(i == live_bucket(seconds)) for i in range(128)], 0.5)
        assert edge is not None
        assert seconds <= edge / 1e3 * 1.001 <= seconds * 1.13


def test_the_server_counts(client: httpx.Client) -> None:
    def count() -> tuple[float, float]:
        found = samples(client.get("/metrics").text)
        labels = (("code", "200"), ("model", "tiny"), ("version", "1"))
        predicted = sum(value for (name, _), value in found.items() if name == "budwood_predictions_total")
        return found["budwood_requests_total", labels], predicted

    before = count()
    client.post("/predict", json={"inputs": ["a", "b", "c"]}).raise_for_status()
    after = count()
    assert (after[0] - before[0], after[1] - before[1]) == (1, 3)
    stats = client.get("/stats").json()
    assert stats["models"][0]["name"] == "tiny"
    assert sum(stats["models"][0]["predictions"].values()) == after[1]
