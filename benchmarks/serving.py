"""Claim: Budwood serves one int8 model faster than LitServe and plain FastAPI, at 1, 16 and 64 clients.

All servers wrap the same `Predictor` and share the cores with the load generator (wrk). Servers take turns in shuffled
rounds; reported are medians over the rounds, their range, and the medians of the ratios within a round.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from serving_model import TEXT, bundle_at, write_result

from budwood.engine.machine import describe

SERVERS = ("budwood", "litserve", "fastapi", "fastapi_async")
CLIENTS = (1, 16, 64)
PORT = 8765


@contextmanager
def serving(
    name: str, bundle: Path, environment: dict[str, str], patience: float = 0.1, command: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """A server that answers: its address, and the session of its processes. `patience` is the time between attempts."""
    wait_until_free()
    script = Path(__file__).parent / "serving_rivals.py"
    process = subprocess.Popen(
        command or [sys.executable, str(script), name, str(bundle), str(PORT)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{PORT}/predict"
    try:
        wait_until_answers(url, process, patience)
        yield url, process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        # Some servers leave processes behind, which would answer in the name of the next one.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until_free()


def wait_until_free() -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)):
                return
        time.sleep(0.1)
    sys.exit(f"another server has port {PORT}")


def wait_until_answers(url: str, process: subprocess.Popen[bytes], patience: float) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            ask(url)
            return
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(patience)


def ask(url: str, text: str = TEXT) -> Any:
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.loads(reply.read())


def wrk(url: str, session: int, clients: int, seconds: float, script: Path) -> dict[str, float]:
    """Requests a second, latencies and processor time of the server, of `clients` that each wait for their answer."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    before = cpu_seconds(session)
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(session) - before
    failures = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    answered = re.search(r"(\d+) requests in", text)
    assert found is not None, text
    assert answered is not None, text
    return {
        "requests_per_s": float(found[1]),
        "p50_ms": percentile(text, 50),
        "p90_ms": percentile(text, 90),
        "p99_ms": percentile(text, 99),
        "cpu_ms_per_request": used * 1e3 / max(1, int(answered[1])),
        "failures": int(failures[1]) if failures else 0,
        "socket_errors": sum(int(number) for number in broken.groups()) if broken else 0,
    }


def cpu_seconds(session: int) -> float:
    """Processor time, so far, of all living processes of a session."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[3]) == session:
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def percentile(text: str, which: int) -> float:
    found = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)\b", text)
    assert found is not None, text
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def bare(bundle: Path, rows: int, seconds: float) -> dict[str, float]:
    """Items a second of two processes with one thread each: the graph alone, and the whole `Predictor`."""
    context = multiprocessing.get_context("spawn")
    result = {}
    for what in ("graph", "predictor"):
        with context.Pool(2) as pool:
            rates = pool.starmap(bare_loop, [(str(bundle), rows, seconds, what)] * 2, chunksize=1)
        result[what] = sum(rates)
    return result


def bare_loop(bundle: str, rows: int, seconds: float, what: str) -> float:
    os.environ["BENCHMARK_BUNDLE"] = bundle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from serving_rivals import open_predictor

    predictor = open_predictor()
    batch = [{"text": TEXT}] * rows
    inputs = predictor.encoder(batch).inputs
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        if what == "graph":
            predictor.runtime.run(inputs)
        else:
            predictor.predict(batch)
        count += rows
    return count / passed


def one_round(bundle: Path, seconds: float, script: Path, environment: dict[str, str]) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    turns = [*SERVERS, "bare"]
    random.shuffle(turns)
    for name in turns:
        if name == "bare":
            measured["bare"] = {f"batch_{rows}": bare(bundle, rows, seconds) for rows in (1, 16)}
            continue
        with serving(name, bundle, environment) as (url, session):
            wrk(url, session, 16, 2, script)
            measured[name] = {str(clients): wrk(url, session, clients, seconds, script) for clients in CLIENTS}
    return measured


def spread(values: list[float]) -> dict[str, float]:
    digits = [round(value, 3) for value in (statistics.median(values), min(values), max(values))]
    return dict(zip(("median", "min", "max"), digits, strict=True))


def summarize(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    servers = {
        name: {
            str(n): {key: spread([part[name][str(n)][key] for part in rounds]) for key in rounds[0][name][str(n)]}
            for n in CLIENTS
        }
        for name in SERVERS
    }
    ratios = {
        f"budwood / {rival}": {
            str(n): spread([rate(part, "budwood", n) / rate(part, rival, n) for part in rounds]) for n in CLIENTS
        }
        for rival in SERVERS[1:]
    }
    loops = {
        f"{size} {what}": spread([part["bare"][size][what] for part in rounds])
        for size in ("batch_1", "batch_16")
        for what in ("graph", "predictor")
    }
    share = {
        f"budwood / bare {what}": {
            str(n): spread([rate(part, "budwood", n) / part["bare"]["batch_16"][what] for part in rounds])
            for n in CLIENTS
        }
        for what in ("graph", "predictor")
    }
    return {"servers": servers, "bare_items_per_s": loops, "ratios": ratios | share}


def rate(part: dict[str, Any], server: str, clients: int) -> float:
    return float(part[server][str(clients)]["requests_per_s"])


def show(summary: dict[str, Any]) -> None:
    print(f"{'server':<16}" + "".join(f"{n:>4} clients: /s    p50    p99 cpu ms" for n in CLIENTS))
    keys = ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms_per_request")
    for name, loads in summary["servers"].items():
        cells = [[loads[str(n)][key]["median"] for key in keys] for n in CLIENTS]
        print(f"{name:<16}" + "".join(f"{a:>14.0f} {b:>6.1f} {c:>6.1f} {d:>6.2f}" for a, b, c, d in cells))
    for name, value in summary["bare_items_per_s"].items():
        print(f"bare {name:<20} {value['median']:.0f} items/s")
    for name, loads in summary["ratios"].items():
        print(f"{name:<26}" + "  ".join(f"{n}: {loads[str(n)]['median']:.2f}" for n in CLIENTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is made in a temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", default="auto", help="worker processes of Budwood")
    parser.add_argument("--no-result", action="store_true", help="print only, and leave the results file alone")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as work:
        bundle = bundle_at(options.bundle or Path(work) / "bundle")
        script = Path(work) / "post.lua"
        body = json.dumps({"text": TEXT})
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['content-type'] = 'application/json'\n"
        )
        environment = {"BENCHMARK_WORKERS": options.workers}
        before = describe()
        rounds = []
        for number in range(options.rounds):
            rounds.append(one_round(bundle.path, options.seconds, script, environment))
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    summary = summarize(rounds)
    show(summary)
    if not options.no_result:
        settings = {"rounds": options.rounds, "seconds": options.seconds, "workers": options.workers, "text": TEXT}
        versions = {name: version_of(name) for name in ("uvicorn", "uvloop", "httptools", "fastapi", "litserve")}
        versions["wrk"] = wrk_version()
        result = {"settings": settings, "machine": before, "servers_and_tools": versions, **summary, "rounds": rounds}
        print(write_result("serving", result))


def version_of(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def wrk_version() -> str:
    text = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True).stdout
    return text.split("\n", maxsplit=1)[0].strip()


if __name__ == "__main__":
    main()
