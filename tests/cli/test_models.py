"""`models` on a real store with small bundles."""

import json

import pytest
import tiny

from budwood import flow
from budwood.cli.export import loader


@pytest.fixture
def store(tmp_path):
    home = flow.models()
    first = home.publish("tickets", tiny.small_bundle(tmp_path / "one"))
    child = tiny.small_bundle(tmp_path / "two", content='{"two": 2}', **child_of(first.bundle))
    home.publish("tickets", child)
    return home


def child_of(bundle):
    draft = bundle.draft("shrink.int8", {"weights": "int8"})
    return {"parent": draft.parent, "history": draft.history}


@pytest.mark.parametrize("line", [("models",), ("models", "list")])
def test_list(run, store, line):
    ran = run(*line)
    rows = [row.split() for row in ran.out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["tickets:1", "live"], ["tickets:2", "shrink.int8"]]
    found = run(*line, "--json").json
    assert found["store"] == "models"
    first = found["models"][0]
    assert (first["name"], first["version"], first["aliases"], first["made_by"]) == (
        "tickets",
        1,
        ["live"],
        "adapt.head",
    )


def test_an_empty_store_says_how_to_begin(run):
    ran = run("models", "list")
    assert (ran.code, ran.out) == (0, "")
    assert "budwood demo" in ran.err
    assert run("models", "list", "--json").json["models"] == []


def test_a_damaged_version_is_listed_with_its_problem(run, store):
    (store.root / "tickets" / "1" / "bundle.json").write_text("{}")
    ran = run("models")
    assert "damaged: " in ran.out
    assert run("models", "--json").json["models"][0]["problem"]


def test_show(run, store):
    ran = run("models", "show", "tickets:2")
    assert "model       tickets:2" in ran.out
    assert "labels      3: delivery, praise, refund" in ran.out
    found = run("models", "show", "tickets@live", "--json").json
    assert (found["name"], found["version"], found["task"]["name"]) == ("tickets", 1, "text_classification")


def test_lineage(run, store):
    ran = run("models", "lineage", "tickets")
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ["adapt.head", "shrink.int8"]
    steps = run("models", "lineage", "tickets", "--json").json["steps"]
    assert [step["model"] for step in steps] == ["tickets:1", "tickets:2"]
    assert steps[1]["parameters"] == {"weights": "int8"}


def test_promote_and_rollback(run, store):
    assert run("models", "promote", "tickets", "2").out == "tickets@live is tickets:2 now\n"
    assert store.aliases("tickets") == {"live": 2}
    assert run("models", "rollback", "tickets", "--json").json == {"name": "tickets", "version": 1, "alias": "live"}
    assert run("models", "promote", "tickets:2", "--alias", "candidate", "--json").json["alias"] == "candidate"
    assert store.aliases("tickets") == {"live": 1, "candidate": 2}


def test_rollback_without_a_past_is_not_found(run, store):
    assert run("models", "rollback", "tickets").code == 4


def test_verify(run, store):
    assert run("models", "verify", "tickets").out.startswith("tickets:2 is intact: 2 files, id ")
    assert run("models", "verify", "tickets", "--json").json["ok"] is True
    (store.root / "tickets" / "2" / "README.md").write_text("changed")
    ran = run("models", "verify", "tickets", "--json")
    assert ran.code == 1
    assert ran.error["where"].endswith("README.md")


def test_remove(run, store):
    refused = run("models", "remove", "tickets", "1")
    assert (refused.code, "tickets:1 is live" in refused.err) == (2, True)
    assert run("models", "remove", "tickets:2").out == "tickets:2 is removed\n"
    assert store.versions("tickets") == (1,)
    assert run("models", "remove", "tickets", "2").code == 4


def test_the_store_may_stand_before_or_after_the_sub_command(run, store, tmp_path):
    store.root.rename(tmp_path / "other")
    for line in (("models", "--store", "other"), ("models", "list", "--store", "other")):
        assert len(run(*line, "--json").json["models"]) == 2


@pytest.mark.parametrize(
    ("kind", "loaded_by"),
    [
        ("EfficientNetForImageClassification", "AutoModelForImageClassification"),
        ("GPT2LMHeadModel", "AutoModelForCausalLM"),
        ("BertModel", "AutoModel"),
    ],
)
def test_what_was_exported_is_loaded_with_its_head(tmp_path, kind, loaded_by):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [kind]}), encoding="utf-8")
    assert loader(tmp_path) == loaded_by


def test_an_alias_is_no_name_to_promote_or_remove(run):
    assert "fix: budwood models promote tickets 2 --alias next" in run("models", "promote", "tickets@next", "2").err
    assert "fix: budwood models remove tickets VERSION" in run("models", "remove", "tickets@next").err
