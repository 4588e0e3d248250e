"""Fingerprint models: the graphs compute what scikit-learn computes, and the choice is made on unseen scaffolds."""

from typing import Any

import compounds
import numpy as np
import pytest

pytest.importorskip("rdkit", reason="molecules need the extra chem")
pytest.importorskip("sklearn")

from budwood.core.formats import check_onnx
from budwood.engine import fingerprint_graph, fingerprint_model
from budwood.engine.fingerprint_model import Candidate
from budwood.engine.molecules import fingerprints, prepare

COUNTS = fingerprints([prepare(row["smiles"]).molecule for row in compounds.rows()])


def targets(*, classification: bool) -> Any:
    """Two properties; the second one is unknown for a third of the molecules."""
    rows = compounds.rows() if classification else compounds.numbers()
    values = np.asarray([[float(row["label"])] * 2 for row in rows], np.float32)
    values[::3, 1] = np.nan
    return values


def run(graph: bytes) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(["logits", "spread"], {"fingerprint": COUNTS})
    return found


def log_odds(shares: Any) -> Any:
    inside = np.clip(shares, 1e-3, 1 - 1e-3)
    return np.log(inside / (1 - inside))


@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("counts", [True, False])
def test_the_graph_of_a_forest_is_the_forest(classification: bool, counts: bool, tmp_path: Any) -> None:
    y = targets(classification=classification)
    x = fingerprint_model.view(Candidate("forest", counts), COUNTS.astype(np.float32))
    forests = [
        fingerprint_model.forest(*fingerprint_model.rows_of(x, y, column), classification, 20, seed=0)
        for column in (0, 1)
    ]
    graph = fingerprint_graph.forest_graph(forests, classification=classification, counts=counts)
    logits, spread = run(graph)
    for column, forest in enumerate(forests):
        trees = [tree.predict_proba(x)[:, -1] if classification else tree.predict(x) for tree in forest.estimators_]
        mean = np.mean(trees, axis=0)
        np.testing.assert_allclose(logits[:, column], log_odds(mean) if classification else mean, atol=1e-4)
        np.testing.assert_allclose(spread[:, column], np.std(trees, axis=0), atol=2e-3)
    path = tmp_path / "model.onnx"
    path.write_bytes(graph)
    check_onnx(path, "model.onnx")


@pytest.mark.parametrize("classification", [True, False])
def test_the_graph_of_linear_models_is_their_mean(classification: bool) -> None:
    chosen = Candidate("linear", False, 0.3)
    y = targets(classification=classification)
    x = fingerprint_model.view(chosen, COUNTS.astype(np.float32))
    fits = [
        fingerprint_model.bootstrap(*fingerprint_model.rows_of(x, y, column), chosen, classification, seed=0)
        for column in (0, 1)
    ]
    weight, bias = (np.stack(part, axis=1) for part in zip(*fits, strict=True))
    logits, spread = run(fingerprint_graph.linear_graph(weight, bias, classification=classification, counts=False))
    each = np.einsum("nf,mkf->mnk", x, weight) + bias[:, None, :]
    each = 1 / (1 + np.exp(-each)) if classification else each
    mean = each.mean(axis=0)
    np.testing.assert_allclose(logits, log_odds(mean) if classification else mean, atol=1e-3)
    np.testing.assert_allclose(spread, each.std(axis=0), atol=1e-3)


@pytest.mark.parametrize("classification", [True, False])
def test_the_mean_of_two_graphs_is_weighted(classification: bool) -> None:
    y = targets(classification=classification)[:, :1]
    x = COUNTS.astype(np.float32)
    forest = fingerprint_model.forest(*fingerprint_model.rows_of(x, y, 0), classification, 10, seed=0)
    parts = [fingerprint_graph.forest_graph([forest], classification=classification, counts=True)]
    weight, bias = fingerprint_model.bootstrap(x, y[:, 0], Candidate("linear", True, 1.0), classification, seed=1)
    parts.append(
        fingerprint_graph.linear_graph(weight[:, None], bias[:, None], classification=classification, counts=True)
    )
    merged = fingerprint_graph.average_graph(
        parts[0], parts[1], classification=classification, temperatures=(2.0, 0.5), weight=0.25
    )
    (a, a_spread), (b, b_spread), (mean, spread) = run(parts[0]), run(parts[1]), run(merged)
    if classification:
        a, b, mean = (1 / (1 + np.exp(-values)) for values in (a / 2.0, b / 0.5, mean))
    np.testing.assert_allclose(
        mean, np.clip(0.75 * a + 0.25 * b, *((1e-3, 0.999) if classification else (-99, 99))), atol=1e-4
    )
    variance = 0.75 * a_spread**2 + 0.25 * b_spread**2 + 0.75 * 0.25 * (a - b) ** 2
    np.testing.assert_allclose(spread, np.sqrt(variance), atol=1e-3)


def test_groups_are_held_out_whole_and_every_row_once() -> None:
    groups = [str(i // 7) for i in range(100)]
    parts = list(fingerprint_model.folds(groups, seed=0))
    assert sorted(np.concatenate(parts)) == list(range(100))
    names = [{groups[i] for i in part} for part in parts]
    assert not names[0] & names[1]
    assert not names[1] & names[2]


def test_what_the_structure_decides_is_found_and_the_choice_reported() -> None:
    rows = compounds.rows()
    fitted, calibration = fingerprint_model.fit_rows(compounds.task(), rows, seed=0)
    assert fitted.report["chosen"] in fitted.report["cross_validation"]
    assert len(fitted.report["cross_validation"]) == 6
    held = (fitted.held_out[:, 0] > 0.5) == [row["label"] == "1" for row in rows]
    assert held.mean() > 0.8
    assert calibration["temperature"] > 0
    again, _ = fingerprint_model.fit_rows(compounds.task(), rows, seed=0)
    assert again.graph == fitted.graph


def test_a_property_of_one_class_is_answered_with_that_class() -> None:
    y = np.zeros((len(COUNTS), 1), np.float32)
    for kind in ("forest", "linear"):
        shares = fingerprint_model.predict(Candidate(kind, True, 1.0), COUNTS, y[:, 0], COUNTS[:3], True, 0)
        assert shares.max() < 0.05
