"""`demo` runs the verbs in order, shows them as commands, and tells what each stage gained."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from budwood import flow
from budwood.core.bundle import DataRecord, Metric
from budwood.core.errors import BudwoodError
from budwood.stages import demo

STAGE = demo.Stage("baseline head", "tickets:1", 0.83, (0.74, 0.89), 4.0, 6.0, 300.0, 91.0, 210.0, 6.0)


@pytest.fixture
def verbs(monkeypatch, adapted, shrunk_within, tiny_bundle):
    """Verbs that answer at once; the list of their calls."""
    store = flow.models()
    for _ in range(3):
        store.publish("tickets", tiny_bundle)
    calls = []

    def adapt(data, **parameters):
        calls.append(("adapt", parameters))
        return replace(adapted, version=len(calls))

    def shrink(model, **parameters):
        calls.append(("shrink", model, parameters))
        return replace(shrunk_within, name="tickets", version=3)

    @contextmanager
    def served(entry):
        calls.append(("serve", entry.version))
        yield "http://127.0.0.1:1"

    monkeypatch.setattr(flow, "adapt", adapt)
    monkeypatch.setattr(flow, "shrink", shrink)
    monkeypatch.setattr(demo, "served", served)
    answer = {"label": "delivery", "score": 0.9}
    monkeypatch.setattr(demo, "ask", lambda url, texts: demo.Answered([answer] * len(texts), 3.5))
    monkeypatch.setattr(demo, "race", lambda made, store, progress: [replace(STAGE, stage=name) for name, _, _ in made])
    return calls


def test_the_stages_are_shown_as_commands_and_as_a_table(run, verbs):
    ran = run("demo")
    assert ran.code == 0
    assert [call[0] for call in verbs] == ["adapt", "adapt", "shrink", "serve"]
    assert verbs[0][1]["method"] == "head"
    assert verbs[2][1] == "tickets:2"
    assert verbs[3][1] == 3
    commands = [line for line in ran.err.splitlines() if line.startswith("$ budwood ")]
    assert [line.split()[2] for line in commands] == ["adapt", "adapt", "shrink", "serve"]
    assert "what 94 test rows can prove" in ran.err
    assert [line.split()[0] for line in ran.out.splitlines()[1:4]] == ["baseline", "adapted,", "shrunk,"]
    assert "over HTTP" in ran.out
    assert "next: budwood serve tickets" in ran.err


def test_json(run, verbs):
    found = run("demo", "--json").json
    assert [stage["stage"] for stage in found["stages"]] == ["baseline head", "adapted, full", "shrunk, int8"]
    assert found["within_budget"] is True
    assert found["answers"][0] == {"label": "delivery", "score": 0.9}


def test_without_proof_the_adapted_model_is_served_and_that_is_said(run, verbs, monkeypatch, shrunk_undecided):
    monkeypatch.setattr(flow, "shrink", lambda model, **parameters: shrunk_undecided)
    ran = run("demo")
    assert ran.code == 0
    assert verbs[-1] == ("serve", 2)
    assert "no smaller model is proven to be within the budget" in ran.err


def test_the_example_table_is_found_from_anywhere():
    assert demo.example_table().read_text(encoding="utf-8").startswith("text,intent\n")


def test_the_table_is_named_as_one_would_type_it(monkeypatch):
    monkeypatch.chdir(Path(demo.__file__).parents[2])
    assert str(demo.example_table()) == "examples/tickets.csv"


def test_a_model_is_served_by_the_command_and_answers(tiny_bundle):
    entry = flow.models().publish("tickets", tiny_bundle)
    with demo.served(entry) as url:
        found = demo.ask(url, ["Where is my parcel?"], repeats=2)
    assert found.answers[0]["label"] in tiny.LABELS
    assert found.p50_ms > 0


def test_a_server_that_does_not_start_is_reported(tmp_path):
    entry = flow.models().publish("tickets", tiny.small_bundle(tmp_path / "no-model"))
    with pytest.raises(BudwoodError, match="the server did not start"), demo.served(entry):
        pass


def test_the_race_measures_every_stage_on_the_test_rows(tmp_path):
    splits = tiny.splits()
    store = flow.models()
    store.save_splits(splits)
    record = DataRecord(fingerprint=splits.fingerprint, sources=("tiny.csv",), seed=0, rows=splits.sizes())
    metrics = {"accuracy": Metric(value=0.5, ci=(0.2, 0.8), n=9, split="test")}
    made = [
        (name, store.publish("tickets", tiny.bundle(tmp_path / name, seed=seed, data=record, metrics=metrics)), 1.0)
        for seed, name in enumerate(("one", "two"))
    ]
    stages = demo.race(made, store, seconds=0.01)
    assert [(stage.stage, stage.model, stage.score) for stage in stages] == [
        ("one", "tickets:1", 0.5),
        ("two", "tickets:2", 0.5),
    ]
    assert all(stage.p50_ms > 0 and stage.size_mb > 0 for stage in stages)
