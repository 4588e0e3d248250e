"""Claim: `budwood serve` answers less than 1.5 s after it was started, and one worker needs less than 250 MB.

Each run is a fresh process that opens the bundle (all hashes are checked), starts the workers, and answers once.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from overload import children
from servers import PORT, serving
from serving_model import bundle_at, write_result

from budwood.engine.machine import describe


def status_mb(pid: int, field: str) -> float:
    """A field of a process's status or memory map, such as VmRSS or Pss, in MB."""
    name = "smaps_rollup" if field == "Pss" else "status"
    for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)


def one_start(bundle: Path, workers: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).parent / "budwood"), "serve", str(bundle), "--port", str(PORT)]
    start = time.perf_counter()
    with serving("budwood", bundle, {}, 0.005, [*command, "--workers", workers]) as (_, pid):
        seconds = time.perf_counter() - start
        processes = children(pid)
        return {
            "seconds_to_first_answer": seconds,
            "worker_resident_mb": max(status_mb(child, "VmRSS") for child in processes),
            "worker_peak_mb": max(status_mb(child, "VmHWM") for child in processes),
            "parent_resident_mb": status_mb(pid, "VmRSS"),
            "all_proportional_mb": sum(status_mb(item, "Pss") for item in (pid, *processes)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is made in a temporary folder")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--no-result", action="store_true", help="print only, and leave the results file alone")
    options = parser.parse_args()
    machine = describe()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        bundle = bundle_at(options.bundle or Path(work) / "bundle")
        for workers in ("1", "2"):
            one_start(bundle.path, workers)
            runs = [one_start(bundle.path, workers) for _ in range(options.runs)]
            result[f"{workers} workers"] = {
                key: {
                    "median": round(statistics.median(run[key] for run in runs), 3),
                    "max": round(max(run[key] for run in runs), 3),
                }
                for key in runs[0]
            }
    for name, values in result.items():
        print(name, {key: value["median"] for key, value in values.items()})
    if not options.no_result:
        print(write_result("startup", {"settings": {"runs": options.runs}, "machine": machine, **result}))


if __name__ == "__main__":
    main()
