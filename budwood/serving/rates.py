"""Rate limits that all workers keep together: token buckets in shared memory, each two numbers.

A bucket is the time at which it will be full again (the generic cell rate algorithm of ITU-T I.371), so nothing has to
be refilled. Nothing is locked: two workers that ask within the same microsecond may let one request more through.
"""

import hashlib
import time
from collections.abc import Callable
from ctypes import Array, c_double
from multiprocessing.sharedctypes import RawArray

__all__ = ["Rates", "allocate_rates", "identity"]

SLOTS = 4096
"""Buckets that are remembered; 64 KB. Where they do not suffice, the one that is full the soonest is given up."""
PROBES = 8
"""Neighbouring places in which a bucket may be."""


def allocate_rates() -> "Array[c_double]":
    """The shared memory, zeroed. It passes to child processes by fork and by spawn."""
    return RawArray(c_double, 2 * SLOTS)


def identity(who: str) -> int:
    """A number for a name, from 1 to 2^52, which a double holds exactly."""
    return int.from_bytes(hashlib.sha256(who.encode("utf-8", "surrogateescape")).digest()[:6], "big") + 1


class Rates:
    """Buckets by number.

    Args:
        memory: shared among workers; a private one is made when left out.
        clock: seconds, the same in all processes of the machine.
    """

    def __init__(self, memory: "Array[c_double] | None" = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.cells = memoryview(memory if memory is not None else allocate_rates()).cast("B").cast("d")
        self.clock = clock

    def take(self, who: int, per_minute: int) -> float:
        """Take one from a bucket that holds `per_minute` and is filled as fast. Returns 0, or the seconds to wait."""
        now = self.clock()
        place = self.place(float(who), now)
        full = max(now, self.cells[place + 1])
        step = 60.0 / per_minute
        wait = full + step - now - 60.0
        # A thousandth of a step: sums of steps are not exact.
        if wait > step / 1000:
            return wait
        self.cells[place + 1] = full + step
        return 0.0

    def place(self, who: float, now: float) -> int:
        """Where the bucket is; a full one is as good as none, so its place may be taken."""
        cells, start = self.cells, int(who)
        home = 2 * (start % SLOTS)
        if cells[home] == who:
            return home
        places = [2 * ((start + probe) % SLOTS) for probe in range(PROBES)]
        for place in places:
            if cells[place] == who:
                return place
        chosen = min(places, key=lambda place: cells[place + 1])
        cells[chosen + 1] = now
        cells[chosen] = who
        return chosen
