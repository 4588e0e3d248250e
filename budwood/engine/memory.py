"""Resident memory of a process that serves one bundle: run as a fresh child, it imports what serving imports.

`python -m budwood.engine.memory FOLDER RUNTIME THREADS` reads rows as JSON from stdin and writes one JSON object. The
parent calls `serving_memory`. The HTTP server itself, some 20 MB, is not part of the number.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.task import Row
from budwood.engine.child import child_command, child_environment
from budwood.engine.machine import resident_memory_mb

__all__ = ["Memory", "serving_memory"]

TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes) in RAM after the model has answered single rows and batches."""

    total_mb: float
    growth_mb: float
    """The part that came with opening the model and answering, beyond Python and the libraries."""


def serving_memory(bundle: Bundle, rows: Sequence[Row], runtime: str = "auto", threads: int = 1) -> Memory:
    """Serve `rows` in a fresh process, one by one and as one batch, and read its memory.

    Raises:
        StepError: the child failed; the message has its last words.
    """
    child = subprocess.run(
        child_command("budwood.engine.memory", str(bundle.path), runtime, str(threads)),
        input=json.dumps([dict(row) for row in rows], default=str),
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if child.returncode != 0:
        last = " ".join(line.strip() for line in child.stderr.strip().splitlines()[-3:])
        raise StepError("the memory of the model could not be measured", where=last or "the child said nothing")
    return Memory(**json.loads(child.stdout))


def serve(folder: str, runtime: str, threads: int, rows: Sequence[Row]) -> Memory:
    from budwood.engine.predictor import Predictor, task_of

    bundle = Bundle.open(folder, verify=False)
    task_of(bundle)  # imports the task, so that only the model itself counts as growth
    before = resident_memory_mb()
    predictor = Predictor.open(bundle, runtime, threads)
    for row in rows:
        predictor.predict([row])
    predictor.predict(rows)
    return Memory(resident_memory_mb(), resident_memory_mb() - before)


def main(arguments: Sequence[str]) -> None:
    folder, runtime, threads = arguments
    memory = serve(folder, runtime, int(threads), json.load(sys.stdin))
    sys.stdout.write(json.dumps({"total_mb": memory.total_mb, "growth_mb": memory.growth_mb}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
