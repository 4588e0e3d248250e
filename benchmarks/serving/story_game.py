"""Claim: two cores carry 200 players of a text game who take a turn a minute, each reading as fast as it is written.

    python benchmarks/serving/story_game.py [--work FOLDER] [--players N …] [--minutes M]

Each player sends the whole story so far, reads 60 tokens as they come, thinks, writes 15 words and sends all of it
again, a minute after the last time (36 to 84 s). Stories begin with 30 to 480 tokens, as if players had come before.
A turn is good when its first token is there within 2 s, and when a reader who reads 4 tokens a second from then on
never waits. So many players are carried when 99 % of the turns of the last minute are good and no request is refused.
The configuration of GPT-2 124M with random weights in int8, over HTTP, the players on the same cores.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from operations import PARENT, budwood_serve
from streams import VOCABULARY, Written, int8_model, quantile, stream

from budwood.engine.machine import describe

RESULTS = PARENT / "results" / "serving_story_game.json"
TURN_TOKENS, TURN_SECONDS, PLAYER_WORDS = 60, 60.0, 15
FIRST_SECONDS, READING = 2.0, 4.0
GOOD, BAR = 0.99, 200


@dataclass(frozen=True)
class Turn:
    written: Written
    prompt_words: int

    @property
    def waits(self) -> float:
        """Seconds that a reader waits for a token after the first, at most."""
        begun = self.written.tokens[0]
        return max(came - begun - at / READING for at, came in enumerate(self.written.tokens))

    @property
    def good(self) -> bool:
        return self.written.first <= FIRST_SECONDS and self.waits <= 0.0


class Game:
    """Players at one server for some minutes."""

    def __init__(self, url: str, players: int, seconds: float) -> None:
        self.url, self.players, self.seconds = url, players, seconds
        self.turns: list[Turn] = []
        self.refused = 0

    async def play(self) -> None:
        self.since = time.perf_counter()
        await asyncio.gather(*(self.player(number) for number in range(self.players)))

    def now(self) -> float:
        return time.perf_counter() - self.since

    async def player(self, number: int) -> None:
        chance = random.Random(number)
        story = words(30 + 75 * chance.randrange(7), number)
        at = chance.uniform(0.0, TURN_SECONDS)
        while at < self.seconds:
            await asyncio.sleep(at - self.now())
            body = {"prompt": story, "max_tokens": TURN_TOKENS, "min_tokens": TURN_TOKENS, "temperature": 0.8}
            try:
                written = await stream(self.url, "/v1/completions", body | {"stream": True, "seed": number}, self.since)
            except OSError:
                self.refused += 1
            else:
                self.turns.append(Turn(written, story.count(" ") + 1))
                story = f"{story}{written.text} {words(PLAYER_WORDS, chance.randrange(10**9))}"
            at = max(self.now(), at + TURN_SECONDS * chance.uniform(0.6, 1.4))


def words(count: int, seed: int) -> str:
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).integers(0, VOCABULARY, count))


def measure(work: Path, players: int, seconds: float) -> dict[str, Any]:
    arguments = (str(work / "int8"), "--runtime", "onnxruntime", "--store", str(work / "store"))
    with budwood_serve(*arguments, log=work / "log") as (url, _):
        game = Game(url, players, seconds)
        asyncio.run(game.play())
    last = [turn for turn in game.turns if turn.written.asked >= seconds - 60.0]
    found = summary(last) | {"players": players, "refused": game.refused, "load_average": os.getloadavg()}
    found["carried"] = found["good"] >= GOOD and not game.refused
    print(json.dumps(found), flush=True)
    return found


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    firsts = [turn.written.first for turn in turns]
    paces = [turn.written.pace for turn in turns]
    return {
        "turns": len(turns),
        "good": round(sum(turn.good for turn in turns) / len(turns), 4),
        "prompt_tokens_mean": round(sum(turn.prompt_words for turn in turns) / len(turns), 1),
        "first_token_s": {str(share): round(quantile(firsts, share), 3) for share in (0.5, 0.95, 0.99)},
        "tokens_per_s_of_a_stream": {str(share): round(quantile(paces, share), 1) for share in (0.01, 0.05, 0.5)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Players of a text game on one machine.")
    parser.add_argument("--work", type=Path, help="keeps the models for the next run")
    parser.add_argument("--players", type=int, nargs="+", default=[100, 200, 300, 400, 600, 800])
    parser.add_argument("--minutes", type=float, default=2.0)
    asked = parser.parse_args()
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        int8_model(work)
        for players in sorted(asked.players):
            steps.append(measure(work, players, 60.0 * asked.minutes))
            if not steps[-1]["carried"]:
                break
    carried = max((step["players"] for step in steps if step["carried"]), default=0)
    found = {"players_carried": carried, "steps": steps, "bar": BAR, "met": carried >= BAR, "machine": describe()}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{carried} players are carried")
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
