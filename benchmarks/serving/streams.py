"""What the benchmarks of generation share: the model, a server with it, and streams that are timed token by token."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import operations  # noqa: F401  # puts the folder of the other benchmarks on the path

from budwood.core.bundle import Bundle

VOCABULARY = 50_256
"""GPT-2's words without its end token."""


class Asked(NamedTuple):
    """One request: when it comes, in seconds from the beginning, its prompt as ids, and the tokens to write."""

    at: float
    prompt: list[int]
    tokens: int


@dataclass(frozen=True)
class Written:
    """When a request came and when each of its tokens did, in seconds from the beginning."""

    asked: float
    tokens: Sequence[float]
    text: str = ""

    @property
    def first(self) -> float:
        """Time to the first token."""
        return self.tokens[0] - self.asked

    @property
    def pace(self) -> float:
        """Tokens a second from the first token to the last."""
        return (len(self.tokens) - 1) / max(self.tokens[-1] - self.tokens[0], 1e-9)


def int8_model(work: Path) -> Bundle:
    """GPT-2's configuration with random weights in int8, and its float parent beside it in `work`."""
    import gpt2

    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model").exists():
        gpt2.random_gpt2(work / "model")
    gpt2.VARIANTS = {"int8": gpt2.VARIANTS["int8"]}
    return gpt2.bundles_of(work / "model", [{"text": gpt2.words(40, seed)} for seed in range(8)], work)["int8"]


def ids(count: int, seed: int) -> list[int]:
    """The end token, with which a document begins, and random words."""
    return [VOCABULARY, *np.random.default_rng(seed).integers(0, VOCABULARY, count - 1).tolist()]


async def stream(url: str, path: str, body: dict[str, Any], since: float) -> Written:
    """Ask over a connection of its own, and note when each event comes."""
    parts = urlsplit(url)
    asked = time.perf_counter() - since
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {parts.hostname}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\nconnection: close\r\n\r\n".encode() + content)
    times: list[float] = []
    lines: list[bytes] = []
    async for line in reader:
        if not times and line.startswith(b"HTTP/1.1") and b" 200 " not in line:
            raise OSError((line + await reader.read()).decode()[:500])
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            times.append(time.perf_counter() - since)
            lines.append(line)
    writer.close()
    return Written(asked, times, "".join(map(text_of, lines)))


def text_of(line: bytes) -> str:
    """The text in one event; llama.cpp's have other names."""
    event = json.loads(line.removeprefix(b"data: "))
    return str(event["choices"][0]["text"]) if "choices" in event else ""


def budwood_body(asked: Asked, **more: Any) -> dict[str, Any]:
    return {
        "prompt": asked.prompt,
        "max_tokens": asked.tokens,
        "min_tokens": asked.tokens,
        "temperature": 0.8,
        "stream": True,
        **more,
    }


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(np.asarray(values), share))
