"""The linear head: the penalty means the same at every scale, and a class without rows is never preferred."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from budwood.engine import linear_head


def blobs(n: int = 60, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    targets = np.arange(n) % 3
    embeddings = random.normal(size=(n, width)).astype(np.float32) + 0.7 * np.eye(width, dtype=np.float32)[targets]
    return embeddings, targets


@pytest.mark.parametrize("factor", [0.01, 1.0, 40.0])
@pytest.mark.parametrize("several", [False, True])
def test_the_scale_of_the_embeddings_does_not_matter(factor, several):
    embeddings, targets = blobs()
    if several:
        targets = np.eye(3, dtype=np.float32)[targets]
    expected = linear_head.fit(embeddings, targets, 3, 3.0)
    found = linear_head.fit(embeddings * np.float32(factor), targets, 3, 3.0)
    np.testing.assert_allclose(found[0] * factor, expected[0], atol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-3)
    assert found[0].dtype == found[1].dtype == np.float32


def test_repeated_rows_with_the_penalty_shared_out_give_the_same_head():
    embeddings, targets = blobs()
    once = linear_head.fit(embeddings, targets, 3, 1.0)
    twice = linear_head.fit(np.tile(embeddings, (2, 1)), np.tile(targets, 2), 3, 0.5)
    np.testing.assert_allclose(twice[0], once[0], atol=2e-3)
    np.testing.assert_allclose(twice[1], once[1], atol=2e-3)


def test_the_penalty_is_one_of_the_offered():
    embeddings, targets = blobs()
    for offered in ((0.01, 0.1), (50.0,)):
        assert linear_head.choose_penalty(embeddings, targets, 3, 0, offered) in offered


def test_unit_vectors_are_taken_as_they_are():
    embeddings, _ = blobs()
    assert linear_head.length(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)) == 1
    assert linear_head.length(np.zeros((3, 2))) == 1


def test_a_class_without_rows_is_never_preferred():
    embeddings, targets = blobs()
    weight, bias = linear_head.fit(embeddings, targets, 4, 1.0)
    assert weight.shape == (4, embeddings.shape[1])
    assert (embeddings @ weight.T + bias).argmax(axis=1).max() != 3
