"""What `budwood demo` needs besides the verbs: the example table, a race of the stages' results, and a served model."""

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from budwood.core.errors import BudwoodError, NotFoundError
from budwood.core.step import Progress, silent
from budwood.core.store import Entry, Store
from budwood.engine.child import child_command, child_environment
from budwood.engine.measure import bench

__all__ = ["Answered", "Stage", "ask", "example_table", "race", "served"]

TABLE = "tickets.csv"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Stage:
    """What one stage of the demo made, measured beside the others."""

    stage: str
    model: str
    score: float
    ci: tuple[float, float]
    p50_ms: float
    p95_ms: float
    items_per_s: float
    size_mb: float
    memory_mb: float | None
    seconds: float
    """How long the stage took."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answered:
    """What a served model said, and how long that took over HTTP."""

    answers: Sequence[Mapping[str, Any]]
    p50_ms: float
    """Median time of one request, from the client's side."""


def example_table() -> Path:
    """The example tickets: from the wheel, or from `examples/` in a checkout.

    Raises:
        NotFoundError: this installation has no examples.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / TABLE).is_file():
            path = folder / TABLE
            return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    raise NotFoundError(f"the example table {TABLE} is not installed", where=str(package), fix="budwood adapt DATA")


def race(
    made: Sequence[tuple[str, Entry, float]], store: Store, *, seconds: float = 8.0, progress: Progress = silent
) -> list[Stage]:
    """Measure the stages' models in turns, on the test rows of the last one.

    Args:
        made: name, model and seconds of each stage; the first one is the reference.
        seconds: how long the race may take, all models together.
    """
    record = made[-1][1].bundle.manifest.data
    if record is None:
        raise NotFoundError("the model names no data", where=str(made[-1][1].bundle.path), fix="budwood demo")
    rows = store.load_splits(record.fingerprint).test.rows
    speeds = bench({name: entry.bundle for name, entry, _ in made}, rows, seconds=seconds, progress=progress)
    stages = []
    for name, entry, took in made:
        score = next(iter(entry.bundle.manifest.metrics.values()))
        speed = speeds[name]
        stages.append(
            Stage(
                stage=name,
                model=f"{entry.name}:{entry.version}",
                score=score.value,
                ci=score.ci,
                p50_ms=speed.p50_ms,
                p95_ms=speed.p95_ms,
                items_per_s=speed.items_per_s,
                size_mb=speed.size_mb,
                memory_mb=speed.memory_mb,
                seconds=took,
            )
        )
    return stages


@contextmanager
def served(entry: Entry) -> Iterator[str]:
    """The address of a `budwood serve` in a process of its own, on a free port; it ends with the block.

    Raises:
        BudwoodError: it did not start.
    """
    command = child_command("budwood", "serve", str(entry.bundle.path.absolute()), "--port", "0", "--json")
    with subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            line = first_line(process)
            yield str(json.loads(line)["url"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)


def first_line(process: "subprocess.Popen[str]") -> str:
    """What the server prints when it is ready. Raises BudwoodError when it ends before that."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(START_SECONDS)
        raise BudwoodError(
            f"the server did not start (exit code {process.returncode})", where="budwood serve", fix="see above"
        )
    return line


def ask(url: str, texts: Sequence[str], repeats: int = 20) -> Answered:
    """Send every text to `/predict`, the first one several times more for the clock."""
    answers = [post(url, {"text": text}) for text in texts]
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        post(url, {"text": texts[0]})
        times.append(1000 * (time.perf_counter() - start))
    return Answered(answers, median(times))


def post(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One request without any proxy of the environment: the server is on this machine."""
    request = urllib.request.Request(  # noqa: S310  # an address that we were told by our own server
        f"{url}/predict", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=START_SECONDS) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
