"""A named student is found again by the step that teaches it: by its folder, or by its name on the hub."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

import teachers

from budwood.engine.bases import Found
from budwood.stages import shrink_recipes


def test_a_student_is_named_as_it_is_found_again(tiny_bert: Path, tmp_path: Path) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    fetched = Found(tmp_path / "snapshots" / "1234", "some/model", "asked for; from the hub")
    trial = shrink_recipes.student(fetched, parent)
    assert (trial.name, trial.steps[0].parameters()["student"]) == ("student-model", "some/model")
    own = Found(tiny_bert, str(tiny_bert), "asked for")
    trial = shrink_recipes.student(own, parent)
    assert (trial.name, trial.steps[0].parameters()["student"]) == (f"student-{tiny_bert.name}", str(tiny_bert))
