"""Claim: 16 streams of GPT-2's size come at 300 tokens a second and more from two cores, 3 times as fast as the peers.

    python benchmarks/serving/generation.py [--work FOLDER] [--peers FOLDER] [--rounds N] [--only NAME …]

The configuration of GPT-2 124M with random weights, since speed does not depend on them: Budwood's server with its int8
graph, llama.cpp's server with 8-bit weights (both over HTTP), and the continuous batching of transformers in float32
(in its own process, without HTTP). All get the same token ids in the same rounds, the peers in shuffled order:
`together` (16 streams at once), `staggered` (32 of mixed lengths, 60 ms apart); then completions of five tokens, as
for each keystroke, alone and beside eight clients that type, and with a long text being read and written.
vLLM is not among the peers: its CPU build is 3 GB, under the name of a third party, and does not import beside this
torch. `--peers` is a folder with `pip install --no-deps --target FOLDER xllamacpp gguf`; without it llama.cpp is left
out. The script ends with status 1 when a bar is not met.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from operations import PARENT, budwood_serve
from streams import Asked, Written, budwood_body, ids, int8_model, quantile, spread, stream

from budwood.engine.machine import describe

RESULTS = PARENT / "results" / "serving_generation.json"
OWN, LLAMA, TRANSFORMERS = "budwood", "llama.cpp server", "transformers continuous batching"
STREAMS, TOKENS, PROMPT = 16, 64, 32
KEYSTROKES, KEYSTROKE_TOKENS, TYPING, KEYSTROKE_SECONDS = 30, 5, 8, 0.3
BARS = {"tokens_per_s": 300.0, "times_transformers": 3.0, "first_token_p95_s": 1.0}
KEYSTROKE_BARS = {"alone": 150.0, "beside 8": 300.0}


def together() -> list[Asked]:
    return [Asked(0.0, ids(PROMPT, 100 + number), TOKENS) for number in range(STREAMS)]


def staggered() -> list[Asked]:
    """Prompts of 8 to 256 tokens, texts of 16 to 128."""
    chance = random.Random(1)
    return [
        Asked(0.06 * number, ids(chance.choice([8, 16, 32, 64, 128, 256]), 200 + number), chance.randint(16, 128))
        for number in range(2 * STREAMS)
    ]


SCENES = {"together": together, "staggered": staggered}


# The contestants


class Http:
    """A server that is asked over HTTP."""

    def __init__(self, url: str, path: str) -> None:
        self.url, self.path = url, path

    def body(self, asked: Asked) -> dict[str, Any]:
        if self.path == "/completion":
            options = {"n_predict": asked.tokens, "ignore_eos": True, "cache_prompt": False, "temperature": 0.8}
            return {"prompt": asked.prompt, "stream": True, **options}
        return budwood_body(asked)

    async def ask(self, asked: Asked, since: float) -> Written:
        await asyncio.sleep(asked.at - (time.perf_counter() - since))
        found = await stream(self.url, self.path, self.body(asked), since)
        return Written(found.asked, found.tokens[: asked.tokens])

    def play(self, scene: Sequence[Asked]) -> list[Written]:
        async def all_of_them() -> list[Written]:
            since = time.perf_counter()
            return await asyncio.gather(*(self.ask(asked, since) for asked in scene))

        return asyncio.run(all_of_them())


class InProcess:
    """A process that reads scenes and prints times."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def play(self, scene: Sequence[Asked]) -> list[Written]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(scene) + "\n")
        self.process.stdin.flush()
        return [Written(item["asked"], item["tokens"]) for item in json.loads(self.process.stdout.readline())]


@contextmanager
def peer(kind: str, model: Path, peers: Path | None) -> Iterator[Http | InProcess]:
    script = Path(__file__).with_name("generation_peers.py")
    # Threads that spin while they wait take the cores from all others.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(peers or "")}
    command = [sys.executable, str(script), kind, str(model)]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        yield Http(ready["url"], "/completion") if "url" in ready else InProcess(process)
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        process.kill()


def once(name: str, work: Path, peers: Path | None, scene: Sequence[Asked]) -> list[Written]:
    """One scene in a fresh process, after a few words to warm it up: nobody else is in memory meanwhile."""
    warm = [Asked(0.0, ids(PROMPT, 1), 4), Asked(0.0, ids(PROMPT, 2), 4)]
    if name == OWN:
        arguments = (str(work / "int8"), "--runtime", "onnxruntime", "--store", str(work / "store"))
        with budwood_serve(*arguments, log=work / "log") as (url, _):
            contestant = Http(url, "/v1/completions")
            contestant.play(warm)
            return contestant.play(scene)
    with peer("llama" if name == LLAMA else "transformers", work / "model", peers) as other:
        other.play(warm)
        return other.play(scene)


# What is measured


def summary(runs: Sequence[Sequence[Written]], scene: Sequence[Asked]) -> dict[str, Any]:
    """Of several rounds of one scene."""
    rates, firsts, paces = [], [], []
    for run in runs:
        if [len(item.tokens) for item in run] != [asked.tokens for asked in scene]:
            raise SystemExit("a stream did not have all of its tokens")
        seconds = max(item.tokens[-1] for item in run) - min(item.asked for item in run)
        rates.append(sum(asked.tokens for asked in scene) / seconds)
        firsts.append(quantile([item.first for item in run], 0.95))
        paces.append(min(item.pace for item in run))
    return {
        "tokens_per_s": spread(rates, 1),
        "first_token_p95_s": spread(firsts, 3),
        "slowest_stream_tokens_per_s": spread(paces, 1),
    }


def race(names: Sequence[str], work: Path, peers: Path | None, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    chance = random.Random(0)
    for title, make in SCENES.items():
        scene = make()
        runs: dict[str, list[list[Written]]] = {name: [] for name in names}
        for number in range(rounds):
            for name in chance.sample(list(names), len(names)):
                runs[name].append(once(name, work, peers, scene))
                print(title, number, name, summary(runs[name][-1:], scene), flush=True)
        found[title] = {name: summary(runs[name], scene) for name in names}
        own = found[title][OWN]["tokens_per_s"]["median"]
        for name in names:
            found[title][name]["budwood_times"] = round(own / found[title][name]["tokens_per_s"]["median"], 2)
    return found


def keystrokes(work: Path) -> dict[str, Any]:
    """Milliseconds until all five tokens of a completion are there."""
    arguments = (str(work / "int8"), "--runtime", "onnxruntime", "--store", str(work / "store"))
    with budwood_serve(*arguments, log=work / "log") as (url, _):
        Http(url, "/v1/completions").play([Asked(0.0, ids(PROMPT, 1), 4)])
        return asyncio.run(typists(Http(url, "/v1/completions")))


async def typists(server: Http) -> dict[str, Any]:
    found = {"alone": percentiles(await typing(server, 1, KEYSTROKES, 0.0))}
    others = [asyncio.create_task(typing(server, 10 + number, 10_000, KEYSTROKE_SECONDS)) for number in range(TYPING)]
    found["beside 8"] = percentiles(await typing(server, 2, KEYSTROKES, KEYSTROKE_SECONDS))
    long = asyncio.create_task(server.ask(Asked(0.0, ids(900, 3), 100), time.perf_counter()))
    found["beside 8 and a prompt of 900 tokens"] = percentiles(await typing(server, 4, KEYSTROKES, KEYSTROKE_SECONDS))
    for task in (*others, long):
        task.cancel()
    await asyncio.gather(*others, long, return_exceptions=True)
    return found


async def typing(server: Http, seed: int, count: int, pause: float) -> list[float]:
    """Completions of one client, each with a prompt that nobody has sent before."""
    chance = random.Random(seed)
    times = []
    for number in range(count):
        since = time.perf_counter()
        asked = Asked(0.0, ids(PROMPT, 100_000 * seed + number), KEYSTROKE_TOKENS)
        written = await stream(server.url, server.path, server.body(asked) | {"stream": False}, since)
        del written  # its one line is the whole answer
        times.append(1e3 * (time.perf_counter() - since))
        await asyncio.sleep(pause * chance.uniform(0.5, 1.5))
    return times


def percentiles(times: Sequence[float]) -> dict[str, float]:
    return {
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(quantile(times, 0.95), 1),
        "max_ms": round(max(times), 1),
        "n": len(times),
    }


def bars(found: dict[str, Any]) -> dict[str, bool]:
    met = {}
    for title in SCENES:
        own = found[title][OWN]
        met[f"{title}: tokens a second"] = own["tokens_per_s"]["median"] >= BARS["tokens_per_s"]
        met[f"{title}: first token"] = own["first_token_p95_s"]["median"] <= BARS["first_token_p95_s"]
        for name, item in found[title].items():
            least = BARS["times_transformers"] if name == TRANSFORMERS else 1.0
            met[f"{title}: {name}"] = name == OWN or item["budwood_times"] >= least
    return met | {
        f"keystrokes {name}": found["keystrokes"][name]["p95_ms"] < most for name, most in KEYSTROKE_BARS.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Generation over HTTP beside its peers.")
    parser.add_argument("--work", type=Path, help="keeps the models for the next run")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[OWN, LLAMA, TRANSFORMERS], help="a rough look; writes no results")
    asked = parser.parse_args()
    names = asked.only or [OWN, TRANSFORMERS, *([LLAMA] if asked.peers else [])]
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        int8_model(work)
        found: dict[str, Any] = {"before": {"load_average": os.getloadavg()}}
        found |= race(names, work, asked.peers, asked.rounds)
        found["keystrokes"] = keystrokes(work)
    found |= {"machine": describe(), "bars": BARS | KEYSTROKE_BARS, "met": bars(found)}
    print(json.dumps(found, indent=1))
    if not asked.only:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(found["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
