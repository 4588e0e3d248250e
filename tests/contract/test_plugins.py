"""Every plug-in in the tree must pass these. A new file is tested by existing."""

from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import MissingExtraError, NotFoundError
from budwood.core.recipe import Recipe
from budwood.core.runtime import Runtime
from budwood.core.step import Context, Step
from budwood.core.task import Task
from budwood.engine.collection import Collection
from budwood.engine.table import Reader

STEPS = [(folder, name) for folder in ("adapt", "export", "shrink") for name in registry.names(f"steps/{folder}")]


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_a_task_goes_to_json_and_back_and_scores_its_own_truth(name: str) -> None:
    kind: type[Task] = registry.get("tasks", name)
    task, rows = kind.example()
    assert task.name == name
    assert kind.from_json(task.to_json()) == task
    assert kind.from_rows(rows).to_json() == task.to_json()
    assert len(task.targets(rows)) == len(task.lengths(rows)) == len(rows)
    names = ("label", "labels", "value", "objects")
    truth = [{**dict.fromkeys(names, row.get("label")), "perplexity": 1.0} for row in rows]
    assert task.row_scores(truth, rows).mean() == 1.0
    try:
        assert all(task.parse({field: row[field] for field in task.inputs}) for row in rows)
    except MissingExtraError as error:
        pytest.skip(f"parsing needs an extra: {error.cause}")


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_a_task_states_its_requests_as_a_closed_schema(name: str) -> None:
    kind: type[Task] = registry.get("tasks", name)
    schema = kind.request_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(kind.inputs)
    assert kind.answer_schema()["type"] == "object"


@pytest.mark.parametrize("name", sorted(set(registry.names("runtimes")) - {"null"}))
def test_a_runtime_agrees_with_numpy(name: str, tiny_bundle: Bundle) -> None:
    kind: type[Runtime] = registry.get("runtimes", name)
    if not tiny_bundle.formats & set(kind.reads) or name == "torch":
        pytest.skip(f"{name} reads {', '.join(kind.reads)}; the torch path is compared in tests/flow")
    from budwood.engine.predictor import Predictor

    try:
        predictor = Predictor.open(tiny_bundle, name)
    except MissingExtraError as error:
        pytest.skip(error.cause)
    inputs = predictor.encoder(tiny.rows()).inputs
    expected = tiny.logits(load_file(tiny_bundle.model_file("torch")), inputs)
    np.testing.assert_allclose(predictor.runtime.run(inputs)["logits"], expected, atol=1e-5)
    predictor.close()
    predictor.close()


@pytest.mark.parametrize("name", registry.names("data"))
def test_a_reader_reads_tables_or_claims_paths(name: str, tmp_path: Path) -> None:
    kind: type[Reader] | type[Collection] = registry.get("data", name)
    if issubclass(kind, Collection):
        (tmp_path / "texts.csv").write_text("text,label\na text,good\n")
        assert not any(kind().claims(path) for path in (tmp_path, tmp_path / "texts.csv", tmp_path / "missing"))
        return
    assert kind.suffixes
    assert all(suffix.startswith(".") for suffix in kind.suffixes)


@pytest.mark.parametrize(("folder", "name"), STEPS)
def test_a_step_is_its_own_configuration(folder: str, name: str) -> None:
    kind: type[Step] = registry.get(f"steps/{folder}", name)
    step = kind()
    assert step.name == f"{folder}.{name}"
    assert is_dataclass(kind)
    assert set(step.parameters()) == {field.name for field in fields(kind)}
    if fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(step, fields(kind)[0].name, None)


@pytest.mark.parametrize(("folder", "name"), STEPS)
def test_a_step_makes_a_child_and_leaves_the_parent_alone(
    folder: str, name: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from budwood.engine import planning
    from budwood.engine.base_model import import_base
    from budwood.engine.bases import Found

    monkeypatch.setattr(planning, "UPDATES", 6)
    kind: type[Step] = registry.get(f"steps/{folder}", name)
    if kind.tasks:
        pytest.skip(f"it is for {', '.join(sorted(kind.tasks))}; tests/steps has its own test")
    step = kind(layers=1) if "layers" in {field.name for field in fields(kind)} else kind()  # type: ignore[call-arg]
    splits = tiny.splits()
    task = registry.get("tasks", "text_classification").from_rows(splits.train.rows)
    context = Context(out=tmp_path / "unused", work=tmp_path / "work", splits=splits, task=task)
    head, onnx = registry.get("steps/adapt", "head")(), registry.get("steps/export", "onnx")()
    before = {"adapt": (head,), "export": (head,), "shrink": (head, onnx)}[folder] if name != "head" else ()
    base = import_base(Found(tiny_bert, "tiny", "asked for"), tmp_path, type(task))
    parent = Recipe(before).run(base, context, tmp_path / "cache")
    child = Recipe((*before, step)).run(base, context, tmp_path / "cache")
    assert child.parent == parent.id == Bundle.open(parent.path).id != child.id
    assert child.manifest.history[-1].name == step.name
    assert step.gives <= Bundle.open(child.path).formats


def test_an_unknown_name_says_what_exists() -> None:
    with pytest.raises(NotFoundError, match="no steps/shrink named 'qunatize'") as caught:
        registry.get("steps/shrink", "qunatize")
    assert "quantize_dynamic" in caught.value.fix
