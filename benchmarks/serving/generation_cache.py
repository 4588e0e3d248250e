"""Claim: keys and values that are written in place make a step of many long texts 1.3 times as fast as copied ones.

    python benchmarks/serving/generation_cache.py [--work FOLDER] [--rounds N]

The configuration of GPT-2 124M with random weights in int8: milliseconds of a step over rows of a length, in place and
with a cache that each step makes anew, in turns; then a prompt that repeats a story and adds 15 tokens, read from the
beginning and where the story is remembered. The script ends with status 1 when the claim does not hold.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operations import PARENT
from streams import ids, int8_model, spread

from budwood.engine.decoder_rows import CopiedRows, Row, Rows
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Generator
from budwood.engine.machine import describe
from budwood.engine.scheduler import Room, Work

RESULTS = PARENT / "results" / "serving_generation_cache.json"
SIZES = ((1, 32), (16, 64), (16, 256), (48, 64), (48, 256))
"""Rows, and the tokens that each remembers."""
CLAIM, BAR = (48, 256), 1.3
STORIES, NEW = (60, 240, 480), 15
THREADS = 2


def filled(rows: Rows, count: int, length: int) -> list[Row]:
    """Rows that remember a text; all the same, since only their size matters here."""
    first = rows.open()
    rows.read(first, ids(length, 1))
    return [first, *(rows.fork(first, length) for _ in range(count - 1))]


def steps(generator: Generator, count: int, length: int, rounds: int) -> dict[str, Any]:
    decoder = generator.decoder
    contestants = {"in place": decoder.rows(count), "copied": CopiedRows(decoder.run, decoder.shape)}
    batches = {name: filled(rows, count, length) for name, rows in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, rows in contestants.items():
            began = time.perf_counter()
            rows.step(batches[name], [7] * count)
            times[name].append(1e3 * (time.perf_counter() - began))
    ratios = [copied / own for own, copied in zip(times["in place"], times["copied"], strict=True)]
    found: dict[str, Any] = {name: spread(values, 1) for name, values in times.items()}
    return {"rows": count, "tokens": length, "milliseconds": found, "times": round(statistics.median(ratios), 2)}


def repeated(generator: Generator, length: int, rounds: int) -> dict[str, Any]:
    """Milliseconds to the first token after a story and 15 more tokens."""
    times: dict[str, list[float]] = {"from the beginning": [], "remembered": []}
    for number in range(rounds):
        story = ids(length, 10 + number)
        ask = asker(generator)
        ask(story)
        again = [*story, *ids(NEW + 1, 500 + number)[1:]]
        times["remembered"].append(1e3 * ask(again))
        times["from the beginning"].append(1e3 * asker(generator)(again))
    return {"tokens": length, "milliseconds": {name: spread(values, 1) for name, values in times.items()}}


def asker(generator: Generator) -> Callable[[list[int]], float]:
    scheduler = generator.scheduler(Room(1, 4))

    def ask(prompt: list[int]) -> float:
        options = [Sampling(max_tokens=1, min_tokens=1, temperature=0.0)]
        work = Work(generator.writers([prompt], [prompt], options, 1), lambda piece: None)
        began = time.perf_counter()
        scheduler.add(work)
        while scheduler.busy:
            scheduler.turn()
        return time.perf_counter() - began

    return ask


def main() -> int:
    parser = argparse.ArgumentParser(description="Keys and values in place, and prompts that repeat.")
    parser.add_argument("--work", type=Path, help="keeps the models for the next run")
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generator = Generator.open(int8_model(asked.work or Path(folder)), "onnxruntime", THREADS)
        found: dict[str, Any] = {"threads": THREADS, "rounds": asked.rounds, "load_average": os.getloadavg()}
        found["steps"] = [steps(generator, *size, asked.rounds) for size in SIZES]
        found["repeated"] = [repeated(generator, length, asked.rounds) for length in STORIES]
        generator.close()
    times = next(item["times"] for item in found["steps"] if (item["rows"], item["tokens"]) == CLAIM)
    found |= {"bar": BAR, "met": times >= BAR, "machine": describe()}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
