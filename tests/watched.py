"""A bundle with reference statistics, and a server that compares its traffic with them."""

import random
from pathlib import Path
from typing import Any

import tiny

from budwood.core.bundle import Bundle
from budwood.engine.predictor import Predictor
from budwood.engine.reference import looked_at, statistics
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start


def texts(count: int, seed: int, sentences: tuple[str, ...] = tiny.SENTENCES) -> list[str]:
    """Some words of the sentences, in any order."""
    chance = random.Random(seed)
    words = [word for sentence in sentences for word in sentence.split()]
    return [" ".join(chance.choices(words, k=chance.randint(3, 9))) for _ in range(count)]


def bundle(path: Path, rows: int = 200) -> Bundle:
    """The tiny model that answers over ONNX Runtime, with the statistics of its answers on such texts."""
    bare = tiny.bundle(path / "bare")
    predictor = Predictor.open(bare)
    held_out = [{"text": text, "label": tiny.LABELS[0]} for text in texts(rows, seed=0)]
    answers = predictor.predict_all(held_out)
    predictor.close()
    known = statistics(predictor.task, held_out, answers)
    looked = looked_at(bare, held_out)
    reference = known | looked | {"samples": known["samples"] | looked["samples"]}
    return tiny.bundle(path / "described", reference=reference)


def start_watched(path: Path, **options: Any) -> Handle:
    """A server in a thread, with the model `tiny`, version `1`."""
    limits = Limits(notice_seconds=0)
    return start([Served("tiny", "1", bundle(path))], runtime="onnxruntime", limits=limits, **options)
