"""Worker processes: one port, restarts, draining, and refusing to start. Each server here is a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import served

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, UsageError
from budwood.core.store import Store
from budwood.serving.model import Served
from budwood.serving.server import serve, start, usable_cores

MAIN = """
import json, sys, threading
from budwood.core.bundle import Bundle
from budwood.core.errors import BudwoodError
from budwood.serving import supervisor
from budwood.serving.limits import Limits
from budwood.serving.server import Served, serve
options = json.loads(sys.argv[2])
limits = Limits(**options.pop("limits", {}))
if options.pop("another_thread", False):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
for name, value in options.pop("supervisor", {}).items():
    setattr(supervisor, name, value)
try:
    bundle = Bundle.open(sys.argv[1], verify=options.pop("verify", True))
    serve([Served("tiny", "1", bundle)], port=0, limits=limits,
          on_ready=lambda url: print(url, flush=True), **options)
except BudwoodError as error:
    print(type(error).__name__, error.cause, flush=True)
    sys.exit(error.exit_code)
"""


@contextmanager
def running(bundle: Bundle, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address; it is killed at the end if it still runs."""
    command = [sys.executable, "-c", MAIN, str(bundle.path), json.dumps({"runtime": "null", **options})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    """The worker processes of a server."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


def test_workers_share_a_port_and_their_figures(tmp_path: Path) -> None:
    with running(served.null_bundle(tmp_path / "b"), workers=2) as (process, url):
        assert len(children(process.pid)) == 2
        for _ in range(40):  # each on a new connection, so that both get some
            assert httpx.post(f"{url}/predict", json={"text": "hello"}).status_code == 200
        assert metric(url, "budwood_workers_ready") == 2
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        assert 'budwood_requests_total{model="tiny",version="1",code="200"} 40' in lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    with running(served.null_bundle(tmp_path / "b"), workers=2, another_thread=True) as (process, url):
        assert httpx.post(f"{url}/predict", json={"text": "hello"}).status_code == 200
        assert metric(url, "budwood_workers_ready") == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_killed_worker_is_started_again_and_nothing_is_refused(tmp_path: Path) -> None:
    with running(served.null_bundle(tmp_path / "b"), workers=2) as (process, url):
        before = children(process.pid)
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: before[0] not in children(process.pid), "the worker still runs")
        for _ in range(20):  # connections of the dead worker wait for its successor
            assert httpx.post(f"{url}/predict", json={"text": "hello"}, timeout=30).status_code == 200
        wait_until(lambda: metric(url, "budwood_workers_ready") == 2, "no new worker")
        assert metric(url, "budwood_worker_restarts_total") == 1


def test_a_crash_in_native_code_costs_one_request(tmp_path: Path) -> None:
    with running(served.null_bundle(tmp_path / "b"), workers=1) as (_, url):
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{url}/predict", json={"text": served.EXIT}, timeout=30)
        assert httpx.post(f"{url}/predict", json={"text": "hello"}, timeout=30).status_code == 200


FOLLOWING = """
import sys
from pathlib import Path
from budwood.core.store import Store
from budwood.serving.follow import follows
from budwood.serving.server import Served, serve
store = Store(Path(sys.argv[1]))
found = store.resolve("tiny@live")
entries = [Served("tiny", str(found.version), found.bundle, follows("tiny@live", store))]
serve(entries, port=0, runtime="null", workers=2, on_ready=lambda url: print(url, flush=True))
"""


def test_a_version_that_ends_the_process_is_left_after_two_attempts(tmp_path: Path) -> None:
    """As when there is not enough memory for it, and the kernel ends whoever opens it."""
    store = Store(tmp_path / "store")
    store.publish("tiny", served.null_bundle(tmp_path / "good"))
    store.publish("tiny", served.null_bundle(tmp_path / "deadly", exits="[CLS]"))
    command = [sys.executable, "-c", FOLLOWING, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            store.promote("tiny", 2)
            wait_until(lambda: metric_or_none(url, "budwood_worker_restarts_total") >= 4, "nobody opened it")
            wait_until(lambda: metric_or_none(url, "budwood_workers_ready") == 2, "the server does not recover")
            reply = httpx.post(f"{url}/predict", json={"text": "hello"}, timeout=30)
            assert (reply.status_code, reply.headers["x-model-version"]) == (200, "1")
            stated = httpx.get(f"{url}/v2/models/tiny", timeout=30).json()["parameters"]
            assert stated["problem"] == "version 2: a process ended while it opened this version"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def metric_or_none(url: str, name: str) -> float:
    try:
        return metric(url, name)
    except httpx.HTTPError:  # all workers are down for the moment
        return -1.0


def test_a_worker_that_takes_too_much_memory_is_replaced_and_no_request_fails(tmp_path: Path) -> None:
    """Every worker is too large here, so one after the other is replaced all the time."""
    eager = {"WEIGH_SECONDS": 0.05, "GROWN": 0.0}
    bundle = served.null_bundle(tmp_path / "b", delay_seconds=0.01)
    with running(bundle, workers=2, limits={"worker_bytes": 1}, supervisor=eager) as (process, url):
        first = set(children(process.pid))
        kept = httpx.Client(base_url=url, timeout=30)
        statuses = []
        deadline = time.monotonic() + 60
        while metric(url, "budwood_worker_replacements_total") < 3:
            assert time.monotonic() < deadline
            statuses.append(httpx.post(f"{url}/predict", json={"text": "hello"}, timeout=30).status_code)
            statuses.append(kept.post("/predict", json={"text": "hello"}).status_code)
        assert set(statuses) == {200}
        wait_until(lambda: not first & set(children(process.pid)), "the first workers still run")
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        counted = next(line for line in lines if line.startswith("budwood_requests_total"))
        assert counted == f'budwood_requests_total{{model="tiny",version="1",code="200"}} {len(statuses)}'
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        kept.close()


def test_a_worker_that_did_not_grow_is_not_replaced(tmp_path: Path) -> None:
    eager = {"WEIGH_SECONDS": 0.02}
    with running(served.null_bundle(tmp_path / "b"), limits={"worker_bytes": 1}, supervisor=eager) as (process, url):
        before = children(process.pid)
        time.sleep(0.3)
        assert children(process.pid) == before
        assert metric(url, "budwood_worker_replacements_total") == 0


def test_sigterm_drains(tmp_path: Path) -> None:
    """Accepted requests finish, new ones get 503 with Retry-After, and readiness turns first."""
    bundle = served.null_bundle(tmp_path / "b", delay_seconds=1.0)
    limits = {"notice_seconds": 0.2, "answer_seconds": 20}
    with running(bundle, workers=1, limits=limits) as (process, url):
        replies: list[httpx.Response] = []
        ask = [threading.Thread(target=lambda: replies.append(post_slowly(url))) for _ in range(8)]
        open_connection = httpx.Client(base_url=url)
        assert open_connection.get("/readyz").status_code == 200
        for thread in ask:
            thread.start()
        wait_until(lambda: metric(url, "budwood_connections") >= 8, "requests did not arrive")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: open_connection.get("/readyz").status_code == 503, "still ready")
        refused = httpx.post(f"{url}/predict", json={"text": "new"})
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/livez").status_code == 200
        assert httpx.get(f"{url}/v2/health/ready").status_code == 503
        for thread in ask:
            thread.join()
        assert [reply.status_code for reply in replies] == [200] * 8
        assert process.wait(20) == 0
        open_connection.close()


def post_slowly(url: str) -> httpx.Response:
    return httpx.post(f"{url}/predict", json={"text": "hello"}, timeout=30)


def test_ctrl_c_stops_it_too(tmp_path: Path) -> None:
    with running(served.null_bundle(tmp_path / "b"), workers=1) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
        assert process.stderr is not None
        assert "KeyboardInterrupt" in process.stderr.read()


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    with running(served.null_bundle(tmp_path / "b"), workers=1) as (process, _):
        (worker,) = children(process.pid)
        process.kill()
        wait_until(lambda: not alive(worker), "the worker outlived its parent")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def golden(bundle: Bundle, path: Path, shift: float) -> Bundle:
    """The bundle with golden rows whose outputs are off by `shift`."""
    import shutil

    from budwood.engine import conformance
    from budwood.engine.predictor import Predictor

    rows = [{"text": "Where is my parcel?"}, {"text": "I love it"}]
    outputs = Predictor.open(bundle).outputs(rows)

    def write(folder: Path) -> None:
        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
        (folder / "bundle.json").unlink()
        conformance.write(folder, rows, {"logits": outputs["logits"] + shift}, 1e-3)

    return Bundle.create(path, bundle.draft("test"), write)


def test_a_model_that_computes_something_else_is_not_served(tiny_bundle: Bundle, tmp_path: Path) -> None:
    right, wrong = golden(tiny_bundle, tmp_path / "right", 0.0), golden(tiny_bundle, tmp_path / "wrong", 0.1)
    with running(right, runtime="auto", workers=1) as (_, url):
        assert httpx.get(f"{url}/readyz").status_code == 200
    with running(wrong, runtime="auto", workers=2) as (process, said):
        assert said.startswith("BundleError golden rows differ by 0.1")
        assert process.wait(20) == 1
    with pytest.raises(BundleError, match="golden rows differ"):
        start([Served("tiny", "1", wrong)])


def write_settings(bundle: Bundle, text: str) -> None:
    """What the null runtime reads when it opens the bundle; a file of another size would be noticed earlier."""
    path = bundle.path / "null.json"
    path.write_text(text.ljust(path.stat().st_size))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{", "BundleError the model cannot be opened: JSONDecodeError: "),
        ('{"delay_seconds": "x"}', "BundleError the model cannot be opened: TypeError: "),
        ('{"exit_id": 0}', "BudwoodError a worker ended while it started (exit code 70)"),
    ],
)
def test_whatever_keeps_a_worker_from_starting_is_said(tmp_path: Path, settings: str, said: str, workers: int) -> None:
    """Errors that nobody foresaw, and the end of the process by native code: one line, exit code 1, no traceback."""
    bundle = served.null_bundle(tmp_path / "b")
    write_settings(bundle, settings)
    with running(bundle, workers=workers, verify=False) as (process, line):
        assert line.startswith(said)
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_model_that_cannot_be_opened_is_said_in_python_too(tmp_path: Path) -> None:
    bundle = served.null_bundle(tmp_path / "b")
    write_settings(bundle, "{")
    with pytest.raises(BundleError, match="cannot be opened: JSONDecodeError"):
        start([Served("tiny", "1", bundle)], runtime="null")


def test_a_worker_that_never_starts_again_ends_the_server(tmp_path: Path) -> None:
    """Its share of the connections would wait for ever, so the server says why and ends."""
    bundle = served.null_bundle(tmp_path / "b")
    with running(bundle, workers=2, supervisor={"STARTS": 3}) as (process, _):
        write_settings(bundle, "{")
        os.kill(children(process.pid)[0], signal.SIGKILL)
        assert process.wait(30) == 1
        assert process.stdout is not None
        assert process.stdout.read().startswith("BundleError the model cannot be opened: JSONDecodeError")


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    bundle = served.null_bundle(tmp_path / "b")
    with served.start_null(tmp_path / "c") as handle:
        port = int(handle.url.rpartition(":")[2])
        for workers in (1, 2):
            with pytest.raises(UsageError, match="cannot listen") as caught:
                serve([Served("tiny", "1", bundle)], port=port, workers=workers, runtime="null")
            assert caught.value.fix.startswith(f"--port {port + 1}")


def test_parameters_are_checked(tmp_path: Path) -> None:
    entry = Served("tiny", "1", served.null_bundle(tmp_path / "b"))
    with pytest.raises(UsageError, match="nothing to serve"):
        serve([])
    with pytest.raises(UsageError, match="twice"):
        serve([entry, entry])
    with pytest.raises(UsageError, match="cannot answer"):
        serve([entry], workers=0)
    with pytest.raises(UsageError, match="no keys"):
        serve([entry], host="0.0.0.0")
    with pytest.raises(UsageError, match="queue"):
        serve([entry], max_queue=0)
    assert usable_cores() >= 1


def test_serving_imports_no_training_library(tmp_path: Path) -> None:
    code = """
import sys, httpx
from pathlib import Path
from budwood.core.bundle import Bundle
from budwood.serving.server import Served, start
with start([Served("tiny", "1", Bundle.open(sys.argv[1]))]) as handle:
    httpx.post(handle.url + "/predict", json={"text": "hello"}).raise_for_status()
    httpx.get(handle.url + "/metrics").raise_for_status()
heavy = "torch transformers sklearn scipy pyarrow pandas onnx matplotlib typer fastapi starlette jinja2 PIL".split()
print([name for name in heavy if name in sys.modules])
"""
    bundle = served.null_bundle(tmp_path / "b")
    done = subprocess.run([sys.executable, "-c", code, str(bundle.path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
