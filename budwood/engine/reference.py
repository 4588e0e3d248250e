"""Statistics of the training data and of the answers on held-out rows: what a server compares its traffic with.

`statistics` and `looked_at` make them, `gist` and `Insight` measure the same of an answer and of an input in a server.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle
from budwood.core.task import Answer, Row, Task
from budwood.engine.predictor import Predictor

__all__ = ["DIRECTIONS", "NONE", "NUMBERS", "Gist", "Insight", "gist", "looked_at", "statistics"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 10
KEPT = 256
"""Values of each number that a bundle keeps: every so manieth of the sorted ones."""
LOOKED_AT = 128
"""Held-out rows of which the model's vectors are kept, in so many random directions each: no row can be read from
them, and what is far apart stays so (Johnson and Lindenstrauss 1984)."""
DIRECTIONS = 16
NUMBERS = ("length", "confidence", "value", "similarity", "brightness", "contrast", "unknown")
"""The numbers that are compared, where there are any."""
NONE = "(none)"
"""Stands for an answer without a label, as of an image without objects."""


class Gist(NamedTuple):
    """An answer as far as drift shows in it; NaN for what it does not have."""

    labels: Sequence[str]
    confidence: float
    """The best score."""
    value: float
    """The number, or how many objects there are; of several properties the first."""
    similarity: float
    """How near a molecule is to those that the model learnt from."""


def gist(answer: Mapping[str, Any]) -> Gist:
    """What of an answer is compared."""
    if "label" in answer:
        return Gist((answer["label"],), answer.get("score", math.nan), math.nan, answer.get("similarity", math.nan))
    similarity = answer.get("similarity", math.nan)
    if "objects" in answer:
        objects = answer["objects"]
        best = max((item["score"] for item in objects), default=math.nan)
        return Gist(tuple({item["label"] for item in objects}) or (NONE,), best, len(objects), similarity)
    if "labels" in answer:
        best = max(answer["scores"].values(), default=math.nan)
        return Gist(answer["labels"] or (NONE,), best, math.nan, similarity)
    if "properties" in answer:
        several: Mapping[str, Any] = answer["properties"]
        return gist(next(iter(several.values()), {}))._replace(similarity=similarity)
    return Gist((), math.nan, answer.get("value", math.nan), similarity)


def statistics(
    task: Task, rows: Sequence[Row], answers: Sequence[Answer], *, least_score: float = 0.0
) -> dict[str, Any]:
    """What there is of: class counts or quantiles of the labels, length quantiles, and the histogram of the best score.

    Further `predicted`, how many of the `answers` on held-out rows have each label, and `samples`, sorted values of the
    numbers in `NUMBERS` (the lengths are those of `rows`). The histogram has ten equal bins of [0, 1]. Objects below
    `least_score` do not count: detectors are measured with more of them than they answer.
    """
    found: dict[str, Any] = {"rows": len(rows)}
    labels = [label for row in rows for label in named(row.get("label"))]
    if labels and all(isinstance(label, str) for label in labels):
        found["labels"] = dict(sorted(Counter(labels).items()))
    elif labels and all(isinstance(label, int | float) for label in labels):
        found["label_quantiles"] = np.quantile(labels, QUANTILES).tolist()
    lengths = task.lengths(rows)
    found["length_quantiles"] = np.quantile(lengths, QUANTILES).tolist()
    gists = [gist(sure(answer, least_score)) for answer in answers]
    best = [item.confidence for item in gists if not math.isnan(item.confidence)]
    if best:
        found["confidence_histogram"] = np.histogram(best, BINS, (0.0, 1.0))[0].tolist()
    if predicted := Counter(label for item in gists for label in item.labels):
        found["predicted"] = dict(sorted(predicted.items()))
    samples = {name: [getattr(item, name) for item in gists] for name in ("confidence", "value", "similarity")}
    # A writer learns from whole documents and is asked with a few words.
    samples |= {} if task.writes or len(set(lengths)) < 2 else {"length": lengths}
    found["samples"] = {name: kept for name, values in samples.items() if (kept := thinned(values))}
    return found


def sure(answer: Answer, least_score: float) -> Answer:
    if "objects" not in answer:
        return answer
    return answer | {"objects": [item for item in answer["objects"] if item["score"] >= least_score]}


def thinned(values: Sequence[float]) -> list[float]:
    """The finite values in order, in six digits, of many every so manieth."""
    ordered = np.sort([value for value in values if math.isfinite(value)])
    if len(ordered) > KEPT:
        ordered = ordered[((np.arange(KEPT) + 0.5) * len(ordered) / KEPT).astype(int)]
    return [float(f"{value:.6g}") for value in ordered]


def named(label: Any) -> list[Any]:
    if label is None:
        return []
    several = list(label) if isinstance(label, list | tuple) else [label]
    return [item["label"] if isinstance(item, Mapping) and "box" in item else item for item in several]


@dataclass(frozen=True)
class Insight:
    """A closer look at inputs: what only their encoding and the model's vectors tell."""

    predictor: Predictor
    unknown: int | None
    """The id of the token that stands for unknown characters."""

    @classmethod
    def open(cls, predictor: Predictor, folder: Path) -> Self:
        return cls(predictor, unknown_token(folder))

    def look(self, rows: Sequence[Row], *, vectors: bool = True) -> dict[str, NDArray[np.float64]]:
        """Of each row: `brightness` and `contrast` of what the network sees of an image, in its own scale, the share of
        `unknown` tokens of a text, each of shape (rows,), and `directions`, shape (rows, DIRECTIONS).

        Without `vectors` the model is not run, and there are no directions.
        """
        encoded = self.predictor.encoder(rows)
        found: dict[str, NDArray[np.float64]] = {}
        if "pixel_values" in encoded.inputs:
            pixels = encoded.inputs["pixel_values"].reshape(len(rows), -1).astype(np.float64)
            found["brightness"], found["contrast"] = pixels.mean(axis=1), pixels.std(axis=1)
        if "input_ids" in encoded.inputs and self.unknown is not None:
            mask = encoded.inputs["attention_mask"] > 0
            unknown = (encoded.inputs["input_ids"] == self.unknown) & mask
            found["unknown"] = unknown.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        outputs = self.predictor.runtime.run(encoded.inputs) if vectors else {}
        array = outputs.get("embedding", outputs.get("logits"))
        if array is not None and array.ndim == 2 and array.shape[1] > 1:
            found["directions"] = projected(array)
        return found


def unknown_token(folder: Path) -> int | None:
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    model = json.loads(path.read_bytes()).get("model") or {}
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    vocabulary = model.get("vocab")
    found = vocabulary.get(model.get("unk_token")) if isinstance(vocabulary, dict) else None
    return found if isinstance(found, int) else None


def projected(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Vectors, shape (rows, d), in random directions, the same on every machine: signs (Achlioptas 2003)."""
    size = vectors.shape[1]
    bits = np.frombuffer(hashlib.shake_256(b"budwood directions").digest(size * DIRECTIONS // 8), np.uint8)
    signs = np.unpackbits(bits).reshape(size, DIRECTIONS).astype(np.float64) * 2 - 1
    return np.asarray(vectors.astype(np.float64) @ signs / math.sqrt(size))


def looked_at(bundle: Bundle, rows: Sequence[Row]) -> dict[str, Any]:
    """What `statistics` has no answers for: `samples` of brightness, contrast and unknown tokens, and `directions`.

    It runs the model on up to 128 of the rows. Writers have neither; nor has a bundle without a graph to serve.
    """
    if not bundle.formats - {"torch"}:
        return {}
    predictor = Predictor.open(bundle)
    try:
        if predictor.task.writes or not rows:
            return {}
        insight = Insight.open(predictor, bundle.path)
        picked = rows[:: max(1, -(-len(rows) // LOOKED_AT))]
        looks = [insight.look(picked[:1])]
        # A detector has no vectors, and takes its time.
        looks += [insight.look([row], vectors="directions" in looks[0]) for row in picked[1:]]
    finally:
        predictor.close()
    samples = {name: thinned([float(look[name][0]) for look in looks]) for name in looks[0] if name != "directions"}
    directions = [[float(f"{x:.5g}") for x in look["directions"][0]] for look in looks if "directions" in look]
    return {"samples": samples} | ({"directions": directions} if directions else {})
