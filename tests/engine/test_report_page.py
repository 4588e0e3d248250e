"""The page and its pictures: allowed in a bundle whatever the texts are, the same bytes each time, nothing left out."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from budwood.core.budget import Budget
from budwood.core.bundle import DataRecord, Draft, Metric, StepRecord
from budwood.core.opening import check_content
from budwood.core.page import check_page
from budwood.core.report import Candidate, ShrinkReport
from budwood.engine.card import CardFacts, ClassFacts
from budwood.engine.drawing import Picture, legible
from budwood.engine.machine import Energy
from budwood.engine.report_facts import Mistake, Outcome, Reliability
from budwood.engine.report_page import report_page
from budwood.engine.report_plots import HEAT_LABELS, Compared, Progressed, draw_numbers, draw_pictures, top_confusions

HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)> url(http://evil) $x_1$ {{ d }} 模型 \u202e"
RELIABLE = Reliability((0.4, 0.8, 0.97), (0.5, 0.7, 0.96), (3, 20, 400), 0.021, 0.11)
OUTCOME = Outcome(
    labels=("delivery", "praise", "refund"),
    confusion=np.array([[40, 2, 0], [1, 55, 3], [0, 4, 30]]),
    classes=(ClassFacts("delivery", 0.95, 0.97, 42), ClassFacts("praise", 0.93, None, 59)),
    before=replace(RELIABLE, ece=0.05),
    after=RELIABLE,
    mistakes=(
        Mistake("praise", "refund", 0.98, "I want my <b>money</b> back"),
        Mistake("a", "b", None, "", b"\xff\xd8\xff0"),
    ),
)
COMPARED = (Compared("baseline (head)", 0.88, (0.8, 0.93)), Compared("this model", 0.91, (0.84, 0.95)))
PROGRESSED = Progressed(
    ((((10, 0.5), (20, 0.8), (30, 0.75))), ((10, 0.6), (20, 0.7))),
    {"sizes": (50, 100, 200, 400), "scores": (0.5, 0.6, 0.7, 0.75), "gain": 0.04, "ci": (0.01, 0.07)},
)
SHRUNK = ShrinkReport(
    reference=Candidate("parent", score=0.93, ci=(0.9, 0.95), p50_ms=9.0, size_mb=90.0, within_budget=True),
    candidates=(
        Candidate("int8", score=0.92, p50_ms=3.0, within_budget=True, verdict="PASS"),
        Candidate("bad", why="broken"),
    ),
    chosen="int8",
    budget=Budget(),
    metric="accuracy",
    n=100,
)


def draft(**changes: Any) -> Draft:
    fields: dict[str, Any] = {
        "history": (StepRecord(name="base"), StepRecord(name="adapt.head", parameters={"penalty": 3.0})),
        "data": DataRecord(fingerprint="ab" * 32, sources=("tickets.csv",), seed=7, rows={"train": 400, "test": 100}),
        "metrics": {"accuracy": Metric(value=0.91, ci=(0.84, 0.95), n=100, split="test")},
        "report": {"verdict": "better by 3 points"},
    }
    return tiny.draft(**(fields | changes))


def facts(**changes: Any) -> CardFacts:
    fields: dict[str, Any] = {
        "name": "tickets",
        "metric": "accuracy",
        "pipeline_tag": "text-classification",
        "formats": frozenset({"onnx"}),
        "size_mb": 91.4,
        "classes": OUTCOME.classes,
        "energy": Energy(2.0, "estimated"),
        "seconds": 65.0,
        "machine": {"cpu": "Test CPU"},
        "further": {"macro_f1": Metric(value=0.9, ci=(0.83, 0.94), n=100, split="test"), "worst_class_recall": 0.7},
    }
    return CardFacts(**(fields | changes))


@pytest.fixture(scope="module")
def drawn() -> dict[str, Picture]:
    return draw_pictures("Accuracy", COMPARED, OUTCOME, PROGRESSED)


def check(folder: Path, page: str) -> str:
    (folder / "report.html").write_text(page, encoding="utf-8")
    check_page(folder / "report.html", "report.html")
    return page


def test_the_page_tells_everything(tmp_path: Path, drawn: dict[str, Picture]) -> None:
    page = check(tmp_path, report_page(draft(), facts(), OUTCOME, COMPARED, drawn))
    for part in (
        "<title>tickets: report</title>",
        "one of 3 labels",
        "91.00 %",
        "84.00 to 95.00",
        "Macro F1</td><td>90.00 %</td><td>83.00 to 94.00",
        "better by 3 points",
        "never given",
        "2.10 %</td><td>0.1100",
        "I want my &lt;b&gt;money&lt;/b&gt; back",
        "data:image/jpeg;base64,/9j/MA==",
        "rows of your data",
        "tickets.csv: 400 train, 100 test",
        "{&quot;penalty&quot;: 3.0}",
        "prefers-color-scheme: dark",
    ):
        assert part in page
    assert [name for name in drawn if f'<figure class="{name}">' not in page] == []
    assert len(page) < 400_000
    links = re.findall(r'<a href="#([a-z]+)"', page)
    assert links == re.findall(r'<h2 id="([a-z]+)"', page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    outcome = replace(
        OUTCOME,
        labels=(HOSTILE, HOSTILE + "2", HOSTILE + "3"),
        mistakes=(Mistake(HOSTILE, HOSTILE, 0.5, HOSTILE),),
    )
    compared = (Compared(HOSTILE, 0.5, (0.4, 0.6)), COMPARED[1])
    metrics = {HOSTILE: Metric(value=0.5, ci=(0.1, 0.9), n=3, split=HOSTILE)}
    report = replace(SHRUNK, candidates=(Candidate(HOSTILE, why=HOSTILE),), metric=HOSTILE)
    bad = draft(base=HOSTILE, license=HOSTILE, metrics=metrics, report={"verdict": HOSTILE})
    of = facts(name=HOSTILE, machine={"cpu": HOSTILE}, classes=(ClassFacts(HOSTILE, 0.5, 0.5, 2),), shrink=report)
    page = check(
        tmp_path, report_page(bad, of, outcome, compared, draw_pictures(HOSTILE, compared, outcome, Progressed()))
    )
    assert "<script" not in page
    assert "onerror=alert(1)&gt;" in page


def test_a_shrink_shows_its_candidates(tmp_path: Path) -> None:
    page = check(tmp_path, report_page(draft(), facts(shrink=SHRUNK), OUTCOME, COMPARED, {}))
    assert "bad: broken" in page
    assert "<td>int8</td><td>92.00</td>" in page


def test_a_bare_bundle_gives_a_whole_page(tmp_path: Path) -> None:
    bare = CardFacts("a", "accuracy", "text-classification", frozenset({"onnx"}), 1.0)
    page = check(tmp_path, report_page(tiny.draft(), bare, Outcome(), (), {}))
    assert "None" not in page
    assert "How it was made" in page


def test_the_same_facts_give_the_same_bytes(drawn: dict[str, Picture]) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert draw_pictures("Accuracy", COMPARED, OUTCOME, PROGRESSED) == drawn
    assert dict(matplotlib.rcParams) == before
    assert set(drawn) == {"compared", "confusion", "calibration", "training", "learning"}


def test_pictures_are_allowed_in_a_bundle_and_small(tmp_path: Path, drawn: dict[str, Picture]) -> None:
    for name, picture in drawn.items():
        (tmp_path / f"{name}.png").write_bytes(picture.png)
        check_content(tmp_path / f"{name}.png", f"{name}.png")
        assert len(picture.png) < 60_000
        assert len(picture.svg) < 100_000
        assert "currentColor" in picture.svg
        assert str(tmp_path) not in picture.svg


def labelled(size: int) -> Outcome:
    counts = np.diag(np.arange(10, 10 + size))
    counts[0, 1], counts[2, 0] = 7, 3
    return replace(OUTCOME, labels=tuple(f"label {number}" for number in range(size)), confusion=counts)


def test_many_labels_are_shown_by_their_largest_confusions() -> None:
    assert top_confusions(labelled(40)) == [(0, 1, 7, 7 / 17), (2, 0, 3, 3 / 15)]
    heat = draw_pictures("a", (), labelled(HEAT_LABELS), Progressed())["confusion"]
    bars = draw_pictures("a", (), labelled(HEAT_LABELS + 1), Progressed())["confusion"]
    assert (heat.title, bars.title) == ("confusion matrix", "the most frequent confusions")
    perfect = replace(labelled(40), confusion=np.eye(40, dtype=np.int64))
    assert "confusion" not in draw_pictures("a", (), perfect, Progressed())


@pytest.mark.parametrize(
    ("outcome", "names"),
    [
        (replace(OUTCOME, multi_label=True, confusion=None), {"classes", "calibration"}),
        (Outcome(numbers=np.array([[1.0, 1.1], [2.0, 1.8]])), {"numbers"}),
        (Outcome(numbers=np.ones((3, 2))), {"numbers"}),
        (Outcome(), set()),
        (replace(OUTCOME, before=RELIABLE), {"confusion", "calibration"}),
    ],
    ids=["several labels", "numbers", "one number", "nothing", "no temperature"],
)
def test_each_kind_of_outcome_has_its_pictures(outcome: Outcome, names: set[str], tmp_path: Path) -> None:
    pictures = draw_pictures("a", (), outcome, Progressed())
    assert set(pictures) == names
    check(tmp_path, report_page(draft(), facts(), outcome, (), pictures))


def test_answers_that_are_near_or_far_are_not_called_wrong(tmp_path: Path) -> None:
    mistakes = (Mistake("no", "risk of yes: 0.8", None, "a.png"), Mistake("yes", "risk of yes: 0.3", None, "b.png"))
    page = check(tmp_path, report_page(draft(), facts(), Outcome(mistakes=mistakes, graded=True), (), {}))
    assert '<h2 id="errors">The answers furthest from the truth</h2>' in page
    assert "above the median, 2 rows" in page
    assert "wrong answers" not in page
    assert "true label" not in page
    page = check(tmp_path, report_page(draft(), facts(), OUTCOME, (), {}))
    assert "The 2 wrong answers of which the model was surest" in page


def axes_of(numbers: np.ndarray, *, logarithmic: bool) -> tuple[Any, Any]:
    figure = draw_numbers(Outcome(numbers=numbers, logarithmic=logarithmic))
    figure.draw_without_rendering()
    return figure, figure.axes[0]


@pytest.mark.parametrize("logarithmic", [True, False])
@pytest.mark.parametrize("least", [0.012, 1.0, 2_000_000.0])
def test_the_scatter_of_numbers_has_the_scale_of_the_task_and_named_axes(least: float, logarithmic: bool) -> None:
    numbers = least * np.array([[1.0, 1.2], [40.0, 30.0], [300.0, 310.0]])
    figure, axes = axes_of(numbers, logarithmic=logarithmic)
    assert {axes.get_xscale(), axes.get_yscale()} == {"log" if logarithmic else "linear"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true", "answer")
    place = axes.yaxis.label.get_window_extent()
    assert place.x0 >= 0, "the title of the vertical axis lies on the page"
    assert place.x0 < 0.1 * figure.bbox.width


def test_logarithmic_axes_within_one_power_of_ten_have_figures() -> None:
    _, axes = axes_of(np.array([[150.0, 180.0], [400.0, 390.0], [800.0, 700.0]]), logarithmic=True)
    low, high = axes.get_ylim()
    assert [label.get_text() for label in axes.get_yticklabels() if low < label.get_position()[1] < high] == [
        "200",
        "500",
    ]


def test_a_label_that_the_font_lacks_is_called_by_its_number(tmp_path: Path) -> None:
    assert legible(["ok", "退款", "доставка", "a\n b", "", "x" * 40]) == [
        "ok",
        "no. 2",
        "доставка",
        "a b",
        "no. 5",
        "x" * 27 + "…",
    ]
    outcome = replace(OUTCOME, labels=("delivery", "退款", "refund"))
    pictures = draw_pictures("a", (), outcome, Progressed())
    assert "In it, no. 2 is 退款." in check(tmp_path, report_page(draft(), facts(), outcome, (), pictures))
