"""How much memory there is for the server, how much a process takes, and how it gives some back."""

import ctypes
from pathlib import Path

from budwood.core.errors import UsageError
from budwood.engine.machine import memory_gb

__all__ = ["container_megabytes", "give_back", "process_megabytes", "share"]

CGROUP = Path("/sys/fs/cgroup/memory.max")
PROC = Path("/proc")
AUTO_SHARE = 0.6
"""Of the memory, what `auto` lets open models take; the rest is for requests, and for what the system keeps."""


def container_megabytes() -> float:
    """Memory of this container, else of the machine, in megabytes (10^6 bytes); 0 where the system does not tell."""
    machine = (memory_gb() or 0.0) * 1e3
    try:
        limit = int(CGROUP.read_text()) / 1e6
    except (OSError, ValueError):  # there is no such file, or the limit is "max"
        return machine
    return min(limit, machine) if machine else limit


def process_megabytes(pid: int) -> float:
    """Resident memory of a process in megabytes (10^6 bytes); 0 where the system does not tell, or it has ended."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:")), 0.0)


def give_back() -> None:
    """Return to the system what the C library keeps of freed memory; a model leaves many holes of tens of megabytes.

    It takes milliseconds, and does nothing where the library has no such call.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return


def share(memory: "float | str | None") -> float:
    """Megabytes that open models may take together: a number, `auto`, or None for no limit.

    Raises:
        UsageError: it is neither, or `auto` where the memory of the machine is not known.
    """
    if memory is None:
        return float("inf")
    if memory == "auto":
        there = container_megabytes() * AUTO_SHARE
        if not there:
            raise UsageError("the memory of this machine is not known", where="--memory", fix="--memory MEGABYTES")
        return there
    try:
        number = float(memory)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{memory!a} is no number of megabytes", where="--memory", fix="--memory 500, or auto")
    return number
