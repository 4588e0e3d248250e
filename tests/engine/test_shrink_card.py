"""What the card says of a shrink: figures of the report, and nothing that the report does not have."""

from budwood.core.budget import Budget
from budwood.core.report import Candidate, ClassChange, ShrinkReport
from budwood.engine import shrink_card

PARENT = Candidate("parent", 0.9, (0.88, 0.92), p50_ms=4.0, items_per_s=100.0, size_mb=90.0, energy_wh_per_1000=0.03)
INT8 = Candidate(
    "int8",
    0.89,
    (0.87, 0.91),
    drop=0.01,
    drop_ci=(0.0, 0.02),
    p50_ms=1.0,
    items_per_s=300.0,
    size_mb=23.0,
    within_budget=True,
    flips=0.013,
    energy_wh_per_1000=0.01,
    notes=("2 layers stay in float: a, b",),
)
CUT = Candidate("layers-3", why="drop +9 points")
CONTROL = Candidate("dense control", 0.92, (0.9, 0.94), drop=-0.02, drop_ci=(-0.03, -0.01))
CLASSES = (
    ClassChange("late|parcel", 40, 0.9, 0.8, 0.04),
    ClassChange("refund", 30, 0.9, 0.9, 1.0),
    ClassChange("card", 30, 0.8, 0.85, 1.0),
)


def report(**fields: object) -> ShrinkReport:
    values: dict[str, object] = {"chosen": "int8", "budget": Budget(0.02), "metric": "accuracy", "n": 1000}
    return ShrinkReport(PARENT, (INT8, CUT), **(values | fields))  # type: ignore[arg-type]


def test_what_was_won_is_said_with_its_figures() -> None:
    told = shrink_card.shrink_section(report())
    assert "p50 from 4 to 1 ms" in told
    assert "energy from 0.03 to 0.01 Wh" in told
    assert "answers 1.3 % of the test rows differently" in told
    assert "2 layers stay in float: a, b." in told
    assert "layers-3: drop +9 points" in told
    assert "opened" not in told
    assert "trained on" not in told


def test_control_openings_classes_and_command_appear_where_there_are_any() -> None:
    found = report(
        control=CONTROL, openings=3, classes=CLASSES, validation_rows=500, command="budwood shrink t:1 --seed 0"
    )
    told = shrink_card.shrink_section(found)
    assert "dense control" in told
    assert "gains +2.00 points" in told
    assert "opened 3 times" in told
    assert "500 validation rows" in told
    assert "budwood shrink t:1 --seed 0" in told
    assert "late\\|parcel | 90.0 % | 80.0 % | -10.0 | 0.04 | 40 |" in told
    assert "refund" not in told, "an unchanged class is left out"
    assert told.index("late") < told.index("card | 80.0")


def test_nothing_chosen_wins_nothing() -> None:
    told = shrink_card.shrink_section(report(chosen=None))
    assert "Won by" not in told
    assert shrink_card.shrink_section(None) == ""


def test_a_report_survives_its_json() -> None:
    found = report(control=CONTROL, classes=CLASSES, openings=2)
    assert ShrinkReport.from_json(found.to_json()) == found
