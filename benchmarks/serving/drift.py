"""Claim: the verdict on drift needs no tuning. Traffic like the held-out rows stays `stable`; other classes and other
topics are noticed after one or two hundred answers.

News topics are learnt from 1,000 texts and drawn from 1,500 others that the model never saw. A window is a random draw
of answers; each verdict is that of the server's own code. Reported: the share of alarms by window size and traffic.

    python benchmarks/serving/drift.py --data AG_NEWS_FOLDER --other BANKING77_FOLDER
"""

import argparse
import csv
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood import flow
from budwood.engine.drift_verdict import Judged, Window, judge
from budwood.engine.machine import describe
from budwood.engine.predictor import Predictor
from budwood.engine.reference import Insight, gist

RESULTS = Path(__file__).parent.parent / "results" / "serving_drift.json"
SIZES = (100, 200, 500, 1000)
LEARNT, POOL, OTHER = 1_000, 1_500, 500
LOOKED_SHARE = 0.25
"""Share of the answers whose inputs the server looks at more closely; under load it is less."""


def news(folder: Path) -> list[tuple[str, str]]:
    with (folder / "dev.tsv").open(encoding="utf-8", newline="") as file:
        rows = [(row[0], row[1]) for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) == 2]
    return [(text, label) for text, label in rows if text.strip() and label.strip()]


class Pool:
    """Answers to many texts, to draw windows from."""

    def __init__(self, predictor: Predictor, insight: Insight, texts: Sequence[str]) -> None:
        rows = [{"text": text} for text in texts]
        found = [gist(answer) for answer in predictor.predict_all(rows)]
        self.labels = [item.labels[0] for item in found]
        self.numbers = {
            "length": np.asarray(predictor.task.lengths(rows), np.float64),
            "confidence": np.asarray([item.confidence for item in found]),
        }
        looks = [insight.look([row]) for row in rows]
        self.unknown = np.asarray([float(look["unknown"][0]) for look in looks])
        self.directions = np.asarray([look["directions"][0] for look in looks])

    def draw(self, random: np.random.Generator, rows: int, weights: NDArray[np.float64] | None = None) -> Window:
        """A window of so many answers."""
        picked = random.choice(len(self.labels), rows, p=weights)
        looked = picked[: max(50, round(LOOKED_SHARE * rows))]
        numbers = {name: values[picked] for name, values in self.numbers.items()} | {"unknown": self.unknown[looked]}
        return Window(rows, Counter(self.labels[i] for i in picked), numbers, self.directions[looked])


def alarms(verdicts: Sequence[Judged]) -> dict[str, Any]:
    names = [found.verdict for found in verdicts]
    why = Counter(
        test.what for found in verdicts for test in found.tests if test.p is not None and test.verdict != "stable"
    )
    return {
        "windows": len(names),
        "drifted": names.count("drifted") / len(names),
        "watch": names.count("watch") / len(names),
        "shown_by": dict(why),
    }


def noticed(found: dict[int, dict[str, Any]]) -> int | None:
    """The smallest window from which on 95 % or more are not stable."""
    missed = [size for size in SIZES if found[size]["drifted"] + found[size]["watch"] < 0.95]
    larger = [size for size in SIZES if size > max(missed, default=0)]
    return larger[0] if larger else None


def traffics(
    own: Pool, other: Pool, cut: Pool, truth: Sequence[str]
) -> dict[str, tuple[Pool, NDArray[np.float64] | None]]:
    first, second = sorted(set(truth))[:2]
    shares = {first: 0.7, second: 0.1}
    weights = np.asarray([shares.get(label, 0.1) / truth.count(label) for label in truth])
    return {
        "the same": (own, None),
        "one topic in 70 % of the texts": (own, weights / weights.sum()),
        "the first 40 characters only": (cut, None),
        "questions to a bank": (other, None),
    }


def measure(data: Path, bank: Path, windows: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    rows = news(data)
    order = random.permutation(len(rows))
    learnt, pool = ([rows[i] for i in part] for part in (order[:LEARNT], order[LEARNT : LEARNT + POOL]))
    with (bank / "test.csv").open(encoding="utf-8", newline="") as file:
        foreign = [row["text"] for row in csv.DictReader(file)][:OTHER]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "news.csv"
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *learnt])
        adapted = flow.adapt(table, name="news", method="head", store=Path(folder) / "store")
        bundle = flow.entry("news", Path(folder) / "store").bundle
        predictor = Predictor.open(bundle)
        insight = Insight.open(predictor, bundle.path)
        own = Pool(predictor, insight, [text for text, _ in pool])
        other = Pool(predictor, insight, foreign)
        cut = Pool(predictor, insight, [text[:40] for text, _ in pool[:OTHER]])
        predictor.close()
        reference = bundle.manifest.reference
    result: dict[str, Any] = {"machine": describe(), "score": adapted.score, "held_out_rows": adapted.n_test}
    result["reference_kb"] = round(len(json.dumps(reference)) / 1e3, 1)
    for name, (source, weights) in traffics(own, other, cut, [label for _, label in pool]).items():
        many = windows if name == "the same" else windows // 10
        found = {
            size: alarms([judge(reference, source.draw(random, size, weights)) for _ in range(many)]) for size in SIZES
        }
        result[name] = {"windows": found, "rows_until_noticed": noticed(found)}
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of AG News")
    parser.add_argument("--other", type=Path, required=True, help="folder of Banking77")
    parser.add_argument("--windows", type=int, default=200, help="draws of the same traffic for each size")
    options = parser.parse_args()
    RESULTS.write_text(json.dumps(measure(options.data, options.other, options.windows), indent=1) + "\n")


if __name__ == "__main__":
    main()
