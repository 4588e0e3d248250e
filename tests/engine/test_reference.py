"""The statistics that travel in a bundle: of rows, of answers on held-out rows, and of what a closer look shows."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from budwood.core.task import Encoded
from budwood.engine.predictor import Predictor, task_of
from budwood.engine.reference import (
    DIRECTIONS,
    KEPT,
    NONE,
    Insight,
    gist,
    looked_at,
    projected,
    statistics,
    thinned,
    unknown_token,
)


@pytest.mark.parametrize(
    ("answer", "labels", "confidence", "value", "similarity"),
    [
        ({"label": "a", "score": 0.9, "scores": {"a": 0.9}}, ("a",), 0.9, None, None),
        ({"labels": ["a", "b"], "scores": {"a": 0.7, "b": 0.8}}, ["a", "b"], 0.8, None, None),
        ({"labels": [], "scores": {"a": 0.2}}, (NONE,), 0.2, None, None),
        ({"value": 2.5, "interval": [2, 3]}, (), None, 2.5, None),
        ({"objects": [{"label": "a", "score": 0.6}, {"label": "a", "score": 0.7}]}, ("a",), 0.7, 2, None),
        ({"objects": []}, (NONE,), None, 0, None),
        ({"label": "yes", "score": 0.8, "similarity": 0.4}, ("yes",), 0.8, None, 0.4),
        ({"properties": {"p": {"value": 1.5}, "q": {"value": 9.0}}, "similarity": 0.3}, (), None, 1.5, 0.3),
        ({"text": "once", "tokens": 3, "finish_reason": "stop"}, (), None, None, None),
    ],
)
def test_the_gist_of_each_kind_of_answer(
    answer: dict[str, object], labels: object, confidence: float | None, value: float | None, similarity: float | None
) -> None:
    found = gist(answer)
    assert found.labels == labels
    for number, expected in zip(found[1:], (confidence, value, similarity), strict=True):
        assert number == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


def test_statistics_are_of_rows_and_answers(tiny_bundle: object) -> None:
    task = task_of(tiny_bundle)  # type: ignore[arg-type]
    rows = tiny.rows(60)
    answers = [{"label": "praise", "score": 0.5 + i / 1000, "scores": {"praise": 0.5}} for i in range(400)]
    found = statistics(task, rows, answers)
    assert found["rows"] == 540
    assert found["labels"] == dict.fromkeys(tiny.LABELS, 180)
    assert found["predicted"] == {"praise": 400}
    assert sum(found["confidence_histogram"]) == 400
    assert set(found["samples"]) == {"length", "confidence"}
    assert len(found["samples"]["length"]) == len(found["samples"]["confidence"]) == KEPT
    assert len(json.dumps(found)) < 8_000


def test_objects_below_the_threshold_do_not_count(tiny_bundle: object) -> None:
    task = task_of(tiny_bundle)  # type: ignore[arg-type]
    answers = [{"objects": [{"label": "a", "score": 0.3}, {"label": "b", "score": 0.6}]}]
    assert statistics(task, tiny.rows(), answers, least_score=0.5)["predicted"] == {"b": 1}
    assert statistics(task, tiny.rows(), answers)["samples"]["value"] == [2.0]


def test_samples_keep_the_shape_of_many_values() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    kept = thinned([*values.tolist(), float("nan")])
    assert len(kept) == KEPT
    assert kept == sorted(kept)
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(kept, share) == pytest.approx(np.quantile(values, share), abs=0.03)


def test_directions_keep_distances_and_are_the_same_everywhere() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 384))
    found = projected(vectors)
    assert found.shape == (60, DIRECTIONS)
    ratios = [
        np.linalg.norm(found[i] - found[j]) / np.linalg.norm(vectors[i] - vectors[j]) * np.sqrt(384 / DIRECTIONS)
        for i in range(20)
        for j in range(i)
    ]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)
    assert np.sign(projected(np.eye(2, 384)))[:, :8].tolist() == SIGNS


SIGNS = [[-1, 1, -1, 1, -1, -1, -1, 1], [1, 1, -1, -1, -1, 1, 1, 1]]


def test_a_closer_look_at_texts(tmp_path: Path) -> None:
    bundle = tiny.bundle(tmp_path / "bundle")
    predictor = Predictor.open(bundle)
    unknown = unknown_token(bundle.path)
    assert unknown == 1
    insight = Insight(predictor, unknown)
    known, strange = insight.look([{"text": "where is my parcel"}]), insight.look([{"text": "漢字 漢字 漢字"}])
    assert known["unknown"][0] == 0
    assert strange["unknown"][0] > 0.5
    assert known["directions"].shape == (1, DIRECTIONS)
    assert "directions" not in insight.look([{"text": "where"}], vectors=False)
    predictor.close()


def test_a_bundle_keeps_at_most_so_many_looks(tmp_path: Path) -> None:
    bundle = tiny.bundle(tmp_path / "bundle")
    found = looked_at(bundle, tiny.rows(30))
    assert 90 <= len(found["directions"]) <= 128
    assert len(found["samples"]["unknown"]) == len(found["directions"])
    assert looked_at(bundle, []) == {}
    assert looked_at(tiny.small_bundle(tmp_path / "small"), tiny.rows()) == {}


def test_a_closer_look_at_images_reads_what_the_network_sees() -> None:
    pixels = np.stack([np.full((3, 4, 4), 0.5), np.tile([-1.0, 1.0], 24).reshape(3, 4, 4)])
    encode = lambda rows: Encoded({"pixel_values": pixels[: len(rows)].astype(np.float32)}, [{} for _ in rows])  # noqa: E731
    found = Insight(Predictor(None, encode, None, {}), None).look([{}, {}], vectors=False)  # type: ignore[arg-type]
    assert found["brightness"].tolist() == [0.5, 0.0]
    assert found["contrast"].tolist() == [0.0, 1.0]
