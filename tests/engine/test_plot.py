"""The picture: same report, same bytes; safe to put into a bundle; nothing unreadable on light or on dark."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from budwood.core.budget import Budget
from budwood.core.opening import check_content
from budwood.core.report import Candidate, ShrinkReport
from budwood.engine import plot
from budwood.engine.labels import Box, Spot, place
from budwood.engine.plot import clean, detail, pareto, points_of


def measured(recipe: str, score: float, p50: float, size: float, **changes: object) -> Candidate:
    item = Candidate(recipe, score=score, ci=(score - 0.01, score + 0.01), p50_ms=p50, p95_ms=1.3 * p50, size_mb=size)
    return replace(item, **changes)  # type: ignore[arg-type]


REPORT = ShrinkReport(
    reference=measured("parent", 0.93, 9.0, 90.0, within_budget=True),
    candidates=(
        measured("int8", 0.927, 3.1, 23.0, within_budget=True, verdict="PASS", ratio=2.9, noise=0.03),
        measured("layers3", 0.90, 4.8, 70.0, verdict="FAIL", drop=0.03, ratio=1.9),
        measured("layers3+int8", 0.925, 1.6, 18.0, verdict="UNDECIDED", rows_needed=9100, ratio=5.4),
        Candidate("broken", why="its ONNX answers differ"),
    ),
    chosen="int8",
    budget=Budget(),
    metric="accuracy",
    n=3080,
    machine={"cpu": "Test CPU"},
)
HOSTILE = "<script>alert('$x_1$')</script>\n---\n模型" + "y" * 80


def test_files_are_allowed_in_a_bundle_and_tell_no_time_and_no_place(tmp_path: Path) -> None:
    svg, png = pareto(REPORT, tmp_path, "tickets")
    assert (svg.name, png.name) == ("pareto.svg", "pareto.png")
    for file in (svg, png):
        check_content(file, file.name)
        content = file.read_bytes()
        for secret in (str(tmp_path).encode(), b"dc:date", b"https://matplotlib.org"):
            assert secret not in content
    assert "<title>tickets: smaller and faster, measured</title>" in svg.read_text()


def test_the_same_report_gives_the_same_bytes_and_settings_stay(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    (tmp_path / "again").mkdir()
    first = [file.read_bytes() for file in pareto(REPORT, tmp_path, "tickets")]
    second = [file.read_bytes() for file in pareto(REPORT, tmp_path / "again", "tickets")]
    assert first == second
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "report",
    [
        replace(REPORT, budget=Budget(max_p95_ms=5, max_mb=20)),
        replace(REPORT, candidates=()),
        replace(REPORT, reference=Candidate("parent"), candidates=(), metric="samples_f1"),
        replace(REPORT, candidates=(measured(HOSTILE, 0.93, 9.0, 90.0),), metric=HOSTILE, machine={"cpu": HOSTILE}),
        replace(REPORT, candidates=(measured("same", 0.93, 9.0, 90.0, ci=(0.93, 0.93)),)),
    ],
)
def test_every_report_can_be_drawn(report: ShrinkReport, tmp_path: Path) -> None:
    for file in pareto(report, tmp_path, HOSTILE):
        check_content(file, file.name)


def test_a_refused_candidate_is_hollow_and_says_why() -> None:
    points = {point.item.recipe: point for point in points_of(REPORT, False, plot.ON_ANY)}
    assert set(points) == {"parent", "int8", "layers3", "layers3+int8"}
    assert [name for name, point in points.items() if point.hollow] == ["layers3", "layers3+int8"]
    assert points["int8"].color == plot.CHOSEN
    assert points["int8"].detail == "2.9x speed  ·  23 MB"
    assert points["layers3"].detail == "refused: drop of 3.0 points"
    assert points["layers3+int8"].detail == "undecided: needs 9,100 rows"
    assert points["parent"].area / points["int8"].area == pytest.approx(90 / 23)
    tight = replace(REPORT, budget=Budget(max_p95_ms=2, max_mb=20))
    assert detail(measured("a", 0.9, 3.0, 10.0), tight) == "refused: p95 above 2 ms"
    assert detail(measured("a", 0.9, 1.0, 30.0), tight) == "refused: above 20 MB"


def test_latency_is_p95_when_the_budget_limits_it() -> None:
    report = replace(REPORT, budget=Budget(max_p95_ms=5))
    assert points_of(report, True, plot.ON_ANY)[0].x == pytest.approx(1.3 * 9.0)


def luminance(color: str) -> float:
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
@pytest.mark.parametrize(
    ("color", "least"),
    [(plot.ON_ANY.text, 4.2), (plot.CHOSEN, 3.5), (plot.PASSED, 3.5), (plot.PARENT, 3.5), (plot.ON_ANY.faint, 3.0)],
)
def test_transparent_picture_has_contrast_on_light_and_on_dark(color: str, least: float, background: str) -> None:
    high, low = sorted((luminance(color), luminance(background)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= least


def test_labels_cover_neither_each_other_nor_a_marker() -> None:
    spots = [Spot(x, y, 10, 120, 30) for x, y in ((200, 200), (215, 210), (230, 190), (600, 200), (610, 205))]
    markers = [Box(spot.x - 10, spot.y - 10, spot.x + 10, spot.y + 10) for spot in spots]
    inside = Box(0, 0, 900, 400)
    boxes = place(spots, markers, [], inside, unit=1.0)
    for index, box in enumerate(boxes):
        assert box.overlap(inside) == pytest.approx(box.area)
        assert all(box.overlap(other) == 0 for other in boxes[:index] + markers)


def test_a_label_alone_stands_right_beside_its_point() -> None:
    (box,) = place([Spot(100, 100, 10, 60, 20)], [Box(90, 90, 110, 110)], [], Box(0, 0, 400, 400), unit=1.0)
    assert (box.left, box.bottom) == (115, 90)


def test_a_label_makes_way_for_a_line_and_for_the_edge() -> None:
    spot, inside = Spot(370, 100, 10, 60, 20), Box(0, 0, 400, 400)
    (box,) = place([spot], [Box(360, 90, 380, 110)], [Box(366, 0, 374, 400)], inside, unit=1.0)
    assert box.right <= 360


@pytest.mark.parametrize(("text", "shown"), [("a\n b", "a b"), ("é·…", "é·?"), ("模", "?"), ("x" * 70, "x" * 59 + "…")])
def test_names_become_one_line_that_the_font_can_show(text: str, shown: str) -> None:
    assert clean(text) == shown
