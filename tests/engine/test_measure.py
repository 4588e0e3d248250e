"""The ruler: scores through the serving path, a fair race on a clock of our own, a real child process for memory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from budwood.core.budget import Budget
from budwood.core.bundle import SERVED, Bundle
from budwood.core.errors import DataError, NotFoundError, StepError
from budwood.core.task import Arrays, Encoded, Row
from budwood.engine.measure import CONTROL, bench, candidate, median_rank, race, ratio_of, score, size_mb, summarise
from budwood.engine.memory import serving_memory
from budwood.engine.predictor import Predictor
from budwood.engine.statistics import non_inferiority
from budwood.tasks.text_classification import TextClassification

ROWS = [
    {"text": f"{word} work {i}", "label": label}
    for i in range(20)
    for word, label in (("fine", "good"), ("bad", "bad"))
]


@dataclass
class Clock:
    """Nanoseconds that pass only when a fake runtime works."""

    now: int = 0

    def __call__(self) -> int:
        return self.now


@dataclass
class FakeRuntime:
    """Answers by the first letter; a call takes `milliseconds`, more for more rows, times the load of the moment."""

    clock: Clock
    milliseconds: float
    wrong: frozenset[str] = frozenset()
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, inputs: Arrays) -> Arrays:
        texts = tuple(inputs["text"].tolist())
        self.calls.append(texts)
        load = 1 + (self.clock.now // 10**9) % 3
        self.clock.now += int(1e6 * load * self.milliseconds * (0.9 + 0.1 * len(texts)))
        good = [text.startswith("f") != (text in self.wrong) for text in texts]
        return {"logits": np.array([[0.0, 2.0] if item else [2.0, 0.0] for item in good])}

    def close(self) -> None:
        return None


def encode(rows: Sequence[Row]) -> Encoded:
    return Encoded({"text": np.array([row["text"] for row in rows])}, [{} for _ in rows])


def fake(clock: Clock, milliseconds: float, wrong: frozenset[str] = frozenset()) -> Predictor:
    runtime: Any = FakeRuntime(clock, milliseconds, wrong)
    return Predictor(TextClassification(("bad", "good")), encode, runtime, {})


def test_score_is_the_mean_of_the_row_scores_in_the_order_of_the_rows() -> None:
    scores = score(fake(Clock(), 1, frozenset({"fine work 3"})), ROWS)
    assert scores.metric == "accuracy"
    assert scores.value == pytest.approx(39 / 40)
    assert np.flatnonzero(scores.per_row == 0).tolist() == [6]
    assert scores.ci[0] < scores.value < scores.ci[1]
    assert len(scores) == len(scores.answers) == 40
    assert scores.metrics["macro_f1"] == pytest.approx(0.975, abs=1e-3)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows to score"):
        score(fake(Clock(), 1), [])


def run_race(seconds: float = 12.0, seed: int = 0) -> tuple[dict[str, Predictor], dict[str, Any]]:
    clock = Clock()
    contestants = {"parent": fake(clock, 10), "int8": fake(clock, 4), "slow": fake(clock, 12)}
    return contestants, race(contestants, ROWS, reference="parent", seconds=seconds, seed=seed, clock=clock)


def speed_of(timings: dict[str, Any], name: str) -> Any:
    return summarise(timings, name, "parent", size_mb=9.0, memory=(50.0, 9.0), threads=1, batch_size=32)


def test_ratios_are_right_although_the_load_of_the_machine_triples_and_falls() -> None:
    _, timings = run_race()
    speeds = {name: speed_of(timings, name) for name in ("parent", "int8", "slow")}
    assert speeds["int8"].ratio == pytest.approx(2.5, rel=0.05)
    assert speeds["int8"].batch_ratio == pytest.approx(2.5, rel=0.35)
    assert speeds["parent"].ratio == 1.0
    assert speeds["parent"].ratio_ci == (1.0, 1.0)
    assert speeds["int8"].rank == "faster"
    assert speeds["parent"].rank == "equal"
    assert 4.0 <= speeds["int8"].p50_ms <= 12.0
    assert speeds["int8"].p50_ms <= speeds["int8"].p95_ms <= 12.0
    assert speeds["int8"].samples == 8 * len(timings["int8"].batches)


def test_a_slower_candidate_is_ranked_slower_on_a_quiet_machine() -> None:
    timings = {name: timing(ms) for name, ms in (("parent", 10), (CONTROL, 10), ("slow", 12), ("near", 10.1))}
    timings[CONTROL].singles[0] = [int(11e6)] * 8
    assert speed_of(timings, "slow").rank == "slower"
    assert speed_of(timings, "slow").ratio == pytest.approx(10 / 12)
    assert speed_of(timings, "near").noise == pytest.approx(1 / 11)
    assert speed_of(timings, "near").rank == "equal"
    assert speed_of(timings, "slow").items_per_s == pytest.approx(32 / 0.012)


def timing(milliseconds: float) -> Any:
    from budwood.engine.measure import Timing

    return Timing([[int(milliseconds * 1e6)] * 8 for _ in range(5)], [int(milliseconds * 1e6)] * 5)


def test_all_contestants_answer_the_same_rows_in_a_shuffled_order() -> None:
    contestants, timings = run_race()
    seen = {name: contestants[name].runtime.calls for name in ("int8", "slow")}  # type: ignore[attr-defined]
    assert seen["int8"] == seen["slow"]
    assert [len(call) for call in seen["int8"]][:11] == [32, 1, 1, 1, 1, 1, 1, 1, 1, 1, 32]
    again = run_race(seed=1)[0]["int8"].runtime.calls  # type: ignore[attr-defined]
    assert again[0] != seen["int8"][0]
    assert len({len(item.batches) for item in timings.values()}) == 1


def test_the_race_ends_with_its_time_but_never_before_five_rounds() -> None:
    assert len(run_race(seconds=0.0)[1]["parent"].batches) == 5
    assert 5 < len(run_race()[1]["parent"].batches) < 60


def test_garbage_collection_is_as_before_after_a_race() -> None:
    import gc

    before = gc.isenabled(), gc.get_freeze_count()
    run_race(seconds=0.0)
    assert before == (gc.isenabled(), gc.get_freeze_count()) == (True, 0)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 20, 101])
def test_median_interval_is_that_of_the_sign_test(n: int) -> None:
    from scipy.stats import binom

    expected = max(0, int(binom.ppf(0.025, n, 0.5)) - 1)
    assert median_rank(n) == expected


def test_ratio_says_how_many_times_as_fast() -> None:
    value, (low, high) = ratio_of([10.0, 10.0, 20.0], [5.0, 4.0, 10.0])
    assert (value, low, high) == (2.0, 2.0, 2.5)


def make_speed(**changes: Any) -> Any:
    timings = {name: timing(ms) for name, ms in (("parent", 10), (CONTROL, 10), ("child", 4))}
    return replace(speed_of(timings, "child"), **changes)


def test_a_candidate_is_within_the_budget_only_when_all_is_proved() -> None:
    scores = score(fake(Clock(), 1), ROWS)
    ones = np.ones(3000)
    passed, open_ = non_inferiority(ones, ones, 0.01), non_inferiority(ones[:50], ones[:50], 0.01)
    good = candidate("int8", scores, make_speed(), Budget(max_mb=25), passed)
    assert good.within_budget
    assert good.verdict == "PASS"
    assert good.rank == "faster"
    assert "at most" in good.why

    undecided = candidate("int8", scores, make_speed(), Budget(), open_)
    assert not undecided.within_budget
    assert undecided.rows_needed == 299
    assert "299 rows" in undecided.why

    large = candidate("int8", scores, make_speed(size_mb=30.0), Budget(max_mb=25), passed)
    assert not large.within_budget
    assert "30.0 MB is above 25 MB" in large.why

    slow = candidate("int8", scores, make_speed(ratio=0.8, ratio_ci=(0.75, 0.85)), Budget(), passed)
    assert slow.within_budget
    assert "slower than the parent: 0.80x" in slow.why

    parent = candidate("parent", scores, make_speed(), Budget())
    assert parent.within_budget
    assert parent.verdict is None
    assert parent.drop is None


@pytest.fixture(scope="module")
def bundles(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    return {"parent": tiny_bundle, "child": tiny.bundle(tmp_path_factory.mktemp("store") / "child", seed=1)}


def test_real_bundles_are_measured_end_to_end_and_closed(bundles: dict[str, Bundle]) -> None:
    seen: list[str] = []
    speeds = bench(bundles, ROWS, seconds=0, progress=lambda what, *_: seen.append(what))
    assert set(speeds) == {"parent", "child"}
    for name, speed in speeds.items():
        assert speed.p50_ms > 0
        assert speed.p95_ms >= speed.p50_ms
        assert speed.items_per_s > 0
        assert speed.size_mb == bundles[name].serving_bytes / 1e6
        assert speed.memory_mb is not None
        assert speed.memory_growth_mb is not None
        assert 20 < speed.memory_mb < 400
        assert -1 < speed.memory_growth_mb < speed.memory_mb
        assert (speed.threads, speed.batch_size, speed.samples) == (1, 32, 40)
    assert speeds["parent"].ratio == 1.0
    assert seen == ["measuring speed"] * 5


def test_scores_of_a_real_bundle(bundles: dict[str, Bundle]) -> None:
    predictor = Predictor.open(bundles["parent"])
    rows = tiny.rows(3)
    expected = [predictor.predict([row])[0]["label"] == row["label"] for row in rows]
    assert score(predictor, rows).per_row.tolist() == expected
    assert 0 < np.mean(expected) < 1
    predictor.close()


def test_the_child_that_measures_memory_loads_no_training_library(bundles: dict[str, Bundle]) -> None:
    import subprocess
    import sys

    code = (
        "import sys, json\nfrom budwood.engine.memory import serve\n"
        f"serve({str(bundles['parent'].path)!r}, 'auto', 1, [{{'text': 'fine work'}}])\n"
        "print(json.dumps(sorted({'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules))))"
    )
    root = str(Path(__file__).parents[2])
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(child.stdout) == []


def test_a_child_that_fails_says_why(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(StepError, match="memory") as caught:
        serving_memory(bundles["parent"], ROWS[:1], runtime="no_such_runtime")
    assert "no_such_runtime" in str(caught.value)


def test_size_counts_what_is_served(bundles: dict[str, Bundle]) -> None:
    files = bundles["parent"].manifest.files
    expected = sum(files[name].bytes for name in {"onnx/model.onnx", *SERVED} & set(files))
    assert size_mb(bundles["parent"]) == expected / 1e6


def test_an_unknown_reference_or_no_rows_are_refused(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(NotFoundError, match="'other'"):
        bench(bundles, ROWS, reference="other")
    with pytest.raises(DataError, match="no bundle"):
        bench({}, ROWS)
    with pytest.raises(DataError, match="no rows"):
        bench(bundles, [])
