"""Molecules as drawings: shapes and numbers only, the same each time, and refused where they would be a knot."""

import re
from dataclasses import replace

import pytest

pytest.importorskip("rdkit", reason="molecules need the extra chem")

import compounds

from budwood.core import registry
from budwood.core.errors import DataError, UsageError
from budwood.core.page import PAGE_END, PAGE_START, check_page
from budwood.engine import molecule_drawing, report_facts
from budwood.engine.molecule_drawing import MAX_DRAWN, draw_molecule, rebuilt

ODD = ("F/C=C/Cl", "C[C@H](N)C(=O)O", "*CC", "[2H]C", "[13CH3:7][N+](C)(C)C.[Cl-]", "[NH4+]", "C1CC1~[*]")
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.mark.parametrize("smiles", [ASPIRIN, *ODD])
def test_a_drawing_has_shapes_with_numbers_and_nothing_else(smiles: str) -> None:
    svg = draw_molecule(smiles)
    assert svg == draw_molecule(smiles)
    assert set(re.findall(r"<([A-Za-z]+)", svg)) <= {"svg", "rect", "path", "ellipse", "polygon"}
    names = set(re.findall(r" ([a-zA-Z:-]+)=", svg))
    assert names <= {"xmlns", "viewBox", "width", "height", "x", "y", "d", "fill", "stroke", "stroke-width"} | {
        *("cx", "cy", "rx", "ry", "points")
    }
    assert re.sub(r"<[^<>]*>", "", svg) == "", "no text stands between the shapes"
    assert svg.count("http") == 1, "the name of SVG itself"


def test_a_bond_and_a_letter_are_there() -> None:
    assert draw_molecule("CC").count("<path") == 1
    assert "#FF0000" in draw_molecule("CCO"), "oxygen is red"


def test_what_rdkit_does_not_write_today_is_left_out_too() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><a href="javascript:x"><text>hi</text></a>'
        '<path onclick="x" d="M 0 0" style="fill:none;stroke:url(#x);stroke-width:2.0px" class="bond-0"/></svg>'
    )
    assert rebuilt(svg) == ['<path d="M 0 0" fill="none" stroke-width="2.0"/>']


def test_no_molecule_and_too_large_a_molecule_are_refused() -> None:
    with pytest.raises(DataError, match="is not SMILES") as caught:
        draw_molecule("not-smiles")
    assert caught.value.where == "smiles"
    with pytest.raises(DataError, match=f"{MAX_DRAWN + 1} heavy atoms, at most {MAX_DRAWN} are drawn"):
        draw_molecule("C" * (MAX_DRAWN + 1))
    assert draw_molecule("C" * MAX_DRAWN)


def test_the_worst_errors_of_a_report_are_drawn_and_the_page_is_one_that_bundles_take(tmp_path, monkeypatch) -> None:
    from budwood.engine.report_page import shown_input

    task, row = compounds.task(), {"smiles": ASPIRIN, "label": "1"}
    mistakes = report_facts.mistakes(task, [row], [{"label": "0"}], report_facts.np.array([0]), {})
    (mistake,) = mistakes
    assert mistake.drawing == draw_molecule(ASPIRIN)
    shown = shown_input(mistake)
    assert ASPIRIN in shown
    page = tmp_path / "report.html"
    page.write_text(
        f"{PAGE_START}<title>t</title></head><body><table><tbody><tr><td>{shown}</td></tr></tbody></table>{PAGE_END}"
    )
    check_page(page, "report.html")
    assert shown_input(replace(mistake, drawing="")) == ASPIRIN
    assert report_facts.drawn(task, {"smiles": "C" * 200}) == ""
    monkeypatch.setattr(report_facts, "MOST_DRAWN", 10)
    assert report_facts.drawn(task, row) == ""


def test_a_task_that_draws_nothing_says_so() -> None:
    task, rows = registry.get("tasks", "text_classification").example()
    assert not task.draws
    assert report_facts.drawn(task, rows[0]) == ""
    with pytest.raises(UsageError, match="are not drawn"):
        task.drawing(rows[0])
    assert molecule_drawing.WIDTH > molecule_drawing.HEIGHT
