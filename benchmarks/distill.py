"""Claim: half the layers, distilled, answer 1.9 times as fast, and keep 97 % of the score or write within 15 %.

    python benchmarks/distill.py DATA_FOLDER STORE [JOB …]

The jobs `banking77` and `ag_news` adapt MiniLM (6 layers) to a text set and distil it to 3 layers; `generator` trains a
GPT-2 of 4 layers on plays and distils it to 2. Each student stands beside controls of the same budget: the teacher,
whose steps cost twice as much, trained on for half as many epochs, and the same layers trained without a teacher.
Half of MiniLM's weights are its table of tokens, so that its student is also measured with a third of that table.
Teacher and student are timed over ONNX Runtime in the same run, in turns. STORE keeps what was made, so that a job can
be run again; a model `banking77:1` that it has already is taken as it is.
DATA_FOLDER holds banking77/{train,test}.csv, ag_news/{dev,test}.tsv and tinyshakespeare/input.txt.
Result: benchmarks/results/distill.json, one entry a job; the script ends with status 1 where a bar is missed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from runs import budwood

from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.recipe import Recipe
from budwood.core.step import Context, Step
from budwood.core.store import Store
from budwood.engine.base_model import import_base
from budwood.engine.bases import find_base
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Decoder, Generator, Shape
from budwood.engine.language_lesson import documents_of
from budwood.engine.language_model import NEW, likelihood, load_language_model
from budwood.engine.machine import describe
from budwood.engine.measure import Scores, bench, ratio_of, score
from budwood.engine.predictor import Predictor
from budwood.engine.reading import read_dataset
from budwood.engine.statistics import better
from budwood.engine.text_quality import perplexity_ratio
from budwood.engine.vocabulary import Vocabulary
from budwood.runtimes.onnxruntime import OnnxRuntime
from budwood.steps.adapt.full import Full
from budwood.steps.adapt.language import Language
from budwood.steps.export.onnx import Onnx
from budwood.steps.shrink.drop_layers import DropLayers
from budwood.steps.shrink.drop_layers_language import DropLayersLanguage
from budwood.steps.shrink.trim_vocabulary import TrimVocabulary
from budwood.tasks.text_generation import TextGeneration

RESULT = Path(__file__).parent / "results" / "distill.json"
SEED = 0
LAYERS = 3
TEACHER_EPOCHS = 8
"""Of the new generator."""
RACE_SECONDS = 25.0
TOKENS = 10_000
TRIMMED = f"student with {TOKENS:,} tokens"
NEW_TOKENS = 20
BLOCK = 256
TEXT_SETS = {"banking77": ("train.csv", "test.csv"), "ag_news": ("dev.tsv", "test.tsv")}
BARS = {"smaller": 0.33, "faster": 1.9, "kept": 0.97, "perplexity_rise": 0.15}


def main() -> int:
    parser = argparse.ArgumentParser(description="Half the layers, distilled, against their teacher and controls.")
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("jobs", nargs="*", default=[*TEXT_SETS, "generator"])
    parser.add_argument("--epochs", type=int, default=4, help="of the students; the teacher goes on for half as many")
    asked = parser.parse_args()
    missed = False
    for job in asked.jobs:
        if job == "generator":
            found = generator(
                asked.data / "tinyshakespeare" / "input.txt", asked.work / ".distill-generator", asked.epochs
            )
        else:
            found = classifier(job, asked.data / job, asked.work, asked.epochs)
        found["bars"] = {name: bars(found, name) for name in ("student", TRIMMED) if name in found["models"]}
        missed |= not any(all(met.values()) for met in found["bars"].values())
        results = json.loads(RESULT.read_text()) if RESULT.exists() else {"jobs": {}}
        results["machine"] = describe()
        results["jobs"][job] = found
        RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(job, json.dumps(found, indent=1), flush=True)
    return int(missed)


def show(what: str, done: int, total: int, note: str) -> None:
    if done % 100 == 0:
        print(f"{what} {done}/{total} {note}", file=sys.stderr, flush=True)


def classifier(job: str, data: Path, work: Path, epochs: int) -> dict[str, Any]:
    """Teacher, student and controls on the test rows that no training has seen."""
    store = Store.default(work)
    if job not in store.names():
        train, test = (str(data / name) for name in TEXT_SETS[job])
        budwood("adapt", train, "--test", test, "--name", job, "--store", str(work))
    teacher = store.resolve(f"{job}:1").bundle
    record = teacher.manifest.data
    assert record is not None  # it has been adapted
    splits = store.load_splits(record.fingerprint)
    context = Context(work / "unused", work / f".distill-{job}" / "run", splits, seed=SEED, progress=show)
    ways: dict[str, Step] = {
        "student": DropLayers(layers=LAYERS, epochs=epochs),
        "control: same layers without a teacher": DropLayers(layers=LAYERS, hard=1.0, direction=0.0, epochs=epochs),
        "control: teacher trained on": Full(epochs=max(1, epochs // 2)),
    }
    models = {"teacher": teacher} | {name: made(teacher, (step,), context) for name, step in ways.items()}
    models[TRIMMED] = made(models["student"], (TrimVocabulary(TOKENS),), context)
    graphs = {name: made(bundle, (Onnx(),), context) for name, bundle in models.items()}
    scores = {name: scored(bundle, splits) for name, bundle in graphs.items()}
    kept = {name: value.value / scores["teacher"].value for name, value in scores.items()}
    return {
        "options": {"layers": LAYERS, "seed": SEED, "epochs": epochs},
        "rows": splits.sizes(),
        "models": {
            name: {
                "score": item.value,
                "ci": item.ci,
                "n": len(item),
                "kept": kept[name],
                "against_teacher": difference(scores["teacher"], item),
                "history": models[name].manifest.report.get("history"),
            }
            for name, item in scores.items()
        },
        "speed": speeds({name: graphs[name] for name in ("teacher", "student", TRIMMED)}, splits),
    }


def generator(data: Path, work: Path, epochs: int) -> dict[str, Any]:
    """Perplexity on held-out texts, and the time to continue a prompt by 20 tokens."""
    rows = read_dataset(data, task="text_generation").dataset
    splits = TextGeneration.split(rows, test=None, seed=SEED, shots=None)
    base = import_base(find_base(NEW, NEW, work / "bases", "text_generation"), work, TextGeneration)
    task = TextGeneration.from_rows(splits.train.rows)
    context = Context(work / "unused", work / "run", splits, task, SEED, progress=show)
    teacher = made(base, (Language(epochs=TEACHER_EPOCHS),), context)
    alone = DropLayersLanguage(hard=1.0, direction=0.0, epochs=epochs)
    ways: dict[str, Step] = {
        "student": DropLayersLanguage(epochs=epochs),
        "control: same layers without a teacher": alone,
        "control: teacher trained on": Language(epochs=max(1, epochs // 2)),
    }
    models = {"teacher": teacher} | {name: made(teacher, (step,), context) for name, step in ways.items()}
    documents = documents_of(Vocabulary.open(teacher.path), splits.test.rows)
    found = {name: likelihood(load_language_model(item.path), documents, BLOCK) for name, item in models.items()}
    ratios = {name: perplexity_ratio(item, found["teacher"]) for name, item in found.items()}
    raced = {name: models[name] for name in ("teacher", "student")}
    facts = ("parameters", "steps", "stopped", "schedule", "kept_layers", "history")
    return {
        "options": {"seed": SEED, "epochs": epochs},
        "rows": splits.sizes(),
        "test_tokens": int(found["teacher"].tokens.sum()),
        "models": {
            name: {
                "perplexity": item.perplexity,
                "ci": item.interval(),
                "against_teacher": {"ratio": ratios[name][0], "ci": ratios[name][1]},
                **{key: value for key, value in models[name].manifest.report.items() if key in facts},
            }
            for name, item in found.items()
        },
        "speed": {f"{threads} threads": writing_speeds(raced, splits, threads) for threads in (1, 2)},
    }


def writing_speeds(bundles: dict[str, Bundle], splits: Splits, threads: int) -> dict[str, Any]:
    """20 new tokens after a prompt of about 32, in turns, a second copy of the teacher being the control."""
    generators = {name: generator_of(bundle, threads) for name, bundle in bundles.items()}
    generators["control"] = generator_of(bundles["teacher"], threads)
    random = np.random.default_rng(SEED)
    times: dict[str, list[float]] = {name: [] for name in generators}
    began = time.perf_counter()
    while time.perf_counter() - began < RACE_SECONDS:
        row = splits.test.rows[int(random.integers(len(splits.test)))]
        prompt = " ".join(row["text"].split()[:24])
        asked = Sampling(max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, seed=len(times["teacher"]))
        for name in random.permutation(list(generators)).tolist():
            generators[name].complete([prompt], Sampling(max_tokens=1))  # not timed: it fills the caches
            start = time.perf_counter()
            generators[name].complete([prompt], asked)
            times[name].append(1e3 * (time.perf_counter() - start))
    found = {}
    for name, own in times.items():
        ratio, ci = ratio_of(times["teacher"], own)
        found[name] = {"p50_ms": float(np.median(own)), "ratio": ratio, "ratio_ci": ci, "rounds": len(own)}
        if name in bundles:
            found[name]["size_mb"] = bundles[name].serving_bytes / 1e6
    return found


def generator_of(bundle: Bundle, threads: int) -> Generator:
    runtime = OnnxRuntime.open(bundle, threads)
    return Generator(Decoder(runtime.run, Shape.read(bundle.path)), Vocabulary.open(bundle.path))


def made(parent: Bundle, steps: tuple[Step, ...], context: Context) -> Bundle:
    return Recipe(steps).run(parent, context, context.work.parent / "steps")


def scored(bundle: Bundle, splits: Splits) -> Scores:
    predictor = Predictor.open(bundle)
    try:
        return score(predictor, splits.test.rows)
    finally:
        predictor.close()


def difference(teacher: Scores, other: Scores) -> dict[str, Any]:
    """Paired, on the same test rows."""
    found = better(teacher.per_row, other.per_row)
    return {"difference": found.difference, "ci": found.ci, "p": found.p}


def speeds(bundles: dict[str, Bundle], splits: Splits) -> dict[str, Any]:
    """Single texts and batches of 32, end to end, with one thread and with two."""
    found: dict[str, Any] = {}
    for threads in (1, 2):
        raced = bench(bundles, splits.test.rows, reference="teacher", seconds=RACE_SECONDS, threads=threads, seed=SEED)
        found[f"{threads} threads"] = {
            name: {
                "p50_ms": speed.p50_ms,
                "ratio": speed.ratio,
                "ratio_ci": speed.ratio_ci,
                "batch_ratio": speed.batch_ratio,
                "batch_ratio_ci": speed.batch_ratio_ci,
                "noise": [speed.noise, speed.batch_noise],
                "size_mb": speed.size_mb,
                "memory_mb": speed.memory_mb,
            }
            for name, speed in raced.items()
        }
    return found


def bars(found: dict[str, Any], name: str) -> dict[str, bool]:
    """Whether a student reaches each bar, at the number of threads at which it gains more."""
    pairs = [(item["teacher"], item[name]) for item in found["speed"].values()]
    student = found["models"][name]
    met = {
        "smaller": min(1 - own["size_mb"] / teacher["size_mb"] for teacher, own in pairs) >= BARS["smaller"],
        "faster": max(own["ratio"] for _, own in pairs) >= BARS["faster"],
    }
    if "kept" in student:
        met["faster in batches"] = max(own["batch_ratio"] for _, own in pairs) >= BARS["faster"]
        return met | {"kept": student["kept"] >= BARS["kept"]}
    return met | {"perplexity": student["against_teacher"]["ratio"] - 1 < BARS["perplexity_rise"]}


if __name__ == "__main__":
    sys.exit(main())
