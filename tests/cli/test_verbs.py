"""Each verb passes its flags on, prints its result for people, and gives the documented keys with `--json`."""

from pathlib import Path

import pytest

from budwood import flow
from budwood.engine.findings import Finding
from budwood.engine.table import Place
from budwood.stages.results import Diagnosed, Planned

ADAPT_KEYS = (
    "name version id path task base method metric score ci n_train n_test baseline verdict seconds peak_memory_mb "
    "energy_wh"
)
SHRINK_KEYS = "name version id path chosen within_budget reference candidates plot"
CANDIDATE_KEYS = "recipe score ci drop drop_ci p50_ms p95_ms items_per_s size_mb memory_mb within_budget why"


class Fake:
    """A verb that notes what it was called with, reports some progress, and answers."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, *arguments, progress=None, **parameters):
        self.arguments, self.parameters = arguments, parameters
        if progress is not None:
            progress("base", 0, 0, "base=minilm  # the default")
            progress("training", 1, 2, "loss 0.5")
            progress("training", 2, 2, "loss 0.4")
        return self.answer


@pytest.fixture
def fake(monkeypatch):
    def put(verb, answer):
        stand_in = Fake(answer)
        monkeypatch.setattr(flow, verb, stand_in)
        return stand_in

    return put


def test_adapt_passes_every_flag_on(run, fake, adapted):
    verb = fake("adapt", adapted)
    line = (
        "adapt rows.csv --task text_classification --base folder --name n --target y --input a,b --group g "
        "--test t.csv --split random --method lora --shots 8 --no-flip --rotate --image-size 160 --unlabelled more "
        "--seed 4 --max-minutes 2.5 --fresh --store s"
    )
    assert run(*line.split()).code == 0
    assert verb.arguments == (Path("rows.csv"),)
    assert verb.parameters == {
        "task": "text_classification",
        "base": "folder",
        "name": "n",
        "target": "y",
        "input": "a,b",
        "group": "g",
        "test": Path("t.csv"),
        "split": "random",
        "method": "lora",
        "shots": 8,
        "options": {"flip": False, "rotate": True, "image_size": 160},
        "unlabelled": Path("more"),
        "seed": 4,
        "max_minutes": 2.5,
        "fresh": True,
        "store": "s",
    }


def test_adapt_prints_the_model_beside_its_baseline_and_the_next_command(run, fake, adapted):
    fake("adapt", adapted)
    ran = run("adapt", "rows.csv")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["model", "method", "accuracy", "%", "95", "%", "interval", "rows"]
    assert lines[1].split() == ["baseline", "head", "83.00", "[74.10,", "89.20]", "94"]
    assert lines[2].split() == ["tickets:3", "full", "92.50", "[86.00,", "96.10]", "94"]
    assert "verdict   full +9.5 points against head, so full ships" in lines
    assert "time      1 min 23 s  (head 6.0 s, full 1 min 10 s)" in lines
    assert "next: budwood shrink tickets" in ran.err
    assert "base=minilm  # the default" in ran.err
    assert "training: 2 of 2" in ran.err


def test_adapt_json_has_the_documented_keys_and_nothing_beside_it(run, fake, adapted):
    fake("adapt", adapted)
    ran = run("adapt", "rows.csv", "--json")
    assert {*ADAPT_KEYS.split()} <= ran.json.keys()
    assert ran.json["ci"] == [0.86, 0.961]
    assert ran.json["baseline"].items() >= {"method": "head", "score": 0.83, "ci": [0.741, 0.892]}.items()
    assert ran.err == ""


def test_evaluate(run, fake, evaluated):
    verb = fake("evaluate", evaluated)
    ran = run("evaluate", "tickets@live", "rows.csv", "--target", "y", "--input", "x", "--store", "s")
    assert verb.arguments == ("tickets@live", Path("rows.csv"))
    assert verb.parameters == {"target": "y", "input": "x", "store": "s"}
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["accuracy", "90.00", "[85.00,", "94.00]", "200"],
        ["macro_f1", "0.8800", "[0.8300,", "0.9200]", "200"],
    ]
    assert run("evaluate", "m", "rows.csv", "--json").json == {
        "metric": "accuracy",
        "score": 0.9,
        "ci": [0.85, 0.94],
        "n": 200,
        "metrics": {"accuracy": 0.9, "macro_f1": 0.88},
        "intervals": {"macro_f1": [0.83, 0.92]},
    }


def test_rows_that_were_seen_in_training_are_told_on_standard_error(run, fake, evaluated, compared):
    evaluated.metrics["rows_seen_in_training"] = 12.0
    fake("evaluate", evaluated)
    ran = run("evaluate", "m", "rows.csv")
    assert "12 of 200 rows were seen in training" in ran.err
    assert "seen" not in ran.out
    compared.rows_seen_in_training.update(a=0, b=7)
    fake("compare", compared)
    ran = run("compare", "one", "two", "rows.csv")
    assert "7 of 200 rows were seen in the training of two" in ran.err
    assert "training of one" not in ran.err


def test_a_number_that_json_does_not_have_becomes_null(run, fake, evaluated):
    evaluated.metrics["auc"] = float("nan")
    fake("evaluate", evaluated)
    assert run("evaluate", "m", "rows.csv", "--json").json["metrics"]["auc"] is None


def test_compare_prints_the_difference_a_verdict_and_the_rows(run, fake, compared):
    verb = fake("compare", compared)
    ran = run("compare", "tickets:1", "tickets:2", "rows.csv")
    assert verb.arguments == ("tickets:1", "tickets:2", Path("rows.csv"))
    assert "+2.00 [-1.00, 5.00]" in ran.out
    assert "These rows do not tell tickets:1 and tickets:2 apart" in ran.out
    assert r"late \x1b[31mparcel" in ran.out
    assert "\x1b" not in ran.out
    assert run("compare", "a", "b", "rows.csv", "--json").json["rows"][0]["text"] == "late \x1b[31mparcel"


def test_shrink_passes_its_flags_and_prints_candidates_plot_and_next_command(run, fake, shrunk_within):
    verb = fake("shrink", shrunk_within)
    line = (
        "shrink tickets --max-drop 0.02 --max-p95-ms 5 --max-mb 30 --max-minutes 3 --data d.csv --test t.csv "
        "--name small --seed 2 --store s --max-class-drop 0.2 --explore --student a --student b --unlabelled u.csv"
    )
    ran = run(*line.split())
    assert ran.code == 0
    assert verb.arguments == ("tickets",)
    assert verb.parameters == {
        "max_class_drop": 0.2,
        "explore": True,
        "student": ["a", "b"],
        "unlabelled": Path("u.csv"),
        "max_drop": 0.02,
        "max_p95_ms": 5.0,
        "max_mb": 30.0,
        "max_minutes": 3.0,
        "data": Path("d.csv"),
        "test": Path("t.csv"),
        "name": "small",
        "seed": 2,
        "store": "s",
    }
    parent, int8, slow = ran.out.splitlines()[1:4]
    assert parent.startswith("tickets, as it is ")
    assert int8.startswith("int8 * ")
    assert "0.80x slower" in slow
    assert "int8: chosen: drop +1.00" in ran.out
    assert "layers-3: refused: drop +9; slower than the parent" in ran.out
    assert "pareto.svg" in ran.out
    assert "saved as small:4" in ran.out
    assert "next: budwood serve small" in ran.err


def test_shrink_json_has_the_documented_keys(run, fake, shrunk_within):
    fake("shrink", shrunk_within)
    found = run("shrink", "tickets", "--json").json
    assert {*SHRINK_KEYS.split()} <= found.keys()
    assert {*CANDIDATE_KEYS.split()} <= found["candidates"][0].keys()
    assert (found["chosen"], found["within_budget"], found["version"]) == ("int8", True, 4)


def test_shrink_without_proof_exits_with_5_and_says_how_many_rows_would_prove_it(run, fake, shrunk_undecided):
    fake("shrink", shrunk_undecided)
    ran = run("shrink", "tickets")
    assert ran.code == 5
    assert "int8: undecided: 94 rows cannot tell" in ran.out
    assert "about 2,100 would" in ran.out
    assert "budwood shrink tickets --max-drop 0.045 " in ran.err
    ran = run("shrink", "tickets", "--json")
    assert (ran.code, ran.json["within_budget"], ran.json["name"]) == (5, False, None)


def finding(severity, **changes):
    rows = (Place("rows.csv", 3), Place("rows.csv", 9))
    return Finding("leakage", severity, "2 texts of test are also in train", rows, "drop them", **changes)


def test_doctor_exits_with_3_for_an_error_and_shows_rows_and_fixes(run, fake):
    verb = fake("doctor", Diagnosed([finding("error", fixable=True)], ("delimiter=,  # found",), {}))
    ran = run("doctor", "rows.csv", "--test", "t.csv", "--target", "y", "--input", "x")
    assert verb.parameters == {"test": Path("t.csv"), "target": "y", "input": "x", "fix": None}
    assert ran.code == 3
    assert "error: 2 texts of test are also in train  [leakage]" in ran.out
    assert "drop them (--fix does it)" in ran.out
    assert "1 error, 0 warnings, 0 info" in ran.out
    assert "next: budwood doctor rows.csv --fix rows-mended.csv --target y --input x" in ran.err
    ran = run("doctor", "rows.csv", "--json")
    assert ran.code == 3
    assert ran.json["findings"][0]["rows"][0] == {"source": "rows.csv", "number": 3}


def test_doctor_with_fix_or_mere_warnings_exits_with_0(run, fake):
    fake("doctor", Diagnosed([finding("error")], (), {}, Path("out.csv")))
    ran = run("doctor", "rows.csv", "--fix", "out.csv")
    assert (ran.code, "mended copy: out.csv" in ran.out) == (0, True)
    fake("doctor", Diagnosed([finding("warning")], (), {}))
    assert run("doctor", "rows.csv").code == 0
    fake("doctor", Diagnosed([], (), {}))
    ran = run("doctor", "rows.csv")
    assert (ran.code, "the data look healthy" in ran.out) == (0, True)
    assert "next: budwood adapt rows.csv" in ran.err


def test_export_finds_a_name_for_the_folder(run, tiny_bundle, tmp_path):
    flow.models().publish("tickets", tiny_bundle)
    ran = run("export", "tickets", "--json")
    assert ran.json["path"] == "tickets-1"
    assert "onnx/model.onnx" in ran.json["files"]
    assert (tmp_path / "tickets-1" / "model.safetensors").is_file()
    ran = run("export", "tickets")
    assert ran.code == 2
    assert "already exists" in ran.err
    assert run("export", "tickets", "elsewhere").out.startswith("exported  elsewhere\n")


def test_export_writes_folders_for_the_edge_and_the_browser(run, tiny_bundle, tmp_path):
    flow.models().publish("tickets", tiny_bundle)
    ran = run("export", "edge", "tickets", "-o", "small", "--json")
    assert ran.json["format"] == "edge"
    assert "run.py" in ran.json["files"]
    assert ran.json["size_mb"] == pytest.approx(
        sum(p.stat().st_size for p in (tmp_path / "small").iterdir()) / 1e6, abs=0.01
    )
    ran = run("export", "edge", "tickets")
    assert ran.out.startswith("exported  tickets-edge\n")
    assert "python tickets-edge/run.py" in ran.err
    ran = run("export", "browser", "tickets:1", "web")
    assert (tmp_path / "web" / "index.html").is_file()
    assert "npm install" in ran.err
    ran = run("export", "edge", "tickets", "here", "-o", "there")
    assert ran.code == 2
    assert "more than one place" in ran.err
    flow.models().publish("edge", tiny_bundle)
    assert run("export", "edge").out.startswith("exported  edge-1\n")


@pytest.mark.parametrize(("kind", "then"), [("edge", "python tickets-edge/run.py"), ("browser", "npm install")])
def test_export_takes_the_kind_of_folder_as_a_format_too(run, tiny_bundle, kind, then):
    flow.models().publish("tickets", tiny_bundle)
    ran = run("export", "tickets", "--format", kind)
    assert ran.out.startswith(f"exported  tickets-{kind}\n")
    assert then in ran.err


def test_export_of_a_folder_for_servers_asks_for_the_model(run):
    assert "fix: budwood export docker MODEL" in run("export", "docker").err


def test_list_bases_names_each_task_s_default_once(run):
    ran = run("adapt", "x", "--list-bases")
    assert ran.code == 0
    lines = [line for line in ran.out.splitlines() if line.endswith("; the default")]
    assert {line.split()[0] for line in lines} >= {"minilm-l6", "efficientnet-lite0", "new:gpt2-mini"}
    assert ran.out.count("the default") == len(lines)


def test_doctor_without_data_looks_at_the_machine(run, fake):
    verb = fake("doctor", Diagnosed([], ("cores=2  # that this process may use",), {}))
    ran = run("doctor")
    assert ran.code == 0
    assert verb.arguments == (None,)
    assert "nothing is missing or broken" in ran.out
    assert "next: budwood doctor DATA" in ran.err


def test_a_flag_of_value_0_is_passed_on(run, monkeypatch, adapted):
    calls = []
    monkeypatch.setattr(flow, "adapt", lambda data, **options: calls.append(options["options"]) or adapted)
    run("adapt", "d", "--horizon", 0, "--dropout", 0, "--image-size", 0, "--hidden", 0)
    run("adapt", "d", "--no-flip")
    run("adapt", "d")
    assert calls == [{"horizon": 0, "dropout": 0, "image_size": 0, "hidden": 0}, {"flip": False}, {}]


def test_plan_names_the_same_adapt(run, monkeypatch):
    def plan(data, **options):
        return Planned(
            "image_regression", "b", "apache-2.0", 9, "head", "few", {"train": 9}, 1.0, 1.0, True, {"head": 1.0}, 9.0,
            0.0, 0.0, "none", None, 1.0, 2,
        )  # fmt: skip

    monkeypatch.setattr(flow, "plan", plan)
    line = run("plan", "my hearts", "--target", "days,died", "--no-flip", "--horizon", 200).err
    assert "next: budwood adapt 'my hearts' --target days,died --no-flip --horizon 200" in line
    assert run("plan", "d").err.rstrip().endswith("budwood adapt d")
