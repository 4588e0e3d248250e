"""The molecule task: what a request, a label and an answer look like."""

from typing import Any

import compounds
import numpy as np
import pytest

from budwood.core import registry
from budwood.core.errors import BundleError, DataError, UsageError

KIND = registry.get("tasks", "molecule_property")
SEVERAL = [
    {"smiles": "CCO", "label": {"a": 1, "b": None}},
    {"smiles": "CCN", "label": {"a": 0, "b": "1"}},
    {"smiles": "CCC", "label": {"a": None, "b": 0.0}},
]


@pytest.mark.parametrize(
    ("item", "cause", "where"),
    [
        ("CCO", "must be an object", "input"),
        ({}, "smiles is missing", "smiles"),
        ({"smiles": 3}, "must be a string, not int", "smiles"),
        ({"smiles": "CCO", "text": ""}, "unknown field 'text'", "text"),
        ({"smiles": "C("}, "is not SMILES", "smiles"),
        ({"smiles": ""}, "is empty", "smiles"),
    ],
)
def test_a_wrong_request_names_its_field(item: Any, cause: str, where: str) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    task, _ = KIND.example()
    with pytest.raises(DataError, match=cause) as caught:
        task.parse(item)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["0", "1", "1"], "classification", ("0", "1")),
        (["active", "inactive"], "classification", ("inactive", "active")),
        ([1.0, 0.0], "classification", ("0", "1")),
        (["0.5", "1.5", "2.5"], "regression", ()),
        ([0.5, 1, -2], "regression", ()),
    ],
)
def test_the_labels_tell_the_kind(labels: list[Any], kind: str, names: tuple[str, ...]) -> None:
    task = KIND.from_rows([{"smiles": "C", "label": label} for label in labels])
    assert (task.kind, task.labels) == (kind, names)
    assert KIND.from_json(task.to_json()) == task


@pytest.mark.parametrize(
    ("labels", "cause"),
    [
        (["1", "1"], "every label of 'label' is '1'"),
        (["low", "mid", "high"], "has 3 classes"),
        ([], "no labelled rows"),
        ([{"a": 1, "b": 0.5}, {"a": 0, "b": 1.5}, {"a": 0, "b": 2.5}], r"some are numbers \(b\)"),
        ([{"a": "1", "b": "x"}, {"a": "0", "b": "y"}], "different labels"),
    ],
)
def test_labels_that_make_no_task_are_refused(labels: list[Any], cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        KIND.from_rows([{"smiles": "C", "label": label} for label in labels])


def test_several_properties_with_gaps() -> None:
    task = KIND.from_rows(SEVERAL)
    assert task.properties == ("a", "b")
    np.testing.assert_equal(task.targets(SEVERAL), np.array([[1, np.nan], [0, 1], [np.nan, 0]], np.float32))
    outputs = {"logits": np.array([[2.0, 2.0], [2.0, 2.0], [-2.0, -2.0]]), "spread": np.zeros((3, 2))}
    answers = task.decode(outputs, {}, 3)
    assert answers[0]["properties"]["b"]["label"] == "1"
    np.testing.assert_allclose(task.row_scores(answers, SEVERAL), [1, 0.5, 1])
    assert {"roc_auc", "roc_auc a", "roc_auc b", "brier"} <= set(task.metrics(answers, SEVERAL))
    assert task.quality(answers, SEVERAL)[0] == pytest.approx(1 - (1 - 1 / (1 + np.exp(-2))) ** 2)
    assert (task.column(None), task.column("b")) == (0, 1)
    with pytest.raises(UsageError, match="no property 'c'"):
        task.column("c")


def test_numbers_come_with_an_interval_that_is_fitted_on_held_out_rows() -> None:
    rows = [{"smiles": "C" * (i + 1), "label": float(i)} for i in range(40)]
    task = KIND.from_rows(rows)
    truth = task.targets(rows)
    errors = np.linspace(-1, 1, 40)[:, None]
    calibration = task.calibrate(truth + errors, truth)
    assert calibration["interval_90_0"] == pytest.approx(0.95, abs=0.05)
    (answer,) = task.decode({"logits": np.array([[3.0]]), "spread": np.array([[0.5]])}, calibration, 1)
    assert answer["value"] == 3.0
    assert answer["uncertainty"] == 0.5
    assert answer["interval"] == pytest.approx([3 - calibration["interval_90_0"], 3 + calibration["interval_90_0"]])
    assert task.row_scores([answer], [{"smiles": "C", "label": 3.0}]).tolist() == [1.0]
    assert task.row_scores([answer], [{"smiles": "C", "label": 42.0}]).tolist() == [0.0]
    assert task.calibrate(truth[:5], truth[:5]) == {}


def test_gaps_cost_no_loss() -> None:
    torch = pytest.importorskip("torch")
    task = KIND.from_rows(SEVERAL)
    logits = torch.zeros((3, 2), requires_grad=True)
    loss = task.loss({"logits": logits}, torch.from_numpy(task.targets(SEVERAL)))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0.0 != logits.grad[0, 0]


def test_an_unknown_label_names_its_row() -> None:
    task = KIND.from_rows(compounds.rows())
    with pytest.raises(DataError, match="label '2' is unknown") as caught:
        task.targets([{"smiles": "C", "label": "1"}, {"smiles": "C", "label": "2"}])
    assert caught.value.where == "row 2"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": "ranking"},
        {"kind": "classification", "labels": ["1"]},
        {"kind": "regression", "ranges": []},
        {"kind": "classification", "labels": ["0", "1"], "extra": 1},
        {"kind": "regression", "properties": [3], "ranges": [[0, 1]]},
    ],
)
def test_damaged_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="fields"):
        KIND.from_json(fields)


def test_a_molecule_has_one_identity_and_cases_matter() -> None:
    task = compounds.task()
    same = [{"smiles": text} for text in ("CCO", "OCC", " C(O)C ", "CCO.[Na+]")]
    assert {task.identity(row) for row in [*same, {"smiles": "as it was written", "canonical": "CCO"}]} == {"CCO"}
    assert task.identity({"smiles": "C1CCCCC1"}) != task.identity({"smiles": "c1ccccc1"})
    assert task.identity({"smiles": "[Co]"}) != task.identity({"smiles": "CO"})
    assert task.identity({"smiles": "C("}) == "C("
