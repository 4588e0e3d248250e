"""How many workers share the cores: measured once, remembered, and without harm where it cannot be measured."""

from pathlib import Path

import pytest
import served

from budwood.serving import worker_choice
from budwood.serving.worker_choice import best, decide, measure, recall, remember, ways


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_choice, "usable_cores", lambda: 2)


def test_ways_to_share_cores_out() -> None:
    assert [ways(cores) for cores in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 4, 8]]


def test_more_processes_have_to_be_worth_their_memory() -> None:
    assert best({1: 100.0, 2: 104.0}) == 1
    assert best({1: 100.0, 2: 110.0}) == 2
    assert best({1: 10.0, 4: 100.0, 8: 103.0}) == 4


def test_it_is_measured_once(tmp_path: Path, two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By real processes, which answer requests of the bundle's task."""
    bundle = served.null_bundle(tmp_path / "b")
    monkeypatch.setattr(worker_choice, "measure", lambda *given: measure(*given, seconds=0.1))
    told: list[str] = []
    found = decide(bundle, "null", lambda *given: told.append(str(given[-1])))
    assert found in (1, 2)
    assert len(told) == 2
    assert told[1].startswith(f"workers={found}  # ")
    assert "/s with 2 x 1 threads" in told[1]
    monkeypatch.setattr(worker_choice, "measure", lambda *given: pytest.fail("measured again"))
    assert decide(bundle, "null", lambda *given: told.append(str(given[-1]))) == found
    assert told[2] == told[1]


def test_what_cannot_be_measured_gets_the_usual_number(
    tmp_path: Path, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = served.null_bundle(tmp_path / "b")
    (bundle.path / "null.json").write_text("{")
    told: list[str] = []
    assert decide(bundle, "null", lambda *given: told.append(str(given[-1]))) == 1
    assert told[-1] == "workers=1  # measuring failed: ValueError"
    monkeypatch.setattr(worker_choice, "usable_cores", lambda: 1)
    told.clear()
    assert decide(bundle, "null", lambda *given: told.append(str(given[-1]))) == 1
    assert not told


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"2": 5}', '{"1": 5, "7": 5}', '{"1": NaN}', '{"1": "x"}'])
def test_a_damaged_memory_is_measured_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "found.json"
    assert recall(path, 2) is None
    path.write_text(content)
    assert recall(path, 2) is None
    remember(path, {1: 3.0, 2: 4.5})
    assert recall(path, 2) == {1: 3.0, 2: 4.5}
