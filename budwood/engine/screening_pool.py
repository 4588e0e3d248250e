"""Worker processes that score chunks side by side, or the calling process itself where none are wanted.

They are plain child processes with pipes: nothing of the caller's main module is run again, and when the parent is
killed their input ends, and so do they.
"""

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import Any, Self

from budwood.core.errors import StepError
from budwood.engine.child import child_command, child_environment
from budwood.engine.screening_worker import Opening, Scorer

__all__ = ["Pool"]

Answer = Callable[[], dict[str, Any]]


class Pool:
    """Use it as a context. `submit` gives a function that waits for the answer."""

    def __init__(self, opening: Opening, workers: int) -> None:
        """Raises UsageError or BundleError at once when the bundle cannot be screened with."""
        self.opening = opening
        self.workers = workers
        self.ahead = 2 * workers
        """Chunks to have in flight: enough that no worker waits, few enough that memory stays flat."""
        self.local = Scorer(opening)
        self.stack = ExitStack()
        self.idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()

    def __enter__(self) -> Self:
        if self.workers:
            self.threads = self.stack.enter_context(ThreadPoolExecutor(self.workers))
            for _ in range(self.workers):
                process = subprocess.Popen(
                    child_command("budwood.engine.screening_worker"),
                    env=child_environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                self.stack.callback(stop, process)
                assert process.stdin is not None
                process.stdin.write(json.dumps(list(self.opening)) + "\n")
                self.idle.put(process)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()
        self.local.close()

    def submit(self, smiles: Sequence[str], floor: float) -> Answer:
        """Score a chunk. Raises StepError, when the answer is asked for, if a worker has died."""
        if not self.workers:
            answer = self.local.score(smiles, floor)
            return lambda: answer
        line = json.dumps([list(smiles), floor if math.isfinite(floor) else None])
        return self.threads.submit(self.ask, line).result

    def ask(self, line: str) -> dict[str, Any]:
        process = self.idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline() or "null")
        except (OSError, ValueError) as error:
            raise lost(process) from error
        finally:
            self.idle.put(process)
        if answer is None:
            raise lost(process)
        return answer


def lost(process: "subprocess.Popen[str]") -> StepError:
    state = process.poll()
    ended = "no longer answers" if state is None else f"ended with status {state}"
    fix = "run the same command again: it goes on from the last checkpoint; fewer --workers take less memory"
    return StepError(f"a screening process {ended}", where="screening", fix=fix)


def stop(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what is still in the buffer has no reader any more
                pipe.close()
