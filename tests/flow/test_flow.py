"""The whole path on a tiny model: read, adapt, evaluate, predict, compare, shrink, export, and errors on the way."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch")

from budwood import flow  # noqa: E402
from budwood.core.bundle import Bundle, Draft  # noqa: E402
from budwood.core.errors import DataError, NotFoundError, UsageError  # noqa: E402
from budwood.core.store import Store  # noqa: E402
from budwood.engine import conformance, planning  # noqa: E402
from budwood.engine.predictor import Predictor  # noqa: E402
from budwood.stages import adapting, asking, heads, shrink_judging, shrink_search, workbench  # noqa: E402


def table(path: Path, repeats: int = 12) -> Path:
    lines = [json.dumps(row) for row in tiny.rows(repeats)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "UPDATES", 30)
    monkeypatch.setattr(shrink_judging, "RACE_SECONDS", 2.0)
    monkeypatch.setattr(shrink_judging, "SECONDS_EACH", 0.5)
    monkeypatch.setattr(shrink_search, "GLANCE_SECONDS", 0.5)
    monkeypatch.setattr(shrink_search, "RUNTIME_SECONDS", 0.5)


@pytest.fixture(scope="module")
def adapted(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A store with one adapted model, made once."""
    folder = tmp_path_factory.mktemp("flow")
    result = flow.adapt(
        table(folder / "tickets.jsonl"), base=str(tiny_bert), method="head", store=folder / "models", name="tickets"
    )
    return folder / "models", result


def test_adapt_publishes_a_bundle_that_every_library_opens(adapted: tuple[Path, object]) -> None:
    store, result = adapted
    facts = result.to_json()
    assert (facts["name"], facts["version"], facts["method"], facts["metric"]) == ("tickets", 1, "head", "accuracy")
    assert facts["ci"][0] <= facts["score"] <= facts["ci"][1]
    bundle = Bundle.open(store / "tickets" / "1")
    assert bundle.id == facts["id"]
    assert bundle.formats == {"torch", "onnx"}
    assert [step.name for step in bundle.manifest.history][:3] == ["base", "adapt.head", "export.onnx"]
    import transformers

    encoder = transformers.AutoModel.from_pretrained(str(bundle.path), local_files_only=True)
    assert encoder.config.num_hidden_layers == 2
    assert facts["report"] == str(bundle.path / "report.html")
    assert {"report.html", "report/confusion.png", "report/embedding.png"} <= set(bundle.manifest.files)
    assert "What looks alike to it" in result.report.read_text()
    assert not list((store / ".work").glob("adapt-*[!k]/steps")), "the work folder of a finished run is removed"


def test_torch_and_onnx_give_the_same_logits(adapted: tuple[Path, object]) -> None:
    bundle = Bundle.open(adapted[0] / "tickets" / "1")
    rows = tiny.rows(3)
    one, other = (Predictor.open(bundle, runtime).outputs(rows)["logits"] for runtime in ("torch", "onnxruntime"))
    np.testing.assert_allclose(one, other, atol=conformance.FLOAT_TOLERANCE)
    assert conformance.check(Predictor.open(bundle), bundle) <= conformance.FLOAT_TOLERANCE


def test_a_predictor_that_computes_something_else_fails_its_golden_rows(adapted: tuple[Path, object]) -> None:
    bundle = Bundle.open(adapted[0] / "tickets" / "1")
    good = Predictor.open(bundle)
    crooked = replace(good, encoder=lambda rows: good.encoder([{"text": "another text"}] * len(rows)))
    with pytest.raises(Exception, match="golden rows differ by"):
        conformance.check(crooked, bundle)


def test_evaluate_predict_and_compare_agree(adapted: tuple[Path, object], tmp_path: Path) -> None:
    store, _ = adapted
    data = table(tmp_path / "new.jsonl", 2)
    found = flow.evaluate("tickets", data, store=store)
    answers = list(flow.predict("tickets", file=data, store=store))
    right = sum(answer["label"] == row["label"] for answer, row in zip(answers, tiny.rows(2), strict=True))
    assert found.n == len(answers) == 18
    assert found.score == pytest.approx(right / 18)
    same = flow.compare("tickets", "tickets:1", data, store=store)
    assert (same.difference, same.n_differ, same.p) == (0.0, 0, 1.0)
    with pytest.raises(DataError, match="text is empty"):
        flow.predict("tickets", ["fine", " "], store=store)
    with pytest.raises(NotFoundError):
        flow.predict("tikcets", ["fine"], store=store)


def test_shrink_publishes_the_smallest_that_passes_and_says_why(adapted: tuple[Path, object]) -> None:
    store, _ = adapted
    result = flow.shrink("tickets", max_drop=0.9, max_minutes=5, store=store)
    facts = result.to_json()
    names = [item["recipe"] for item in facts["candidates"] if item["rung"]]
    assert names == ["int8", "layers-1", "layers-1+int8"]
    assert facts["chosen"] in names, [(item["recipe"], item["why"]) for item in facts["candidates"]]
    assert facts["within_budget"]
    sizes = {item["recipe"]: item["size_mb"] for item in facts["candidates"] if item["within_budget"]}
    assert sizes[facts["chosen"]] < facts["reference"]["size_mb"]
    bundle = Bundle.open(facts["path"])
    assert {"pareto.svg", "pareto.png", "README.md", "report.html", "report/compared.png"} <= set(bundle.manifest.files)
    assert "report/learning.png" not in bundle.manifest.files, "the parent's pictures do not tell of the child"
    assert 'class="pareto"' in (bundle.path / "report.html").read_text("utf-8")
    assert conformance.check(Predictor.open(bundle), bundle) <= conformance.read(bundle)["tolerance"]
    assert Store(store).resolve("tickets").version == facts["version"] == 2


def test_shrink_publishes_nothing_when_the_rows_cannot_prove_the_budget(adapted: tuple[Path, object]) -> None:
    store, _ = adapted
    before = Store(store).versions("tickets")
    result = flow.shrink("tickets:1", max_drop=0.001, max_minutes=5, store=store)
    assert not result.within_budget
    assert result.version is None
    assert Store(store).versions("tickets") == before
    assert {item.verdict for item in result.report.candidates} <= {"UNDECIDED", "FAIL", None}
    with pytest.raises(UsageError, match="max_drop"):
        flow.shrink("tickets:1", max_drop=2, store=store)


@pytest.mark.parametrize("method", ["few_shot", "full", "lora"])
def test_every_method_trains_and_beats_a_guess(tiny_bert: Path, tmp_path: Path, method: str) -> None:
    data = table(tmp_path / "rows.jsonl", 30)
    result = flow.adapt(data, base=str(tiny_bert), method=method, store=tmp_path / "models")
    assert result.method == method
    assert result.score > 0.5
    assert method in result.verdict
    history = [step.name for step in Bundle.open(result.path).manifest.history]
    assert history[:3] == ["base", "adapt.head", f"adapt.{method}"]
    files = set(Bundle.open(result.path).manifest.files)
    assert {"report/compared.png", "report/confusion.png", "report/learning.png"} <= files
    assert ("report/training.png" in files) == (method != "few_shot")


def test_several_labels_a_row(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": [row["label"], "all"]} for row in tiny.rows(12)]
    data = tmp_path / "multi.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)) + "\n")
    result = flow.adapt(data, base=str(tiny_bert), method="head", store=tmp_path / "models")
    assert result.metric == "samples_f1"
    assert result.score > 0.5
    (answer,) = flow.predict("multi", [rows[0]["text"]], store=tmp_path / "models")
    assert "all" in answer["labels"]


def test_random_labels_never_look_good(tiny_bert: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows = [row | {"label": str(chance.choice(["a", "b"]))} for row in tiny.rows(40)]
    data = tmp_path / "noise.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)) + "\n")
    result = flow.adapt(data, base=str(tiny_bert), method="head", store=tmp_path / "models")
    assert result.ci[0] < 0.5  # one interval in forty lies below chance, which looks bad, not good


def test_a_parameter_that_makes_no_sense_is_refused_before_any_work(tiny_bert: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "rows.jsonl")
    for wrong in ({"method": "ful"}, {"max_minutes": -1}, {"name": "No Spaces"}):
        with pytest.raises(UsageError):
            flow.adapt(data, base=str(tiny_bert), store=tmp_path / "models", **wrong)
    with pytest.raises(NotFoundError, match="no such base"):
        flow.adapt(data, base="./nowhere", store=tmp_path / "models")
    assert not list((tmp_path / "models").glob("[a-z]*"))


def test_export_copies_an_ordinary_folder(adapted: tuple[Path, object], tmp_path: Path) -> None:
    out = flow.export("tickets:1", tmp_path / "out", store=adapted[0])
    assert Bundle.open(out).id == Bundle.open(adapted[0] / "tickets" / "1").id
    with pytest.raises(UsageError, match="already exists"):
        flow.export("tickets:1", out, store=adapted[0])


def test_an_export_that_makes_the_graph_leaves_no_work_behind(adapted: tuple[Path, object], tmp_path: Path) -> None:
    bundle = Bundle.open(adapted[0] / "tickets" / "1")

    def write(stage: Path) -> None:
        for name in bundle.manifest.files:
            if name != "onnx/model.onnx":
                (stage / name).parent.mkdir(exist_ok=True)
                (stage / name).write_bytes(bundle.read(name))

    draft = Draft.model_validate({name: getattr(bundle.manifest, name) for name in Draft.model_fields})
    home = Store(tmp_path / "models")
    home.publish("plain", Bundle.create(tmp_path / "plain", draft, write))
    out = flow.export("plain", tmp_path / "out", store=home.root)
    assert "onnx" in Bundle.open(out).formats
    assert [path for path in (home.root / ".work").glob("export-*") if path.is_dir()] == []


def test_every_predictor_that_a_stage_opens_is_closed(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Predictor] = []
    closed: list[object] = []

    class Watched(Predictor):
        @classmethod
        def open(cls, bundle: Bundle, runtime: str = "auto", threads: int = 0) -> Predictor:
            opened.append(super().open(bundle, runtime, threads))
            return opened[-1]

        def close(self) -> None:
            closed.append(self.runtime)
            super().close()

    for stage in (adapting, asking, heads, shrink_judging, shrink_search, workbench):
        monkeypatch.setattr(stage, "Predictor", Watched)
    monkeypatch.setattr(shrink_judging, "RACE_SECONDS", 0.1)
    data, store = table(tmp_path / "t.jsonl", 30), tmp_path / "models"
    flow.adapt(data, base=str(tiny_bert), method="few_shot", store=store)
    flow.evaluate("t", data, store=store)
    flow.compare("t", "t", data, store=store)
    assert len(list(flow.predict("t", ["a text"], store=store))) == 1
    flow.shrink("t", max_drop=0.9, store=store)
    assert len(opened) >= 10
    assert {id(item.runtime) for item in opened} == {id(runtime) for runtime in closed}
