"""Which runtime answers fastest here: the ones that are installed race on a bundle's golden rows, and it is remembered.

`python -m budwood.engine.runtime_choice FOLDER SECONDS THREADS` measures in a process of its own, so that no library
that crashes, or starts threads, is left in the caller. The parent calls `decide`.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from budwood.core import registry
from budwood.core.bundle import Bundle, digest
from budwood.core.commit import write_atomic
from budwood.core.errors import BudwoodError, BundleError, StorageError
from budwood.core.step import Progress, silent
from budwood.core.task import Row
from budwood.engine import conformance
from budwood.engine.child import child_command, child_environment
from budwood.engine.machine import cpu_model, instruction_set, usable_cores
from budwood.engine.predictor import Predictor, default_runtime
from budwood.engine.providers import VARIABLE
from budwood.engine.table import note
from budwood.engine.user_cache import user_cache

if TYPE_CHECKING:
    from budwood.core.report import Speed

__all__ = ["Found", "chosen", "decide", "measure_runtimes", "present", "remembered"]

SECONDS = 3.0
LEAST_GAIN = 0.05
"""How much faster than the default another runtime must be, beyond the noise, to be worth having two."""
VERSION = 1
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Found:
    """What a runtime did with a bundle on this machine, beside the default runtime in the same seconds."""

    runtime: str
    ok: bool
    """Whether it gave the golden rows."""
    why: str = ""
    """Why it cannot be used, or why it is not taken; empty for the one that is."""
    ratio: float | None = None
    """How many times as fast as the default with single rows."""
    ratio_ci: tuple[float, float] | None = None
    batch_ratio: float | None = None
    noise: float | None = None
    """The default against itself: no smaller difference counts."""
    p50_ms: float | None = None


def present(bundle: Bundle) -> tuple[str, ...]:
    """The runtimes that are installed and read a format of this bundle, the default first.

    torch is not among them where there is a graph: it takes gigabytes and seconds to load, and was slower wherever we
    measured it.
    """
    default = default_runtime(bundle)
    names = [name for name in registry.names("runtimes") if name not in (default, "null", "torch")]
    return (default, *(name for name in names if usable(name, bundle)))


def usable(name: str, bundle: Bundle) -> bool:
    kind = registry.get("runtimes", name)
    return bool(bundle.formats & {*kind.reads}) and (not kind.library or find_spec(kind.library) is not None)


def measure_runtimes(
    bundle: Bundle,
    rows: Sequence[Row] = (),
    seconds: float = SECONDS,
    threads: int = 1,
    *,
    runtimes: Sequence[str] | None = None,
) -> Mapping[str, Found]:
    """Let runtimes take turns on the same rows, and remember the result for this bundle and machine.

    Args:
        rows: real rows; the golden rows when left out.
        seconds: how long the race may take beyond loading; three rounds are always run.
        threads: of one call; a serving worker has 1.
        runtimes: who takes part, the default first; `present` when left out.

    Returns:
        What was found of each, in their order. One that does not give the golden rows does not race.
    """
    from budwood.engine.runtime_race import prove  # a server that only looks up has no use for it

    names = present(bundle) if runtimes is None else tuple(runtimes)
    found: dict[str, Found] = {}
    with ExitStack() as stack:
        proven: dict[str, Predictor] = {}
        for name in names:
            try:
                proven[name] = prove(bundle, name, threads, stack)
            except Exception as error:  # noqa: BLE001  # whatever a library raises, it is not chosen
                found[name] = Found(name, ok=False, why=told(error))
        found |= raced(bundle, proven, names[0], rows, seconds, threads)
    ordered = {name: found[name] for name in names}
    if names == present(bundle):
        remember(bundle, ordered, threads)
    return ordered


def raced(
    bundle: Bundle,
    predictors: Mapping[str, Predictor],
    default: str,
    rows: Sequence[Row],
    seconds: float,
    threads: int,
) -> dict[str, Found]:
    """What a race shows of runtimes that give the golden rows. One that cannot go on is out; the others start anew.

    Where the default fails, or the rows, nothing is known of the others, and nothing speaks for them.
    """
    from budwood.engine.runtime_race import Failed, race, sample

    left, found, why = dict(predictors), dict[str, Found](), ""
    while default in left and len(left) > 1:
        try:
            speeds = race(left, default, sample(left[default], bundle, rows), seconds, threads)
            return found | {name: judged(name, speed, default) for name, speed in speeds.items()}
        except Failed as error:
            cause = told(error.__cause__ or error)
            found[error.name] = Found(error.name, ok=False, why=cause)
            del left[error.name]
            why = f"not raced: {default} failed: {cause}" if error.name == default else ""
        except Exception as error:  # noqa: BLE001  # rows that cannot be read stop no server and no search
            others = {name: Found(name, ok=False, why=f"not raced: {told(error)}") for name in left if name != default}
            return found | {default: Found(default, ok=True), **others}
    return found | {name: Found(name, ok=True, why=why) for name in left}


def told(error: BaseException) -> str:
    return (error.cause if isinstance(error, BudwoodError) else f"{type(error).__name__}: {error}")[:300]


def judged(name: str, speed: "Speed", default: str) -> Found:
    """The verdict on one runtime. The default stays unless another is clearly faster, and not slower in batches."""
    clearly = speed.rank == "faster" and speed.ratio_ci[0] > 1 + LEAST_GAIN
    batches = speed.batch_ratio_ci[1] < 1 and speed.batch_ratio < 1 - speed.batch_noise
    why = "" if name == default or (clearly and not batches) else f"{speed.ratio:.2f}x {default}: not clearly faster"
    if name != default and clearly and batches:
        why = f"{speed.ratio:.2f}x {default} with single rows, but {speed.batch_ratio:.2f}x in batches"
    return Found(
        name,
        ok=True,
        why=why,
        ratio=round(speed.ratio, 3),
        ratio_ci=(round(speed.ratio_ci[0], 3), round(speed.ratio_ci[1], 3)),
        batch_ratio=round(speed.batch_ratio, 3),
        noise=round(speed.noise, 3),
        p50_ms=round(speed.p50_ms, 3),
    )


def chosen(found: Mapping[str, Found], default: str) -> str:
    """The fastest of those that were clearly faster than the default; the default where there is none."""
    better = [item for item in found.values() if item.ok and not item.why and item.runtime != default]
    return max(better, key=lambda item: item.ratio or 0.0).runtime if better else default


def place(bundle: Bundle, threads: int = 1) -> Path:
    """The file with what was measured, by the model's own content and everything that decides its speed here.

    A copy of a bundle, and a version that differs in its report only, shares it.
    """
    names = [name for name in bundle.names if name.startswith("onnx/") or name == conformance.FILE]
    content = {name: bundle.manifest.files[name].sha256 for name in names}
    machine = {"instructions": instruction_set(), "cores": usable_cores(), "cpu": cpu_model()}
    libraries = {name: installed(registry.get("runtimes", name).library) for name in present(bundle)}
    asked = os.environ.get(VARIABLE, "")
    facts = {"version": VERSION, "files": content, "machine": machine, "libraries": libraries, "asked": asked}
    return user_cache("runtimes") / f"{digest(facts | {'threads': threads})[:32]}.json"


def installed(package: str) -> str:
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):
        return "unknown"


def remember(bundle: Bundle, found: Mapping[str, Found], threads: int = 1) -> None:
    """Keep a measurement; concurrent writers replace each other's whole file. Without a disk it is measured again."""
    content = json.dumps({name: asdict(item) for name, item in found.items()}, indent=1)
    try:
        write_atomic(place(bundle, threads), content.encode() + b"\n")
    except (OSError, StorageError):
        return


def read(content: Any) -> dict[str, Found]:
    """What was found, from its JSON. Raises ValueError, TypeError or AttributeError where it is anything else."""
    found = {}
    for name, fields in content.items():
        item = Found(**fields)
        if item.ratio_ci is not None:
            low, high = item.ratio_ci
            item = replace(item, ratio_ci=(low, high))
        numbers = (item.ratio, item.batch_ratio, item.noise, item.p50_ms, *(item.ratio_ci or ()))
        known = (item.runtime == name, type(item.ok) is bool, type(item.why) is str)
        if not all(known) or not all(number is None or is_number(number) for number in numbers):
            raise ValueError(f"the entry of {name} is off")
        found[name] = item
    return found


def is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast(float, value))


def recall(bundle: Bundle, threads: int = 1) -> dict[str, Found] | None:
    """What was measured of this bundle here before, with so many threads; None where nothing was.

    Raises:
        BundleError: the file is damaged.
    """
    path = place(bundle, threads)
    try:
        found = read(json.loads(path.read_bytes()))
        if list(found) != list(present(bundle)):
            raise ValueError("other runtimes")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise BundleError(
            f"the remembered measurement is damaged: {error}", where=str(path), fix="remove it"
        ) from error


def remembered(bundle: Bundle) -> str:
    """The runtime that `auto` takes: the one that was found to be the fastest here, else the default."""
    default = default_runtime(bundle)
    if len(present(bundle)) < 2:
        return default
    try:
        return chosen(recall(bundle) or {}, default)
    except BundleError:
        return default


def decide(bundle: Bundle, seconds: float = SECONDS, threads: int = 1, progress: Progress = silent) -> str:
    """The runtime to take, measured now, in a process of its own, where it was not measured before.

    Where there is no choice it costs nothing. `progress` gets a line with the choice and its reason.
    """
    default = default_runtime(bundle)
    if len(present(bundle)) < 2:
        return default
    again = ""
    try:
        found = recall(bundle, threads)
    except BundleError:
        found, again = None, "what was remembered was damaged, so it was measured anew; "
    if found is None:
        progress("runtime", 0, 0, note("runtime", "auto", f"measuring {' and '.join(present(bundle))}, once"))
        found = in_a_child(bundle, seconds, threads)
    name = chosen(found, default)
    progress("runtime", 0, 0, note("runtime", name, again + reason(found, name, default)))
    return name


def reason(found: Mapping[str, Found], name: str, default: str) -> str:
    if name != default and found[name].ratio is None:
        return f"{default}: {found[default].why}"
    if name != default:
        return f"{found[name].ratio:.2f}x as fast as {default} here, remembered"
    return "; ".join(f"{item.runtime}: {item.why}" for item in found.values() if item.why) or "the default"


def in_a_child(bundle: Bundle, seconds: float, threads: int) -> dict[str, Found]:
    """Measure in a fresh process; when it fails, nothing is known of any runtime but why, and that is remembered."""
    command = child_command("budwood.engine.runtime_choice", str(bundle.path), str(seconds), str(threads))
    surroundings = child_environment() | {"TOKENIZERS_PARALLELISM": "false"}
    try:
        child = subprocess.run(
            command, env=surroundings, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
        return read(json.loads(child.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, AttributeError, LookupError) as error:
        default, *others = present(bundle)
        why = f"measuring failed: {type(error).__name__}; to measure again, remove {place(bundle, threads)}"
        found = {default: Found(default, ok=True), **{name: Found(name, ok=False, why=why) for name in others}}
        remember(bundle, found, threads)
        return found


def main(arguments: Sequence[str]) -> None:
    folder, seconds, threads = arguments
    bundle = Bundle.open(folder, verify=False)
    found: dict[str, Any] = {
        name: asdict(item) for name, item in measure_runtimes(bundle, (), float(seconds), int(threads)).items()
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
