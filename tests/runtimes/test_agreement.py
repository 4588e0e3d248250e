"""Every runtime that is installed computes what torch computes, on texts, images and a writer, from several threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, MissingExtraError
from budwood.engine import conformance
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Generator
from budwood.engine.predictor import Predictor

COMPUTING = sorted(set(registry.names("runtimes")) - {"null"})
"""The null runtime computes nothing that could be compared; tests/runtimes/test_null.py has what it promises."""
KINDS = ("text", "image", "vit", "writer")
Bundles = Callable[[str], Bundle]


def opened(bundle: Bundle, name: str) -> Predictor:
    try:
        return Predictor.open(bundle, name, threads=1)
    except MissingExtraError as error:
        pytest.skip(f"{name}: {error.cause}")


@contextmanager
def refused_writers(name: str, kind: str) -> Iterator[None]:
    """OpenVINO may say that it cannot run a graph with a cache; wrong numbers are another matter."""
    try:
        yield
    except BundleError as error:
        if (name, kind) != ("openvino", "writer") or "OpenVINO cannot" not in error.cause:
            raise
        pytest.skip(error.cause)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMPUTING)
def test_the_golden_rows_are_reproduced(name: str, kind: str, bundles: Bundles) -> None:
    bundle = bundles(kind)
    with closing(opened(bundle, name)) as predictor, refused_writers(name, kind):
        assert conformance.check(predictor, bundle) <= conformance.FLOAT_TOLERANCE
        assert conformance.read(bundle)["tolerance"] == conformance.FLOAT_TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMPUTING)
def test_threads_do_not_meet_in_one_call(name: str, kind: str, bundles: Bundles) -> None:
    bundle = bundles(kind)
    with closing(opened(bundle, name)) as predictor:
        rows = conformance.parsed(predictor.task, conformance.read(bundle))
        expected = [predictor.outputs([row])["logits"] for row in rows]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda row: predictor.outputs([row])["logits"], rows * 3))
        for index, logits in enumerate(found):
            np.testing.assert_allclose(logits, expected[index % len(rows)], atol=1e-5)


@pytest.mark.parametrize("name", COMPUTING)
def test_a_closed_runtime_says_so_or_fails_and_closing_twice_is_harmless(name: str, bundles: Bundles) -> None:
    predictor = opened(bundles("text"), name)
    inputs = predictor.encoder([{"text": "Where is my parcel?"}]).inputs
    outputs = predictor.runtime.run(inputs)
    kept = outputs["logits"].copy()
    predictor.runtime.run({item: np.ones_like(value) for item, value in inputs.items()})
    np.testing.assert_array_equal(outputs["logits"], kept, "an answer changed when the runtime was used again")
    predictor.close()
    predictor.close()
    with pytest.raises((BundleError, TypeError)):
        predictor.runtime.run(inputs)


@pytest.mark.parametrize("name", COMPUTING)
def test_a_writer_writes_the_same(name: str, bundles: Bundles) -> None:
    bundle = bundles("writer")
    with closing(opened(bundle, name)) as predictor, refused_writers(name, "writer"):
        conformance.check(predictor, bundle)
    options = Sampling(max_tokens=12, temperature=0.0)
    prompts = ["Story 3.", "Once upon a time there was"]
    expected = Generator.open(bundle, "torch", 1).complete(prompts, options)
    found = Generator.open(bundle, name, 1).complete(prompts, options)
    assert [item.text for item in found] == [item.text for item in expected]
