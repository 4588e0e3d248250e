"""On Banking77 and AG News, a search of 15 minutes finds models that keep 1 and 2.5 points and multiply the speed.

    python benchmarks/shrink_texts.py banking77|ag_news DATA_FOLDER STORE

Adapts MiniLM to all training rows (skipped when STORE has the model), shrinks it to both budgets, and races what was
published against transformers with torch in eager mode, in the same run: single texts of about 16 tokens, and batches
of 32 test texts.
DATA_FOLDER has banking77/{train,test}.csv and ag_news/{dev,test}.tsv; of AG News, `dev` is what there is to learn from.
Result: benchmarks/results/shrink_banking77.json, shrink_ag_news.json
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core.bundle import Bundle
from budwood.core.runtime import Runtime
from budwood.core.store import Store
from budwood.core.task import Arrays, Encoded, Row
from budwood.engine.machine import describe
from budwood.engine.measure import race, summarise
from budwood.engine.predictor import Predictor

RESULTS = Path(__file__).parent / "results"
FILES = {"banking77": ("train.csv", "test.csv"), "ag_news": ("dev.tsv", "test.tsv")}
TOKENS = range(14, 19)
RACED = 1000
"""Test texts that the race of batches takes turns on, spread over all."""
SECONDS = 45.0
DROPS = (0.025, 0.01)
MINUTES = 15
PEER = "transformers + torch eager"


def command(store: Path, *words: str) -> dict[str, Any]:
    run = [sys.executable, "-m", "budwood", *words, "--store", str(store), "--json"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return {key: value for key, value in found.items() if key not in ("id", "path", "plot")}


class Eager(Runtime):
    """The peer: AutoTokenizer and AutoModel as their documents show, with the bundle's pooling and head."""

    def __init__(self, bundle: Bundle) -> None:
        import torch
        from transformers import AutoTokenizer

        from budwood.engine.predictor import task_of

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(str(bundle.path), local_files_only=True)
        self.model = task_of(bundle).build(bundle.path)

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> "Eager":
        return cls(bundle)

    def encode(self, rows: Sequence[Row]) -> Encoded:
        texts = [row["text"] for row in rows]
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        return Encoded(dict(inputs), [{} for _ in rows])

    def run(self, inputs: Arrays) -> Arrays:
        with self.torch.inference_mode():
            return {"logits": self.model(**inputs)["logits"].numpy()}

    def close(self) -> None:
        self.model = None


def speeds(parent: Bundle, candidates: dict[str, Bundle], rows: Sequence[Row]) -> dict[str, Any]:
    """Both races: singles come from the texts of about 16 tokens, batches from all."""
    cores = len(os.sched_getaffinity(0))
    predictors = {"fp32": Predictor.open(parent, threads=cores)}
    predictors |= {name: Predictor.open(bundle, threads=cores) for name, bundle in candidates.items()}
    eager = Eager(parent)
    predictors[PEER] = Predictor(predictors["fp32"].task, eager.encode, eager, {})
    encoder = predictors["fp32"].encoder
    short = [row for row in rows if encoder([row]).inputs["input_ids"].shape[1] in TOKENS]
    found: dict[str, Any] = {"threads": cores, "texts_of_about_16_tokens": len(short)}
    single = race(predictors, short, reference=PEER, seconds=SECONDS, batch_size=32)
    mixed = race(predictors, rows[:: max(1, len(rows) // RACED)], reference=PEER, seconds=SECONDS, batch_size=32)
    for name in predictors:
        facts = {"size_mb": 0.0, "memory": (None, None), "threads": cores, "batch_size": 32}
        one, many = (summarise(timings, name, PEER, **facts) for timings in (single, mixed))
        found[name] = {
            "p50_ms": one.p50_ms,
            "p95_ms": one.p95_ms,
            "single_ratio": one.ratio,
            "single_ratio_ci": one.ratio_ci,
            "noise": one.noise,
            "batch_items_per_s": many.items_per_s,
            "batch_ratio": many.batch_ratio,
            "batch_ratio_ci": many.batch_ratio_ci,
            "batch_noise": many.batch_noise,
        }
    return found


def main() -> None:
    name, data, home = sys.argv[1], Path(sys.argv[2]) / sys.argv[1], Path(sys.argv[3])
    train, test = (str(data / file) for file in FILES[name])
    store, result = Store.default(home), RESULTS / f"shrink_{name}.json"
    adapted: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["adapt"] if result.exists() else {}
    if name not in store.names():
        adapted = command(home, "adapt", train, "--test", test, "--name", name)
    parent = store.resolve(f"{name}:1").bundle
    shrunk: dict[str, Any] = {}
    candidates: dict[str, Bundle] = {}
    for drop in DROPS:
        child = f"{name}-{1000 * drop:g}"
        limits = ("--max-drop", str(drop), "--max-minutes", str(MINUTES))
        found = shrunk[f"{100 * drop:g} points"] = command(home, "shrink", f"{name}:1", *limits, "--name", child)
        if found["within_budget"]:
            candidates[found["chosen"]] = store.resolve(child).bundle
    assert parent.manifest.data is not None
    rows = store.load_splits(parent.manifest.data.fingerprint).test.rows
    report = {
        "machine": describe(),
        "adapt": adapted,
        "shrink": shrunk,
        "against_eager": speeds(parent, candidates, rows),
    }
    result.write_text(json.dumps(report, indent=1, default=np.ndarray.tolist) + "\n", encoding="utf-8")
    print(json.dumps(report["against_eager"], indent=1))


if __name__ == "__main__":
    main()
