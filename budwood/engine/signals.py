"""Ctrl-C and SIGTERM become a flag that a training loop reads between two steps, so that it can save first."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "Terminated", "interruptible"]


class Terminated(BaseException):
    """SIGTERM came and the state is saved. Exit code 143."""


class Interruption:
    """Whether a signal has come, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def stop(self) -> None:
        """End the run after its state was saved, in the way the signal asks for."""
        if self.signal == signal.SIGTERM:
            raise Terminated
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catch the first SIGINT or SIGTERM as a flag; a second one ends the process at once, as ever.

    Outside the main thread signals cannot be caught, and the flag stays unset.
    """
    state = Interruption()
    before: dict[int, signal.Handlers | int | None] = {}

    def note(number: int, frame: FrameType | None) -> None:
        state.signal = number
        restore()

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            signal.signal(number, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)  # type: ignore[assignment]
    except ValueError:  # not the main thread
        before.clear()
    try:
        yield state
    finally:
        restore()
