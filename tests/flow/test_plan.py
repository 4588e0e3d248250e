"""`plan` on a tiny model: it chooses as `adapt` does, counts the work, and publishes nothing."""

import json
from pathlib import Path

import pytest
import tiny

torch = pytest.importorskip("torch")

from budwood import flow  # noqa: E402
from budwood.core import registry  # noqa: E402
from budwood.core.errors import UsageError  # noqa: E402
from budwood.core.store import Store  # noqa: E402


def table(path: Path, repeats: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(repeats)))
    return path


def test_a_plan_says_what_adapt_would_do_and_leaves_the_store_empty(tiny_bert: Path, tmp_path: Path) -> None:
    data, store = table(tmp_path / "t.jsonl", 14), tmp_path / "models"
    planned = flow.plan(data, base=str(tiny_bert), store=store)
    assert (planned.task, planned.base, planned.method) == ("text_classification", str(tiny_bert), "few_shot")
    assert sum(planned.rows.values()) == 14 * 9
    assert planned.fits
    assert planned.seconds == planned.seconds_wanted == pytest.approx(sum(planned.stages.values()), abs=0.5)
    assert planned.memory_mb > 0
    assert planned.curve is not None
    assert planned.curve["ci"][0] <= planned.curve["gain"] <= planned.curve["ci"][1]
    assert json.loads(json.dumps(planned.to_json()))["parameters"] == planned.parameters
    assert Store(store).list() == ()
    assert list((store / ".work" / "plans").iterdir()) == []


def test_a_limit_says_that_not_all_epochs_fit(tiny_bert: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "t.jsonl", 14)
    head = flow.plan(data, base=str(tiny_bert), store=tmp_path / "models", method="head")
    full = flow.plan(data, base=str(tiny_bert), store=tmp_path / "models", method="full", max_minutes=0.001)
    assert full.stages["full"] > 0
    assert "full" not in head.stages
    assert not full.fits
    assert full.seconds == pytest.approx(0.06, abs=0.05)
    with pytest.raises(UsageError, match="no method 'fulll'"):
        flow.plan(data, base=str(tiny_bert), store=tmp_path / "models", method="fulll")


@pytest.mark.parametrize(
    "name", [name for name in registry.names("steps/adapt") if not registry.get("steps/adapt", name).tasks]
)
def test_every_way_to_learn_for_any_task_tells_its_effort(name: str) -> None:
    task, _ = registry.get("tasks", "text_classification").example()
    step = registry.get("steps/adapt", name)()
    (_, few), (_, many) = step.effort(task, 20), step.effort(task, 2000)
    assert 0 <= few <= many
