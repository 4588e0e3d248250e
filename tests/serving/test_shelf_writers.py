"""Models that write: exchanged in the middle of a stream, closed with their thread, opened again for the next text."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import served
import tiny_language

from budwood.core.bundle import Bundle
from budwood.core.store import Store
from budwood.serving import shelf, worker
from budwood.serving.follow import follows
from budwood.serving.model import Served
from budwood.serving.server import start

BODY = {"prompt": "Once", "max_tokens": 12, "seed": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_language.bundle(tmp_path_factory.mktemp("writer") / "bundle")


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TICK_SECONDS", 0.02)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def writers() -> int:
    """Threads that write."""
    return sum(thread.name == "writer" for thread in threading.enumerate())


def test_a_stream_ends_with_the_version_that_began_it(bundle: Bundle, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for _ in range(2):
        store.publish("writer", bundle)
    first = store.resolve("writer:1")
    entry = Served("writer", "1", first.bundle, follows("writer@live", store))
    with start([entry], limits=served.QUICK) as server, httpx.Client(base_url=server.url, timeout=60) as client:

        def version() -> str:
            reply = client.post("/v1/completions", json=BODY)
            assert reply.status_code == 200
            return reply.headers["x-model-version"]

        asked = {"prompt": "Once", "stream": True, "max_tokens": 400, "min_tokens": 400}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            store.promote("writer", 2)
            wait_until(lambda: version() == "2", "not exchanged")
            assert [line for line in lines if line][-1] == "data: [DONE]"
            assert stream.headers["x-model-version"] == "1"
        wait_until(lambda: writers() == 1, "the thread of the old version still runs")
        assert version() == "2"


def test_a_closed_writer_is_opened_again_and_writes_the_same(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "weight", lambda entry, grown: 10.0)
    other = tiny_language.bundle(tmp_path / "other")
    entries = [Served("writer", "1", bundle), Served("other", "1", other)]
    with start(entries, limits=served.QUICK, memory=15) as server:

        def ask(name: str) -> str:
            reply = httpx.post(f"{server.url}/v1/completions", json=BODY | {"model": name}, timeout=60)
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-model"] == name
            return str(reply.json()["choices"][0]["text"])

        texts = [ask("writer"), ask("other"), ask("writer")]
        assert texts[0] == texts[2]
        wait_until(lambda: writers() == 1, "the thread of the closed model still runs")
        states = [item["open"] for item in httpx.get(f"{server.url}/stats").json()["models"]]
        assert states == [True, False]
