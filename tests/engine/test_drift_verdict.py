"""Verdicts on drift: traffic like the held-out rows raises no alarm, other traffic does, and both say why."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from budwood.engine.drift_verdict import LEAST_ROWS, Window, judge
from budwood.engine.reference import DIRECTIONS

LABELS = np.asarray(["a", "b", "c", "d"])
SHARES = np.asarray([0.5, 0.3, 0.15, 0.05])


def sample(random: np.random.Generator, rows: int, shares: Any = SHARES, shift: float = 0.0) -> dict[str, Any]:
    """What is known of so many answers: labels, lengths, confidences and vectors."""
    return {
        "labels": Counter(map(str, random.choice(LABELS, rows, p=shares))),
        "length": np.round(random.lognormal(4 + shift, 0.5, rows)),
        "confidence": 1 / (1 + np.exp(-random.normal(2 - 2 * shift, 1.0, rows))),
        "directions": random.normal(shift, 1.0, (min(rows, 256), DIRECTIONS)),
    }


def reference(random: np.random.Generator, rows: int = 300) -> dict[str, Any]:
    found = sample(random, rows)
    numbers = {name: sorted(found[name])[:: max(1, rows // 256)] for name in ("length", "confidence")}
    return {"predicted": found["labels"], "samples": numbers, "directions": found["directions"][:128].tolist()}


def window(rows: int, found: dict[str, Any]) -> Window:
    numbers = {name: found[name] for name in ("length", "confidence")}
    return Window(rows, found["labels"], numbers, found["directions"])


@pytest.mark.parametrize("rows", [100, 400, 2000])
def test_false_alarms_are_rare(rows: int) -> None:
    verdicts = Counter()
    for seed in range(30):
        random = np.random.default_rng(seed)
        verdicts[judge(reference(random), window(rows, sample(random, rows))).verdict] += 1
    assert verdicts["stable"] >= 29


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"shares": [0.05, 0.15, 0.3, 0.5]}, "labels"),
        ({"shift": 1.0}, "length"),
    ],
)
def test_another_traffic_has_drifted(change: dict[str, Any], what: str) -> None:
    random = np.random.default_rng(1)
    found = judge(reference(random), window(300, sample(random, 300, **change)))
    assert found.verdict == "drifted"
    assert found.reason.startswith(f"{what}: PSI")
    assert {test.verdict for test in found.tests if test.what == what} == {"drifted"}
    assert found.rows == 300


def test_vectors_alone_show_another_topic() -> None:
    random = np.random.default_rng(2)
    known, traffic = reference(random), sample(random, 300)
    traffic["directions"] = random.normal(0.8, 1.0, (100, DIRECTIONS))
    found = judge(known, window(300, traffic))
    assert found.verdict == "drifted"
    assert found.reason.startswith("vectors: MMD²")
    assert [test.method for test in found.tests] == ["psi", "chi-square", "psi", "ks", "psi", "ks", "mmd"]


def test_small_changes_of_large_windows_do_not_matter() -> None:
    random = np.random.default_rng(3)
    traffic = sample(random, 20_000, shares=[0.47, 0.32, 0.16, 0.05])
    assert judge(reference(random, 3000), window(20_000, traffic)).verdict == "stable"


def test_between_stable_and_drifted_there_is_watch() -> None:
    random = np.random.default_rng(4)
    traffic = sample(random, 2000, shares=[0.35, 0.3, 0.25, 0.1])
    found = judge(reference(random, 2000), window(2000, traffic))
    assert found.verdict == "watch"
    assert "labels: PSI 0.1" in found.reason


def test_labels_that_never_came_before_show() -> None:
    random = np.random.default_rng(5)
    known = reference(random)
    known["predicted"] = {"a": 200, "b": 100}
    assert judge(known, window(300, sample(random, 300))).verdict == "drifted"


def test_a_verdict_waits_for_rows() -> None:
    random = np.random.default_rng(6)
    found = judge(reference(random), window(99, sample(random, 99)))
    assert (found.verdict, found.reason, found.tests) == ("waiting", f"99 of {LEAST_ROWS} answers", ())


def test_older_bundles_have_no_reference() -> None:
    random = np.random.default_rng(7)
    old = {"rows": 9, "labels": {"a": 4, "b": 5}, "length_quantiles": [1] * 7, "confidence_histogram": [1] * 10}
    assert judge(old, window(300, sample(random, 300))).verdict == "no reference"
    few = {"predicted": {"a": 3}, "samples": {"length": [1.0]}}
    assert judge(few, window(300, sample(random, 300))).verdict == "no reference"


def test_the_shape_of_the_answer() -> None:
    random = np.random.default_rng(8)
    told = judge(reference(random), window(300, sample(random, 300))).to_json()
    assert set(told) == {"verdict", "reason", "rows", "tests"}
    assert all(set(test) == {"what", "method", "value", "p", "verdict"} for test in told["tests"])
    assert [test["p"] is None for test in told["tests"]] == [test["method"] == "psi" for test in told["tests"]]
