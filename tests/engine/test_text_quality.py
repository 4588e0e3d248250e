"""Perplexity with its interval, variety, repetition, and the longest run that was copied from training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.engine.text_quality import (
    Likelihood,
    distinct,
    longest_copied_run,
    perplexity_ratio,
    repetition,
    unigram,
)


def test_perplexity_counts_tokens_and_its_interval_counts_documents():
    found = Likelihood(np.log(2) * np.asarray([10.0, 90.0]), np.asarray([10, 90]))
    assert found.perplexity == pytest.approx(2.0)
    assert found.per_document == pytest.approx([2.0, 2.0])
    assert found.interval() == pytest.approx((2.0, 2.0))
    random = np.random.default_rng(0)
    many = Likelihood(random.normal(300, 30, 200), np.full(200, 100))
    low, high = many.interval()
    assert low < many.perplexity < high
    assert (high - low) / many.perplexity < 0.15


def test_the_ratio_pairs_documents():
    random = np.random.default_rng(0)
    base = Likelihood(random.normal(300, 60, 100), np.full(100, 100))
    better = Likelihood(base.nats - 10, base.tokens)
    ratio, (low, high) = perplexity_ratio(better, base)
    assert ratio == pytest.approx(np.exp(-0.1))
    assert high - low < 1e-9  # the documents differ, the gain does not
    with pytest.raises(ValueError, match="same tokens"):
        perplexity_ratio(better, Likelihood(base.nats, base.tokens + 1))


def test_the_unigram_model_knows_frequencies_only():
    found = unigram([[0] * 60 + [1] * 36], [[0], [1, 1]], 4)
    assert found.nats == pytest.approx([-np.log(0.61), -2 * np.log(0.37)])


def test_variety_and_repetition():
    assert distinct(["a b c d"]) == 1.0
    assert distinct(["a b a b a b"]) == pytest.approx(2 / 5)
    assert repetition(["a b c d a b c d a b c d"]) == pytest.approx(1 - 4 / 9)
    assert repetition(["one two three four five", "short"]) == 0.0


def test_the_longest_copied_run_is_found_with_its_words():
    training = ["the cat sat on the mat and slept", "a dog ran over the hill"]
    found = longest_copied_run(["then a cat sat on the mat", "dog ran over"], training)
    assert (found.words, found.text) == (5, "cat sat on the mat")
    assert longest_copied_run(["nothing alike"], training).words == 0
    assert longest_copied_run(training[:1], training).words == 8
    assert longest_copied_run([""], training).words == 0
    assert longest_copied_run(["sat on the mat a dog"], training).words == 4  # no run goes across two texts


words = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


@given(st.lists(words, min_size=1, max_size=3), st.lists(words, min_size=1, max_size=3))
def test_the_longest_copied_run_is_that_of_plain_search(texts, training):
    def runs(text):
        parts = text.split()
        return {tuple(parts[a:b]) for a in range(len(parts)) for b in range(a + 1, len(parts) + 1)}

    shared = set.union(*map(runs, texts)) & set.union(*map(runs, training))
    found = longest_copied_run(texts, training)
    assert found.words == max(map(len, shared), default=0)
    assert found.words == 0 or tuple(found.text.split()) in shared
