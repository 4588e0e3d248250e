"""What this machine is, how much memory a process took and what a run cost in energy: facts beside a measurement.

Nothing here tells who or where: no machine name, user name, address or path.
"""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from budwood.engine.carbon import CarbonTracker, open_tracker

__all__ = [
    "GRAMS_PER_KWH",
    "WATTS_PER_CORE",
    "Energy",
    "EnergyMeter",
    "InstructionSet",
    "describe",
    "instruction_set",
    "peak_memory_mb",
    "resident_memory_mb",
    "versions",
]

InstructionSet = Literal["amx", "vnni", "avx512", "avx2", "arm-dot", "arm", "other"]

WATTS_PER_CORE = 10.0
"""Assumed power of one busy core with its share of the machine, where no meter can be read. Server and laptop cores
draw about 4 to 15 watts; the assumption is stated wherever the estimate is shown."""
GRAMS_PER_KWH = 473.0
"""Carbon dioxide equivalent of a kilowatt-hour, world average of 2024 (Ember, Global Electricity Review 2025)."""

FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
)
PACKAGES = (
    "numpy",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "onnx",
    "torch",
    "transformers",
    "peft",
    "scikit-learn",
)
CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
POWERCAP = Path("/sys/class/powercap")


def describe() -> dict[str, Any]:
    """The machine and the software that ran on it, ready for JSON."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "cores_usable": usable_cores(),
        "instruction_set": instruction_set(),
        "flags": sorted(cpu_flags() & set(FLAGS)),
        "memory_gb": memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions(),
        "load_average": [round(item, 2) for item in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Versions of the packages that matter for a measurement and are installed; none of them is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def instruction_set() -> InstructionSet:
    """The best way of this CPU to multiply int8 numbers: it decides which quantization is fast.

    `avx2` and `avx512` have no int8 dot product: there 7-bit weights (`reduce_range`) keep the sums from overflowing.
    """
    flags = cpu_flags()
    if "amx_int8" in flags:
        return "amx"
    if flags & {"avx512_vnni", "avx_vnni"}:
        return "vnni"
    if flags & {"avx512f", "avx2"}:
        return "avx512" if "avx512f" in flags else "avx2"
    if platform.machine().lower() in ("arm64", "aarch64"):
        # Every Apple processor has the dot product; Linux lists it as a flag.
        return "arm-dot" if "asimddp" in flags or sys.platform == "darwin" else "arm"
    return "other"


def usable_cores() -> int:
    """Cores that this process may use; fewer than the machine has inside most containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> frozenset[str]:
    return frozenset((cpuinfo("flags") or cpuinfo("Features")).split())


def cpu_model() -> str:
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpuinfo(key: str) -> str:
    return value_of(CPUINFO, key)


def value_of(path: Path, key: str) -> str:
    """The first value of `key: value` lines such as those below /proc; empty where there is no such file or key."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def memory_gb() -> float | None:
    """Main memory in gigabytes (10^9 bytes); None where the system does not tell."""
    text = value_of(MEMINFO, "MemTotal")
    return round(int(text.split()[0]) * 1024 / 1e9, 1) if text else None


def resident_memory_mb() -> float:
    """Memory of this process that is in RAM now, in megabytes (10^6 bytes); the peak where only that can be read."""
    text = value_of(STATUS, "VmRSS")
    return int(text.split()[0]) * 1024 / 1e6 if text else peak_memory_mb()


def peak_memory_mb() -> float:
    """The most memory that this process has had in RAM at once, in megabytes (10^6 bytes); 0 on Windows."""
    try:
        import resource
    except ModuleNotFoundError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


@dataclass(frozen=True)
class Energy:
    """Energy of a run in watt-hours, and how it was come by."""

    wh: float
    method: str
    grams_per_kwh: float = GRAMS_PER_KWH
    """Of CO2, of the grid that was drawn from."""
    grid: str = "world average of 2024 (Ember)"
    country: str = ""
    """Where it was drawn, where that was named."""

    @property
    def grams(self) -> float:
        """CO2 of this energy."""
        return self.wh / 1000 * self.grams_per_kwh


def cpu_seconds() -> float:
    """Processor time of this process and of its ended children, in core-seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def rapl_joules() -> dict[str, tuple[float, float]]:
    """Joules counted so far and the count at which each meter starts again, by processor package; {} if unreadable."""
    counters = {}
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        try:
            # A second colon marks a part of a package, which the package's own count includes.
            if zone.name.count(":") == 1:
                count, limit = ((zone / name).read_text() for name in ("energy_uj", "max_energy_range_uj"))
                counters[zone.name] = (int(count) / 1e6, int(limit) / 1e6)
        except (OSError, ValueError):
            continue
    return counters


@dataclass
class EnergyMeter:
    """`with EnergyMeter() as meter: ...` and then `meter.energy`.

    By codecarbon where it is installed and the environment names a country (`budwood.engine.carbon`). Otherwise by the
    processor's own meter (RAPL) where it can be read: it counts the whole machine, other work included. Otherwise
    processor time times `watts_per_core`, which is an assumption and says so.
    """

    watts_per_core: float = WATTS_PER_CORE
    clock: Callable[[], float] = cpu_seconds
    _start: tuple[float, dict[str, tuple[float, float]]] = field(init=False, default=(0.0, {}))
    _tracker: CarbonTracker | None = field(init=False, default=None)

    def __enter__(self) -> Self:
        self._start = (self.clock(), rapl_joules())
        self._tracker = open_tracker()
        return self

    def __exit__(self, *error: object) -> None:
        if self._tracker is not None:
            self._tracker.stop()

    @property
    def energy(self) -> Energy:
        """Energy from entering the block until now, or until its end."""
        if self._tracker is not None:
            wh, grams = self._tracker.read()
            method, country = "codecarbon, offline, of this process", self._tracker.country
            if not wh:
                # Nothing was counted yet, so the intensity of this country's grid is not known.
                return Energy(wh, method, country=country)
            return Energy(wh, method, 1000 * grams / wh, country, country)
        seconds, before = self._start
        after = rapl_joules()
        if before and after.keys() == before.keys():
            joules = sum((after[zone][0] - before[zone][0]) % after[zone][1] for zone in after)
            return Energy(joules / 3600, "measured: RAPL, the whole processor package")
        watt_seconds = (self.clock() - seconds) * self.watts_per_core
        return Energy(watt_seconds / 3600, f"estimated: processor time x {self.watts_per_core:g} W per core (assumed)")
