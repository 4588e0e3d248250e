"""The model card: front matter that YAML reads, foreign text that stays text, programs that run as they are shown."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.core.budget import Budget
from budwood.core.bundle import Bundle, DataRecord, Draft, Metric, StepRecord
from budwood.core.dataset import ReadOptions
from budwood.core.report import Candidate, ShrinkReport
from budwood.engine.card import CardFacts, ClassFacts, model_card
from budwood.engine.machine import Energy
from budwood.engine.markup import code, text, yaml
from budwood.engine.report_facts import class_facts, indicators

HOSTILE = (
    "x\n---\nlicense: evil\n<script>alert(1)</script> [a](javascript:b) "
    "![](http://example.com/p) | `c` www.example.com {{ d }}"
)


def draft(**changes: Any) -> Draft:
    fields: dict[str, Any] = {
        "history": (StepRecord(name="base"), StepRecord(name="adapt.head", parameters={"penalty": 3.0})),
        "data": DataRecord(fingerprint="ab" * 32, sources=("tickets.csv",), seed=7, rows={"train": 400, "test": 100}),
        "metrics": {
            "accuracy": Metric(value=0.91, ci=(0.84, 0.95), n=100, split="test"),
            "macro_f1": Metric(value=0.9, ci=(0.83, 0.94), n=100, split="test"),
        },
        "calibration": {"temperature": 1.25},
        "report": {"baseline": {"method": "head", "score": 0.88, "ci": [0.8, 0.93]}, "verdict": "better by 3 points"},
    }
    return tiny.draft(**(fields | changes))


def facts(**changes: Any) -> CardFacts:
    fields: dict[str, Any] = {
        "name": "tickets",
        "metric": "accuracy",
        "pipeline_tag": "text-classification",
        "formats": frozenset({"torch", "onnx"}),
        "size_mb": 91.4,
        "energy": Energy(2.0, "estimated: processor time x 10 W per core (assumed)"),
        "seconds": 65.0,
        "machine": {"cpu": "Test CPU"},
    }
    return CardFacts(**(fields | changes))


def per_class(answers: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[ClassFacts]:
    labels = ["a", "b", "c", "d", HOSTILE]
    return list(class_facts(labels, *indicators(labels, rows, answers)))


def parsed(card: str) -> dict[str, Any]:
    """The front matter as the Hub reads it: everything up to the first line that is `---`."""
    loader = pytest.importorskip("yaml")
    front = re.match(r"\A---\n(.*?)\n---\n", card, re.DOTALL)
    assert front is not None
    values: dict[str, Any] = loader.safe_load(front[1])
    return values


def test_front_matter_is_filled() -> None:
    values = parsed(model_card(draft(), facts()))
    assert values["license"] == "apache-2.0"
    assert values["base_model"] == "tiny"
    assert values["base_model_relation"] == "finetune"
    assert values["pipeline_tag"] == "text-classification"
    assert values["library_name"] == "transformers"
    assert values["datasets"] == ["private-abababababababab"]
    assert values["metrics"] == ["accuracy", "macro_f1"]
    assert values["co2_eq_emissions"]["emissions"] == pytest.approx(2.0 / 1000 * 473)
    assert "assumed" in values["co2_eq_emissions"]["source"]
    assert values["co2_eq_emissions"]["geographical_location"] == "not recorded"
    elsewhere = parsed(model_card(draft(), facts(energy=Energy(2.0, "measured", 350.0, "Germany", "Germany"))))
    assert elsewhere["co2_eq_emissions"]["geographical_location"] == "Germany"
    (model,) = values["model-index"]
    (result,) = model["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0] == {"type": "accuracy", "name": "Accuracy", "value": 0.91}


def test_the_hub_accepts_the_front_matter(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(draft(), facts()))
    assert card.data.eval_results[0].metric_value == 0.91
    assert card.data.base_model == "tiny"


def test_groups_are_named_and_what_the_intervals_do_not_know_of_them() -> None:
    told = "take rows as independent all the same"
    assert told not in model_card(draft(), facts())
    data = draft().data
    assert data is not None
    grouped = data.model_copy(update={"options": ReadOptions(group="patient")})
    card = model_card(draft(data=grouped), facts())
    assert told in card
    assert "Rows of one `patient` stand on one side" in card


def test_a_quantized_bundle_says_so() -> None:
    history = (*draft().history, StepRecord(name="shrink.quantize_dynamic"), StepRecord(name="describe"))
    card = model_card(draft(history=history), facts(formats=frozenset({"onnx-int8"})))
    values = parsed(card)
    assert (values["base_model_relation"], values["library_name"]) == ("quantized", "onnx")
    assert "onnx/model_quantized.onnx" in card
    assert "AutoModel" not in card


def test_the_card_tells_what_was_done_and_measured() -> None:
    card = model_card(draft(), facts())
    for part in (
        "91.00 % (95 % interval 84.00 to 95.00) on 100 rows of the test split",
        '| 2 | adapt.head | `{"penalty": 3.0}` |',
        "tickets.csv; rows: 400 train, 100 test; split with seed 7",
        "| Macro F1 | 90.00 % | 83.00 to 94.00 | 100 | test |",
        "temperature 1.250",
        "The baseline (head) scores 88.00 % on the same rows.",
        "better by 3 points",
        "took 65 s and 2.000 Wh",
        "budwood serve tickets",
    ):
        assert part in card
    assert "More Information Needed" not in card


def test_a_temperature_that_was_not_fitted_is_not_called_fitted() -> None:
    card = model_card(draft(calibration={"temperature": 1.0}), facts())
    assert "no temperature was fitted: fewer than 20 rows\nwere left out" in card
    assert "1.000" not in card


def test_a_metric_without_an_interval_is_listed_with_its_value() -> None:
    card = model_card(
        draft(metrics={"accuracy": draft().metrics["accuracy"]}), facts(further={"macro_f1": 1.0, "roc_auc": 1.0})
    )
    assert "| Macro F1 | 100.00 % |  | 100 | test |" in card
    assert "\nROC AUC: 1.000, without an interval.\n" in card
    measured = Metric(value=0.8, ci=(0.7, 0.9), n=100, split="test")
    assert "\nROC AUC: 0.800 (95 % interval 0.700 to 0.900).\n" in model_card(
        draft(), facts(further={"roc_auc": measured})
    )


def test_a_bare_draft_still_gives_a_whole_card() -> None:
    card = model_card(tiny.draft(), CardFacts("a", "accuracy", "text-classification", frozenset({"onnx"}), 1.0))
    assert parsed(card)["datasets"] == ["private-not-recorded"]
    assert "None" not in card
    assert "onnx/model.onnx" in card


def test_worst_classes_come_first() -> None:
    answers = [{"label": label} for label in ("a", "a", "b", "a", "c")]
    rows = [{"text": "", "label": label} for label in ("a", "b", "b", "b", "d")]
    assert per_class(answers, rows) == [
        ClassFacts("d", 0.0, None, 1),
        ClassFacts("b", 1 / 3, 1.0, 3),
        ClassFacts("a", 1.0, 1 / 3, 1),
    ]
    card = model_card(draft(), facts(classes=per_class(answers, rows)))
    assert "| d | 0.0 % | never given | 1 |" in card
    many = [ClassFacts(f"class {number}", number / 50, 0.5, 9) for number in range(50)]
    card = model_card(draft(), facts(classes=many))
    assert "10 worst of 50" in card
    assert "class 9 |" in card
    assert "class 10 |" not in card


def test_classes_of_rows_with_several_labels() -> None:
    answers = [{"labels": ["a", "b"]}, {"labels": []}]
    rows = [{"text": "", "label": ["a"]}, {"text": "", "label": ["a", "b"]}]
    assert per_class(answers, rows) == [ClassFacts("b", 0.0, 0.0, 1), ClassFacts("a", 0.5, 1.0, 2)]


def test_candidates_and_the_picture_are_shown() -> None:
    report = ShrinkReport(
        reference=Candidate("parent", score=0.93, within_budget=True),
        candidates=(
            Candidate("int8", score=0.925, ci=(0.9, 0.94), within_budget=True, verdict="PASS"),
            Candidate(HOSTILE, why=HOSTILE),
        ),
        chosen="int8",
        budget=Budget(max_p95_ms=5, max_mb=25),
        metric="accuracy",
        n=3080,
    )
    card = model_card(draft(), facts(shrink=report))
    assert "](pareto.svg)" in card
    assert "Budget: drop below 1 point, p95 up to 5 ms, up to 25 MB." in card
    assert "| int8 | 92.50 |" in card
    check_markdown(card)


def rendered(markdown: str) -> list[Any]:
    module = pytest.importorskip("markdown_it")
    tokens = module.MarkdownIt("commonmark").enable("table").parse(markdown)
    return [item for token in tokens for item in (token, *(token.children or []))]


def check_markdown(card: str) -> None:
    tokens = rendered(card.split("\n---\n", 1)[1])
    assert not [token for token in tokens if token.type in ("html_inline", "html_block", "link_open")]
    images = [token.attrs["src"] for token in tokens if token.type == "image"]
    assert images in ([], ["pareto.svg"])


def test_hostile_text_stays_text() -> None:
    task = {"name": "text_classification", "labels": [HOSTILE, "b"], "multi_label": False, "max_tokens": 8}
    data = DataRecord(fingerprint="00", sources=(HOSTILE,), seed=0, rows={HOSTILE: 3})
    history = (StepRecord(name=HOSTILE, parameters={HOSTILE: HOSTILE}),)
    metric = {HOSTILE: Metric(value=0.5, ci=(0.1, 0.9), n=3, split=HOSTILE)}
    bad = draft(task=task, data=data, history=history, metrics=metric, base=HOSTILE, license=HOSTILE)
    rows = [{"text": "", "label": HOSTILE}]
    card = model_card(bad, facts(name=HOSTILE, machine={"cpu": HOSTILE}, classes=per_class([{"label": "b"}], rows)))
    values = parsed(card)
    assert values["license"] == values["base_model"] == values["model-index"][0]["name"] == HOSTILE
    assert "budwood serve NAME" in card
    check_markdown(card)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives_yaml(value: str) -> None:
    loader = pytest.importorskip("yaml")
    printed = yaml({"key": value, "list": [value, {"deep": value}]})
    assert printed.count("\n") == 4
    assert loader.safe_load(printed) == {"key": value, "list": [value, {"deep": value}]}


def test_plain_values_survive_yaml() -> None:
    loader = pytest.importorskip("yaml")
    values = {"a": 1, "b": 0.25, "c": True, "d": None, "e": "no", "f": "1e5", "g": [], "h": {}, "i": "a: b", "j": 1e-7}
    assert loader.safe_load(yaml(values)) == values
    assert yaml({"license": "apache-2.0"}) == "license: apache-2.0\n"
    assert loader.safe_load(yaml({"half": "\ud800"})) == {"half": "\N{REPLACEMENT CHARACTER}"}


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab1 .-+=#*_`[]()<>&!|~\\:/@$\n"), max_size=25))
def test_any_text_survives_markdown(value: str) -> None:
    tokens = rendered(text(value))
    shown = "".join(token.content for token in tokens if token.type in ("text", "text_special"))
    assert shown == " ".join(value.split())
    assert {token.type for token in tokens} <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


def test_code_spans_hold_any_backticks() -> None:
    (span,) = [token for token in rendered(code("a``b`|c\nd")) if token.type == "code_inline"]
    assert span.content == "a``b`¦c?d"


def program(card: str) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(found)


def run(source: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(source, "card", "exec"), {})
    return shown.getvalue()


def test_the_onnx_program_runs_in_the_folder(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from budwood.engine.predictor import Predictor

    monkeypatch.chdir(tiny_bundle.path)
    shown = run(program(model_card(draft(), facts(formats=frozenset({"onnx"})))))
    answer = Predictor.open(tiny_bundle).predict([{"text": "first text"}])[0]
    label, score = shown.removeprefix("first text ").rsplit(" ", 1)
    assert label == answer["label"]
    assert float(score) == pytest.approx(answer["score"], abs=1e-5)


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", False), ("cls", True)])
def test_the_torch_program_runs_in_the_folder(
    pooling: str, normalize: bool, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from safetensors.numpy import save_file

    from budwood.engine.predictor import Predictor

    random = np.random.default_rng(0)
    head = {"weight": random.normal(size=(3, tiny.HIDDEN)), "bias": random.normal(size=3)}

    def write(folder: Path) -> None:
        for file in tiny_bert.iterdir():
            shutil.copyfile(file, folder / file.name)
        save_file({name: value.astype(np.float32) for name, value in head.items()}, folder / "head.safetensors")
        (folder / "pooling.json").write_text(json.dumps({"pooling": pooling, "normalize": normalize}))

    bundle = Bundle.create(tmp_path / "bundle", draft(), write)
    monkeypatch.chdir(bundle.path)
    shown = run(program(model_card(draft(), facts(pooling=pooling, normalize=normalize)))).splitlines()
    answers = Predictor.open(bundle, "torch").predict([{"text": "first text"}, {"text": "second text"}])
    for line, answer in zip(shown, answers, strict=True):
        assert line.split()[2] == answer["label"]
        assert float(line.split()[3]) == pytest.approx(answer["score"], abs=1e-5)


def test_a_cut_network_is_not_said_to_open_in_transformers() -> None:
    plain = facts(pipeline_tag="image-classification")
    assert "AutoModelForImageClassification.from_pretrained" in model_card(draft(), plain)
    cut = model_card(draft(), facts(pipeline_tag="image-classification", cut=True))
    assert "from_pretrained" not in cut
    assert "`cuts.json` lists what each module keeps" in cut


def test_a_packed_graph_is_said_to_need_budwood() -> None:
    packed = model_card(draft(), facts(formats=frozenset({"onnx"}), packed=True))
    assert "--format unpacked" in packed
    assert "InferenceSession" not in packed
