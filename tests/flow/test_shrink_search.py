"""The search on a tiny model with known speeds: where it stops, what is not trained, what a rerun finds, the control"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch")

from budwood import flow  # noqa: E402
from budwood.core.bundle import Bundle  # noqa: E402
from budwood.core.errors import DataError  # noqa: E402
from budwood.core.report import Speed  # noqa: E402
from budwood.core.store import Store  # noqa: E402
from budwood.engine import planning  # noqa: E402
from budwood.stages import shrink_bench, shrink_judging, shrink_search, shrinking  # noqa: E402

MODEL = "tickets:1"


@pytest.fixture(scope="module")
def home(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    lines = [json.dumps(row) for row in tiny.rows(12)]
    (folder / "tickets.jsonl").write_text("\n".join(lines) + "\n")
    flow.adapt(folder / "tickets.jsonl", base=str(tiny_bert), method="head", store=folder / "models")
    return folder / "models"


@pytest.fixture(autouse=True)
def known_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model takes as many milliseconds as it has hundredths of a megabyte: nothing here depends on the clock."""
    monkeypatch.setattr(planning, "UPDATES", 10)
    monkeypatch.setattr(shrink_search, "bench", speeds_by_size)
    for stage in (shrink_search, shrinking):
        monkeypatch.setattr(
            stage, "measure_runtimes", lambda bundle, *_, runtimes=(), **__: dict.fromkeys(runtimes, SLOW)
        )


SLOW = SimpleNamespace(
    why="0.50x onnxruntime: not clearly faster", p50_ms=9.0, ratio=0.5, ratio_ci=(0.4, 0.6), noise=0.1
)


def speeds_by_size(bundles: Mapping[str, Bundle], rows: Any, *, reference: str, **_: Any) -> dict[str, Speed]:
    sizes = {name: bundle.serving_bytes / 1e6 for name, bundle in bundles.items()}
    return {name: speed(size, sizes[reference] / size) for name, size in sizes.items()}


def speed(size: float, ratio: float) -> Speed:
    around = (0.99 * ratio, 1.01 * ratio)
    milliseconds = 100 * size
    return Speed(
        *(milliseconds, 1.1 * milliseconds, 1000 / milliseconds, size),
        *(None, None, 80, ratio, around, ratio, around, 0.02, 0.02, 1, 32),
    )


def recipes_of(result: Any) -> list[str]:
    return [item.recipe for item in result.report.candidates if item.rung]


def test_without_a_target_every_rung_is_tried_and_the_cheapest_that_passes_is_published(home: Path) -> None:
    result = flow.shrink(MODEL, max_drop=0.9, name="small", store=home)
    assert recipes_of(result) == ["int8", "layers-1", "layers-1+int8"]
    assert result.report.chosen == "layers-1+int8"
    assert result.report.stopped == "every rung was tried"
    made = {item.recipe: item for item in result.report.candidates}
    assert made["layers-1"].control_drop is not None
    assert made["int8"].control_drop is None, "nothing was trained"
    assert made["int8"].finalist
    assert made["layers-1+int8"].finalist
    assert made["runtime torch"].ratio == 0.5
    assert made["runtime torch"].rung == 0
    assert result.report.control is not None
    assert result.report.validation_rows > 0
    card = (Store(home).resolve("small").bundle.path / "README.md").read_text()
    assert "dense control" in card
    assert "budwood shrink tickets:1 --max-drop 0.9 --name small --seed 0" in card


def test_with_a_target_it_stops_at_the_first_rung_that_keeps_it(home: Path) -> None:
    whole = flow.shrink(MODEL, max_drop=0.9, name="a", store=home).report
    int8 = next(item for item in whole.candidates if item.recipe == "int8")
    assert int8.size_mb is not None
    result = flow.shrink(MODEL, max_drop=0.9, max_mb=1.01 * int8.size_mb, name="b", store=home)
    assert recipes_of(result) == ["int8"]
    assert result.report.chosen == "int8"
    assert result.report.stopped == "int8 keeps the target"
    assert result.report.control is None
    explored = flow.shrink(MODEL, max_drop=0.9, max_mb=1.01 * int8.size_mb, explore=True, name="c", store=home)
    assert {"layers-1", "width-0.5"} <= {*recipes_of(explored)}
    assert len(recipes_of(explored)) == len({*recipes_of(explored)}), "no candidate twice"


def test_what_misses_a_limit_untrained_is_never_trained(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    from budwood.engine import distilling

    real = distilling.distil
    monkeypatch.setattr(
        distilling, "distil", lambda *a, **k: (trained.append(a[4]) if a[3].epochs != 0 else None, real(*a, **k))[1]
    )
    result = flow.shrink(MODEL, max_drop=0.9, max_mb=0.001, seed=3, store=home)
    assert trained == []
    assert not result.within_budget
    left = {item.recipe: item.why for item in result.report.candidates if item.rung == 3}
    assert left
    assert all(why.startswith("not trained: untrained, ") and "MB is above 0.001 MB" in why for why in left.values())


def test_a_stricter_budget_makes_nothing_anew_and_the_openings_are_counted(home: Path) -> None:
    first = flow.shrink(MODEL, max_drop=0.9, seed=5, name="e", store=home)
    made: list[str] = []

    def listen(what: str, done: int, total: int, note: str) -> None:
        made.append(what)

    again = flow.shrink(MODEL, max_drop=0.89, seed=5, name="f", store=home, progress=listen)
    assert recipes_of(again) == recipes_of(first)
    assert not [what for what in made if what.startswith(("shrink.", "export.", "distilling"))]
    assert again.report.openings == first.report.openings + 1
    assert f"opened {again.report.openings} times" in (Store(home).resolve("f").bundle.path / "README.md").read_text()


def test_a_gain_of_the_control_counts_against_what_was_trained(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent gets half its rows right, and so do all candidates; trained on, it would get all of them right."""

    def half_right(bundle: Bundle, rows: Any) -> Any:
        scores = shrink_judging_scored(bundle, rows)
        right = np.ones(len(rows))
        if bundle.manifest.history[-2].name != "shrink.train_on":
            right[::2] = 0.0
        return replace(scores, per_row=right, value=float(right.mean()))

    shrink_judging_scored = shrink_judging.scored
    monkeypatch.setattr(shrink_judging, "scored", half_right)
    result = flow.shrink(MODEL, max_drop=0.4, seed=7, name="g", store=home)
    assert result.report.chosen in (None, "int8"), "nothing that was trained"
    found = {item.recipe: item for item in result.report.candidates}
    assert found["layers-1"].drop == 0.0
    assert found["layers-1"].control_drop == pytest.approx(0.5, abs=0.1)
    assert not found["layers-1"].within_budget
    assert found["layers-1"].why.startswith("against the parent trained on for as long: drop +")


def test_one_candidate_that_cannot_be_made_does_not_end_the_search(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from budwood.steps.shrink.quantize_dynamic import QuantizeDynamic

    def refuse(*_: Any) -> Any:
        raise DataError("3 training rows can be used", where="rows", fix="pass --data")

    monkeypatch.setattr(QuantizeDynamic, "apply", refuse)
    result = flow.shrink(MODEL, max_drop=0.9, seed=11, name="h", store=home)
    found = {item.recipe: item for item in result.report.candidates}
    assert found["int8"].why == "it could not be made: 3 training rows can be used"
    assert result.report.chosen == "layers-1"


def test_a_named_student_is_adapted_and_taught(home: Path, tiny_bert: Path) -> None:
    result = flow.shrink(MODEL, max_drop=0.9, seed=13, student=str(tiny_bert), name="i", store=home)
    names = recipes_of(result)
    assert {"base-bert", "base-bert+int8", "student-bert"} <= {name.replace(tiny_bert.name, "bert") for name in names}
    made = {item.recipe.replace(tiny_bert.name, "bert"): item for item in result.report.candidates}
    assert made["base-bert"].rung == 1
    assert made["base-bert"].control_drop is None, "its parent had the same training"


def test_when_the_time_is_over_nothing_is_trained_and_what_is_there_is_judged(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrink_search.Search, "free", -1.0)
    result = flow.shrink(MODEL, max_drop=0.9, max_minutes=5, seed=17, name="j", store=home)
    assert result.report.stopped == "the time is at an end"
    assert result.report.chosen == "int8"
    assert recipes_of(result) == ["int8"]
    assert result.report.control is None


def test_openings_are_counted_whatever_the_seed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrink_search.Search, "free", -1.0)
    first = flow.shrink(MODEL, max_drop=0.9, seed=18, name="k", store=home)
    second = flow.shrink(MODEL, max_drop=0.9, seed=19, name="k", store=home)
    assert second.report.openings == first.report.openings + 1


def test_a_cut_and_its_control_share_the_granted_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[tuple[str, float | None]] = []
    real = shrink_bench.Bench.make

    def watched(self: Any, parent: Bundle, steps: Any, rows: Any, **given: Any) -> Bundle:
        granted.extend((step.name, given.get("seconds")) for step in steps if getattr(step, "epochs", 1) != 0)
        return real(self, parent, steps, rows, **given)

    monkeypatch.setattr(shrink_bench.Bench, "make", watched)
    flow.shrink(MODEL, max_drop=0.9, max_minutes=100, seed=20, name="l", store=home)
    seconds = {name: value for name, value in granted if name.startswith("shrink.") and value}
    assert seconds["shrink.drop_layers"] == seconds["shrink.train_on"]
    assert 0.3 * 6000 <= (seconds["shrink.train_on"] or 0.0) <= 0.5 * 6000
