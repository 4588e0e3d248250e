"""Text generation on tinyshakespeare (1.1 MB), through the command line: perplexity against the base, or the unigrams.

    python benchmarks/generation.py DATA_FOLDER BABYLLAMA_FOLDER [--max-minutes M] [JOB …]
    python benchmarks/generation.py                       # hold the results that are there against the bar again

DATA_FOLDER holds tinyshakespeare/input.txt; BABYLLAMA_FOLDER is a Llama of 0.9 M parameters that reads characters. The
job `babyllama` adapts it; `new` learns a GPT-2 with a vocabulary of its own from the text. Results are added to
benchmarks/results/generation.json as each job ends; the script ends with status 1 when a ratio is not below the bar.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from budwood.engine.machine import describe

RESULTS = Path(__file__).parent / "results" / "generation.json"
BAR = 0.8
"""The greatest ratio of the adapted perplexity to the baseline's, on texts that were not learnt."""
STOP = "\n\n"
PROMPT = "ROMEO:\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Perplexity of what was learnt against what was there before.")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("babyllama", type=Path, nargs="?")
    parser.add_argument("jobs", nargs="*", default=["babyllama", "new"])
    parser.add_argument("--max-minutes", type=float, default=2.0)
    asked = parser.parse_args()
    if asked.data:
        bases = {"babyllama": str(asked.babyllama), "new": "new:gpt2-mini"}
        for job in asked.jobs:
            found = results()
            found[job] = run(asked.data / "tinyshakespeare" / "input.txt", bases[job], asked.max_minutes)
            found["machine"] = describe()
            save(found)
            print(job, json.dumps(found[job]), flush=True)
    found = results()
    found["bars"] = {job: bar(item) for job, item in found.items() if "perplexity" in item}
    save(found)
    print(json.dumps(found["bars"], indent=1))
    return 0 if all(item["met"] for item in found["bars"].values()) else 1


def results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(found: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def bar(item: dict[str, Any]) -> dict[str, Any]:
    """The bar holds for the upper end of the 95 % interval."""
    prefix = "unigram_" if item["baseline"]["method"] == "unigram" else ""
    low, high = item["perplexity"][f"{prefix}ratio_ci"]
    ratio = item["perplexity"][f"{prefix}ratio"]
    return {"against": item["baseline"]["method"], "ratio": ratio, "ci": [low, high], "bar": BAR, "met": high <= BAR}


def run(data: Path, base: str, max_minutes: float) -> dict[str, Any]:
    """Adapt, write a little, and return what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        limits = ["--max-minutes", str(max_minutes), "--seed", "0"]
        adapted = budwood(folder, "adapt", str(data), "--base", base, "--name", "bard", *limits)
        report = json.loads((Path(adapted["path"]) / "bundle.json").read_text(encoding="utf-8"))["report"]
        options = ["--n", "4", "--stop", STOP, "--max-tokens", "200"]
        written = budwood(folder, "generate", "bard", PROMPT, *options)["texts"]
    if any(STOP in item["text"].removeprefix(PROMPT) for item in written):
        raise SystemExit("a stop string was not obeyed")
    kept = ("method", "score", "ci", "metrics", "intervals", "baseline", "n_train", "n_test", "seconds")
    facts = ("parameters", "steps", "stopped", "perplexity", "writing")
    found = {name: adapted[name] for name in kept} | {name: report[name] for name in facts}
    reasons = [item["finish_reason"] for item in written]
    return found | {"max_minutes": max_minutes, "peak_memory_mb": adapted["peak_memory_mb"], "finish_reasons": reasons}


def budwood(store: str, *arguments: str) -> Any:
    """One run of the command line; its JSON."""
    command = [sys.executable, "-m", "budwood", *arguments, "--store", store, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
