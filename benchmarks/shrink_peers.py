"""Claim: what `budwood shrink` chooses is on or beyond the Pareto front of Olive's and NNCF's accuracy-aware searches.

    python benchmarks/shrink_peers.py DATA_FOLDER --work FOLDER [--store DIR] [--model NAME] [--olive DIR] [STAGE …]

One float model, MiniLM adapted to Banking77, goes to all: `budwood shrink` with drops of 1.0 and 2.5 points; Olive's
search over dynamic and static int8 with a goal of 1.0 point and latency as what is to be small; NNCF's quantization
without and with accuracy control (1.0 point) for OpenVINO, and without for ONNX Runtime. All calibrate with the same
training rows and choose by the same validation rows. What they choose answers the same 3,080 test rows, and is timed
end to end, in turns, with one and two threads: single texts of about 16 tokens, and batches of 32.
The stages are budwood, nncf, olive and measure; a search whose record is in FOLDER is not run again. --store and
--model name an adapted model that is there already, --olive a folder that has Olive and what it needs.
Result: benchmarks/results/shrink_peers.json
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from runs import budwood
from shrink_peers_search import MAX_DROP, SHORT, Found, Work, search_budwood, search_nncf, search_olive

from budwood.core.bundle import Bundle
from budwood.core.runtime import Runtime
from budwood.core.store import Store
from budwood.core.task import Arrays, Row
from budwood.engine.machine import describe
from budwood.engine.measure import Scores, Timing, race, ratio_of, score, summarise
from budwood.engine.predictor import Predictor
from budwood.engine.statistics import better, non_inferiority
from budwood.runtimes.onnxruntime import OnnxRuntime

RESULT = Path(__file__).parent / "results" / "shrink_peers.json"
PARENT = "float, onnxruntime"
OWN = "budwood"
PACKAGES = ("onnxruntime", "openvino", "nncf", "olive-ai", "optuna", "torch", "transformers")
THREADS = (1, 2)


class OpenVino(Runtime):
    """The peer's runtime as its documents set it up for short answers; numbers as the CPU has them fast."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.request: Any = compiled.create_infer_request()
        self.names = [item.get_any_name() for item in compiled.inputs]

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> "OpenVino":
        return cls(bundle.model_file("onnx"), threads)

    def run(self, inputs: Arrays) -> Arrays:
        found = self.request.infer({name: inputs[name] for name in self.names}, share_inputs=True)
        return {"logits": np.array(found["logits"])}

    def close(self) -> None:
        self.request = None


class Contestant:
    """A model that one of the searches chose, or the float parent, in one runtime."""

    def __init__(self, work: Work, path: Path, runtime: str, bundle: Bundle | None = None) -> None:
        self.work, self.path, self.runtime, self.bundle = work, path, runtime, bundle

    def open(self, threads: int) -> Predictor:
        if self.bundle is not None:
            return Predictor.open(self.bundle, threads=threads)
        task, encoder = self.work.tools()
        if self.runtime == "openvino":
            runtime: Runtime = OpenVino(self.path, threads)
        else:
            runtime = OnnxRuntime(self.path.read_bytes(), threads, providers=("cpu",))
        return Predictor(task, encoder, runtime, self.work.parent.manifest.calibration)

    @property
    def size_mb(self) -> float:
        files = {self.path, self.path.with_suffix(".bin")} if self.path.suffix == ".xml" else {self.path}
        return round(sum(path.stat().st_size for path in files) / 1e6, 1)


def contestants(work: Work, searches: Mapping[str, Found]) -> dict[str, Contestant]:
    """The parent in both runtimes, and every model that a search has chosen."""
    parent = work.parent.model_file("onnx")
    found = {
        PARENT: Contestant(work, parent, "onnxruntime"),
        "float, openvino": Contestant(work, work.plain_graph(), "openvino"),
    }
    for name, search in searches.items():
        if name.startswith(OWN) and search.get("path"):
            bundle = Bundle.open(Path(search["path"]))
            found[name] = Contestant(work, bundle.model_file(best(bundle)), "onnxruntime", bundle)
        elif "file" in search:
            found[name] = Contestant(work, work.home / search["file"], search["runtime"])
    return found


def best(bundle: Bundle) -> str:
    """The format that a server would load."""
    return next(format for format in OnnxRuntime.reads if format in bundle.formats)


def measure(work: Work, searches: Mapping[str, Found], seconds: float) -> dict[str, Any]:
    """Accuracy and speed of all, and who is on whose front."""
    entries = contestants(work, searches)
    rows = list(work.splits.test.rows)[: work.rows]
    scores: dict[str, Scores] = {}
    for name, entry in entries.items():
        predictor = entry.open(max(THREADS))
        scores[name] = score(predictor, rows)
        predictor.close()
    _, encoder = work.tools()
    short = [row for row in rows if encoder([row]).inputs["input_ids"].shape[1] in SHORT]
    times = {threads: timed(entries, rows, short, threads, seconds) for threads in THREADS}
    table = {name: line(name, entry, scores, times) for name, entry in entries.items()}
    return {
        "n": len(rows),
        "short_texts": len(short),
        "models": table,
        "fronts": {
            f"{kind}, threads {threads}": front(kind, scores, times[threads])
            for threads in THREADS
            for kind in ("single", "batch")
        },
    }


Rounds = dict[str, dict[str, Timing]]


def timed(
    entries: Mapping[str, Contestant], rows: Sequence[Row], short: Sequence[Row], threads: int, seconds: float
) -> Rounds:
    """Two races: single texts come from the short ones, batches from all."""
    predictors = {name: entry.open(threads) for name, entry in entries.items()}
    asked = predictors[PARENT].task.asked
    found = {
        "single": race(predictors, asked(short), reference=PARENT, seconds=seconds),
        "batch": race(predictors, asked(rows), reference=PARENT, seconds=seconds),
    }
    for predictor in predictors.values():
        predictor.close()
    return found


def line(name: str, entry: Contestant, scores: Mapping[str, Scores], times: Mapping[int, Rounds]) -> dict[str, Any]:
    """One row of the table."""
    own = scores[name]
    verdict = non_inferiority(scores[PARENT].per_row, own.per_row, MAX_DROP)
    speeds: dict[str, Any] = {}
    for threads, rounds in times.items():
        facts = {"size_mb": entry.size_mb, "memory": (None, None), "threads": threads, "batch_size": 32}
        one, many = (summarise(rounds[kind], name, PARENT, **facts) for kind in ("single", "batch"))
        speeds[f"threads {threads}"] = {
            "p50_ms": one.p50_ms,
            "p95_ms": one.p95_ms,
            "single_ratio": one.ratio,
            "single_ratio_ci": one.ratio_ci,
            "noise": one.noise,
            "rounds": len(rounds["single"][name].batches),
            "batch_items_per_s": many.items_per_s,
            "batch_ratio": many.batch_ratio,
            "batch_ratio_ci": many.batch_ratio_ci,
            "batch_noise": many.batch_noise,
        }
    return {
        "runtime": entry.runtime,
        "size_mb": entry.size_mb,
        "accuracy": own.value,
        "ci": own.ci,
        "drop": verdict.drop,
        "drop_ci": verdict.drop_ci,
        "flips": verdict.flips,
        **speeds,
    }


def front(kind: str, scores: Mapping[str, Scores], rounds: Rounds) -> dict[str, Any]:
    """Accuracy against speed: the peers' front, and for each of our models which peers are better, and which worse.

    A peer is better when it is at least as accurate and as fast and more of one; clearly better, when it is so by a
    difference that the data can tell: of accuracy by the paired test, of speed by the interval of the ratio and by the
    control's noise. A model is on or beyond the front when no peer is clearly better; graphs that are alike tie.
    """
    own = [name for name in scores if name.startswith(OWN)]
    peers = [name for name in scores if name not in own and name != PARENT]
    at = {name: (scores[name].value, 1 / centre(kind, rounds, name)) for name in scores}
    found: dict[str, Any] = {"peers_front": [name for name in peers if not any(beats(at[o], at[name]) for o in peers)]}
    for name in own:
        over = [peer for peer in peers if beats(at[peer], at[name])]
        under = [peer for peer in peers if beats(at[name], at[peer])]
        clear = [peer for peer in over if clearly(kind, scores, rounds, peer, name)]
        found[name] = {
            "on_or_beyond": not clear,
            "on_or_beyond_by_medians": not over,
            "better_peers": over,
            "clearly_better_peers": clear,
            "worse_peers": under,
            "clearly_worse_peers": [peer for peer in under if clearly(kind, scores, rounds, name, peer)],
            "speed_against_peers": {peer: against(kind, rounds, peer, name) for peer in peers},
        }
    return found


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def clearly(kind: str, scores: Mapping[str, Scores], rounds: Rounds, one: str, other: str) -> bool:
    """Whether `one`, which is better, is so by more than chance in accuracy or in speed."""
    accurate = better(scores[other].per_row, scores[one].per_row).significant
    ratio, (low, _) = against(kind, rounds, other, one)
    noise = summarise_noise(kind, rounds)
    return accurate or (low > 1 and ratio > 1 + noise)


def summarise_noise(kind: str, rounds: Rounds) -> float:
    speed = summarise(rounds[kind], PARENT, PARENT, size_mb=0.0, memory=(None, None), threads=1, batch_size=32)
    return speed.noise if kind == "single" else speed.batch_noise


def blocks(kind: str, rounds: Rounds, name: str) -> list[float]:
    """One time a round, in nanoseconds."""
    timing = rounds[kind][name]
    return (
        [float(np.median(block)) for block in timing.singles] if kind == "single" else list(map(float, timing.batches))
    )


def centre(kind: str, rounds: Rounds, name: str) -> float:
    return float(np.median(blocks(kind, rounds, name)))


def against(kind: str, rounds: Rounds, base: str, own: str) -> tuple[float, tuple[float, float]]:
    """How many times as fast `own` is as `base`, by the rounds that both ran."""
    return ratio_of(blocks(kind, rounds, base), blocks(kind, rounds, own))


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def public(work: Work, searches: Mapping[str, Found]) -> dict[str, Found]:
    """The records without paths of this machine."""
    hidden = {"path", "plot", "file", "machine", "id"}
    kept = ("recipe", "score", "drop", "drop_ci", "verdict", "why", "within_budget", "size_mb", "ratio")
    result = {}
    for name, found in searches.items():
        shown = {key: value for key, value in found.items() if key not in hidden}
        if "candidates" in shown:
            shown["candidates"] = [{key: item.get(key) for key in kept} for item in shown["candidates"]]
        if "tried" in shown:
            shown["tried"] = [{key: value for key, value in item.items() if key != "file"} for item in shown["tried"]]
        result[name] = shown
    text = json.dumps(result)
    for folder in (work.home, work.store):
        text = text.replace(str(folder), "WORK")  # in messages of errors
    cleaned: dict[str, Found] = json.loads(text)
    return cleaned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("stages", nargs="*", default=["budwood", "nncf", "olive", "measure"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="default: FOLDER/store")
    parser.add_argument("--model", default="banking77")
    parser.add_argument("--olive", type=Path, help="a folder with Olive, where it is not installed")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each race")
    parser.add_argument("--rows", type=int, help="of each split, to try a change")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    work = Work(given.work.resolve(), (given.store or given.work / "store").resolve(), given.model, given.rows)
    if given.model not in Store.default(work.store).names():
        train, test = (str(given.data / "banking77" / f"{part}.csv") for part in ("train", "test"))
        budwood("adapt", train, "--test", test, "--name", given.model, "--store", str(work.store))
    searches = search_budwood(work, "budwood" in given.stages)
    searches |= search_nncf(work, "nncf" in given.stages)
    searches |= search_olive(work, given.olive, "olive" in given.stages)
    if "measure" in given.stages:
        result = {
            "machine": describe(),
            "versions": versions(),
            "searches": public(work, searches),
            **measure(work, searches, given.seconds),
        }
        if given.rows is None:
            RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({key: result[key] for key in ("models", "fronts")}, indent=1))


if __name__ == "__main__":
    main()
