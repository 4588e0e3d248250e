"""Several models in a worker: exchanged when an alias moves, closed when memory ends, opened again when asked for."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import served
import tiny

from budwood.core.errors import BundleError, UsageError
from budwood.core.store import Store
from budwood.serving import shelf, worker
from budwood.serving.follow import Follows, Pointer, follows
from budwood.serving.limits import Limits
from budwood.serving.memory import container_megabytes, process_megabytes, share
from budwood.serving.model import Model, Served
from budwood.serving.server import Handle, start


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TICK_SECONDS", 0.02)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three versions of `tickets`, whose labels tell them apart; `live` is the first."""
    home = Store(tmp_path / "store")
    for i, labels in enumerate((tiny.LABELS, ("one", "two"), ("alpha", "beta", "gamma", "delta"))):
        home.publish("tickets", served.null_bundle(tmp_path / f"bundle-{i}", labels=labels))
    return home


def entry(store: Store, reference: str) -> Served:
    alias = follows(reference, store)
    found = store.resolve(reference)
    return Served(found.name, str(found.version), found.bundle, alias)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def version(url: str) -> str:
    return httpx.post(f"{url}/predict", json={"text": "hello"}).headers["x-model-version"]


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


def damage(store: Store, number: int) -> None:
    """A version whose files are not what its hashes say."""
    path = store.root / "tickets" / str(number) / "null.json"
    path.write_text("{".ljust(path.stat().st_size))


class Traffic:
    """Clients that ask all the time; what they got is in `seen`, what was not a 200 in `failed`."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self.url, self.ended = url, threading.Event()
        self.seen: list[tuple[str, str]] = []
        self.failed: list[str] = []
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(clients)]

    def ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.ended.is_set():
                try:
                    reply = client.post("/predict", json={"text": "hello"})
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                if reply.status_code != 200:
                    self.failed.append(reply.text)
                    continue
                self.seen.append((reply.headers["x-model-version"], reply.json()["label"]))

    def __enter__(self) -> "Traffic":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


LABELS = {"1": set(tiny.LABELS), "2": {"one", "two"}, "3": {"alpha", "beta", "gamma", "delta"}}


def test_a_promotion_changes_what_answers_and_no_request_fails(store: Store) -> None:
    damage(store, 3)
    with start([entry(store, "tickets@live")], runtime="null", limits=served.QUICK) as server:
        with Traffic(server.url) as traffic:
            for number in (2, 1, 2):
                store.promote("tickets", number)
                wait_until(lambda number=number: version(server.url) == str(number), "not exchanged")  # type: ignore[misc]
            # Its promotion is refused, so the pointer is moved as a tool that does not look would move it.
            pointer = store.root / "tickets" / "aliases.json"
            Follows(store.root, "tickets", "live", 0).aliases().moved("live", 3).write(pointer)
            wait_until(lambda: metric(server.url, "budwood_reload_failures_total") == 1, "the failure is not counted")
            assert version(server.url) == "2"
            stated = httpx.get(f"{server.url}/v2/models/tickets").json()["parameters"]
            assert stated["problem"].startswith("version 3: ")
            assert httpx.get(f"{server.url}/stats").json()["models"][0]["problem"] == stated["problem"]
            store.promote("tickets", 1)
            wait_until(lambda: version(server.url) == "1", "not exchanged after the broken one")
            assert "problem" not in httpx.get(f"{server.url}/v2/models/tickets").json()["parameters"]
        assert not traffic.failed
        assert {number for number, _ in traffic.seen} == {"1", "2"}
        assert all(label in LABELS[number] for number, label in traffic.seen)
        assert metric(server.url, "budwood_reload_failures_total") == 1
        assert metric(server.url, "budwood_model_loads_total") == 4
        text = httpx.get(f"{server.url}/metrics").text
        assert 'budwood_model_info{model="tickets",version="1"} 1' in text
        assert 'budwood_model_info{model="tickets",version="2"}' not in text
        assert 'budwood_requests_total{model="tickets",version="2",code="200"}' in text


def test_the_document_and_the_lists_follow(store: Store) -> None:
    with start([entry(store, "tickets@live")], runtime="null", limits=served.QUICK) as server:

        def told() -> tuple[str, list[str], list[str]]:
            paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
            named = paths["/v2/models/{name}/versions/{version}"]["get"]["parameters"][1]["schema"]["enum"]
            listed = httpx.get(f"{server.url}/v1/models").json()["data"][0]["version"]
            return listed, named, httpx.get(f"{server.url}/v2/models/tickets").json()["versions"]

        assert told() == ("1", ["1"], ["1"])
        store.promote("tickets", 2)
        wait_until(lambda: version(server.url) == "2", "not exchanged")
        assert told() == ("2", ["2"], ["2"])
        assert httpx.get(f"{server.url}/v2/models/tickets/versions/1").status_code == 404


def test_a_version_that_answers_twice_has_its_figures_once(store: Store) -> None:
    entries = [entry(store, "tickets:2"), entry(store, "tickets@live")]
    with start(entries, runtime="null", limits=served.QUICK) as server:
        store.promote("tickets", 2)
        url = f"{server.url}/v1/models"
        wait_until(lambda: [item["version"] for item in httpx.get(url).json()["data"]] == ["2", "2"], "not exchanged")
        lines = [line.rpartition(" ")[0] for line in httpx.get(f"{server.url}/metrics").text.splitlines()]
    figures = [line for line in lines if not line.startswith("#")]
    assert sum(line.startswith("budwood_drift_rows") for line in figures) == 1
    assert len(figures) == len(set(figures))


def test_a_request_in_flight_ends_with_the_version_that_began_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.publish("tickets", served.null_bundle(tmp_path / "slow", delay_seconds=0.4))
    store.publish("tickets", served.null_bundle(tmp_path / "fast", labels=("one", "two")))
    with (
        start([entry(store, "tickets@live")], runtime="null", limits=served.QUICK) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(lambda: httpx.post(f"{server.url}/predict", json={"text": "hello"}, timeout=30))
        time.sleep(0.1)
        store.promote("tickets", 2)
        wait_until(lambda: version(server.url) == "2", "not exchanged")
        assert not running.done() or running.result().headers["x-model-version"] == "1"
        reply = running.result()
        assert (reply.status_code, reply.headers["x-model-version"]) == (200, "1")
        assert reply.json()["label"] in tiny.LABELS


def test_what_follows_an_alias(store: Store, tmp_path: Path) -> None:
    assert follows("tickets:1", store) is None
    assert follows(str(tmp_path / "bundle-0"), store) is None
    assert follows("tickets", store) == Follows(store.root.absolute(), "tickets", "live", 1)
    store.promote("tickets", 2, "next")
    alias = follows("tickets@next", store)
    assert alias is not None
    pointer = Pointer(alias)
    assert pointer.moved() is None
    store.promote("tickets", 3)  # another alias
    assert pointer.moved() is None
    store.promote("tickets", 3, "next")
    assert [pointer.moved(), pointer.moved()] == [3, None]
    store.promote("tickets", 1, "next")
    assert list(Pointer(alias).candidates()) == [1, 3]
    (store.root / "tickets" / "aliases.json").write_text("{")
    assert pointer.moved() is None


def test_a_worker_that_starts_later_opens_the_newest_version_that_works(store: Store) -> None:
    first = entry(store, "tickets@live")
    store.promote("tickets", 2)
    store.promote("tickets", 3)
    damage(store, 3)
    (place,) = shelf.open_places([first], "null", 4)
    assert (place.model.version, place.problem[:11]) == ("2", "version 3: ")
    damage(store, 2)
    (place,) = shelf.open_places([first], "null", 4)
    assert place.model.version == "1"


def test_many_exchanges_leave_nothing_behind(store: Store) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with start([entry(store, "tickets@live")], runtime="null", limits=served.QUICK) as server:

        def exchange(number: int) -> None:
            store.promote("tickets", number)
            wait_until(lambda: version(server.url) == str(number), "not exchanged")

        exchange(2)
        wait_until(lambda: metric(server.url, "budwood_models_open") == 1, "the old one is open")
        before = held()
        for i in range(6):
            exchange(1 + i % 2)
        # Connections of this test come and go.
        wait_until(lambda: held()[0] <= before[0] + 2 and held()[1] <= before[1], f"{held()} after {before}")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    """Models a, b and c that take 10 MB each, and room for two."""
    monkeypatch.setattr(shelf, "weight", lambda entry, grown: 10.0)
    entries = [Served(name, "1", served.null_bundle(tmp_path / name, 0.05, (name, "x"))) for name in "abc"]
    with start(entries, runtime="null", limits=served.QUICK, memory=25) as server:
        yield server


def states(url: str) -> list[bool]:
    return [item["open"] for item in httpx.get(f"{url}/stats").json()["models"]]


def ask(url: str, name: str) -> httpx.Response:
    return httpx.post(f"{url}/models/{name}/predict", json={"text": "hello"}, timeout=30)


def test_the_least_recently_used_model_makes_room(three: Handle) -> None:
    url = three.url
    assert states(url) == [True, True, False]
    ask(url, "a").raise_for_status()
    assert states(url) == [True, True, False]
    reply = ask(url, "c")
    assert (reply.status_code, reply.headers["x-model"]) == (200, "c")
    assert states(url) == [True, False, True]
    assert httpx.get(f"{url}/v2/models/b/ready").status_code == 200
    assert [item["id"] for item in httpx.get(f"{url}/v1/models").json()["data"]] == ["a", "b", "c"]
    ask(url, "b").raise_for_status()
    assert states(url) == [False, True, True]
    assert metric(url, "budwood_model_evictions_total") == 2
    assert metric(url, "budwood_models_open") == 2


def test_concurrent_requests_for_a_closed_model_open_it_once(three: Handle) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ask(three.url, "c"), range(8)))
    assert [reply.status_code for reply in replies] == [200] * 8
    assert metric(three.url, "budwood_model_loads_total") == 1


def test_room_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two closed models that are asked for at once never take more together than all may."""
    monkeypatch.setattr(shelf, "weight", lambda entry, grown: 10.0)
    entries = [Served(name, "1", served.null_bundle(tmp_path / name)) for name in "abc"]
    with start(entries, runtime="null", limits=served.QUICK, memory=15) as server, ThreadPoolExecutor(2) as pool:
        opened = shelf.open_model
        monkeypatch.setattr(shelf, "open_model", lambda *given: (time.sleep(0.2), opened(*given))[1])
        replies = list(pool.map(lambda name: ask(server.url, name), "bc"))
        assert [reply.status_code for reply in replies] == [200, 200]
        assert sum(states(server.url)) == 1


def test_a_closed_model_whose_next_version_is_broken_is_opened_as_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "weight", lambda entry, grown: 10.0)
    other = Served("other", "1", served.null_bundle(tmp_path / "other"))
    began, may = threading.Event(), threading.Event()

    def broken(*given: Any) -> Any:
        began.set()
        may.wait(30)
        raise BundleError("it is broken")

    monkeypatch.setattr(shelf.Shelf, "open_version", broken)
    with (
        start([other, entry(store, "tickets@live")], runtime="null", limits=served.QUICK, memory=15) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        assert states(server.url) == [True, False]
        store.promote("tickets", 2)
        assert began.wait(30)
        asked = pool.submit(ask, server.url, "tickets")
        time.sleep(0.1)
        may.set()
        reply = asked.result()
        assert (reply.status_code, reply.headers.get("x-model-version")) == (200, "1")


def test_turns_of_more_models_than_there_is_room_for_are_all_answered(three: Handle) -> None:
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda i: ask(three.url, "abc"[i % 3]), range(30)))
    assert [reply.status_code for reply in replies] == [200] * 30
    assert all(reply.headers["x-model"] == "abc"[i % 3] for i, reply in enumerate(replies))


def test_a_model_that_cannot_be_opened_again_is_refused_for_a_while(tmp_path: Path, three: Handle) -> None:
    (tmp_path / "c" / "null.json").write_text("{")
    for _ in range(2):
        reply = ask(three.url, "c")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert metric(three.url, "budwood_reload_failures_total") == 1
    assert httpx.get(f"{three.url}/v2/models/c/ready").status_code == 503
    ask(three.url, "a").raise_for_status()


def test_who_waits_too_long_for_a_model_is_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "weight", lambda entry, grown: 10.0)
    entries = [Served(name, "1", served.null_bundle(tmp_path / name)) for name in "ab"]
    limits = Limits(notice_seconds=0, answer_seconds=0.3)
    with start(entries, runtime="null", limits=limits, memory=15) as server:
        may, opened = threading.Event(), shelf.open_model

        def wait_and_open(*given: Any) -> Model:
            may.wait(30)
            return opened(*given)

        monkeypatch.setattr(shelf, "open_model", wait_and_open)
        reply = ask(server.url, "b")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert reply.json()["detail"] == "the model could not be opened in time"
        may.set()
        wait_until(lambda: ask(server.url, "b").status_code == 200, "never opened")


def test_a_model_that_is_larger_than_all_room_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny takes .* MB"):
        served.start_null(tmp_path / "b", memory=1e-6)


def test_memory_is_a_number_or_auto() -> None:
    assert share(None) == float("inf")
    assert share("500") == 500
    assert 0 < share("auto") < container_megabytes()
    for wrong in ("0", "-1", "much", "nan", "inf"):
        with pytest.raises(UsageError, match="no number of megabytes"):
            share(wrong)
    assert process_megabytes(os.getpid()) > 10
    assert process_megabytes(2**22 + 1) == 0
