"""How far a long stage is: a bar with what is left of it on a terminal, now and then a plain line elsewhere."""

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Bars", "Lines", "duration"]

EVERY_SECONDS = 5.0


def duration(seconds: float) -> str:
    """Seconds for people: `0.8 s`, `42 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def memory() -> str:
    """Resident memory of this process, where the system tells it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return ""
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"


@final
class Lines:
    """The first and the last step of each stage, and a line every few seconds between them."""

    def __init__(
        self,
        write: Callable[[str], None],
        every: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.write = write
        self.every = every
        self.clock = clock
        self.what = ""
        self.ended = False

    def __call__(self, what: str, done: int, total: int, note: str) -> None:
        now = self.clock()
        if what != self.what or (self.ended and done < total):
            self.what, self.began, self.first, self.shown, self.ended = what, now, done, -math.inf, False
        if self.ended or (done < total and now - self.shown < self.every):
            return
        self.shown, self.ended = now, done >= total
        if done == 0:
            self.write(f"{what} …")
            return
        parts = [f"{what}: {done:,} of {total:,}", self.timing(now, done, total), note]
        self.write(", ".join(part for part in parts if part))

    def timing(self, now: float, done: int, total: int) -> str:
        spent, fresh = now - self.began, done - self.first
        if done >= total:
            return duration(spent) if fresh > 0 else ""
        return f"about {duration(spent / fresh * (total - done))} left" if fresh > 0 else ""

    def close(self) -> None:
        """Nothing is left on the screen."""


@final
class Bars:
    """One moving line for the stage that runs; a stage that is done leaves a line with its time and last note."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bar: RichProgress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}  {task.fields[memory]}", style="dim", markup=False),
            console=Console(stderr=True),
            refresh_per_second=5,
            transient=True,
        )
        self.bar.start()
        self.task: TaskID | None = None
        self.what = ""
        self.began = 0.0

    def __call__(self, what: str, done: int, total: int, note: str) -> None:
        if self.task is None and what == self.what and done >= total:
            return
        if self.task is None or what != self.what:
            self.remove()
            self.what, self.began = what, time.monotonic()
            self.task = self.bar.add_task(what, total=total, completed=done, note=note, memory=memory())
        self.bar.update(self.task, completed=done, total=total, note=note, memory=memory())
        if done >= total:
            self.remove()
            took = duration(time.monotonic() - self.began)
            self.note(f"{what}: {took}, {note}" if note else f"{what}: {took}")

    def remove(self) -> None:
        """Take the moving line away."""
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def note(self, text: str) -> None:
        """A line above the bar; it may hold ANSI colours."""
        from rich.text import Text

        self.bar.console.print(Text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        """Remove the bar; a stage that did not end leaves no line."""
        self.bar.stop()
