"""Packed models: what is packed expands to the very same bytes, and shared values are the nearest of few."""

import hashlib
import math
import tracemalloc

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import save

from budwood.core.errors import StepError, UsageError
from budwood.core.packed import expand
from budwood.engine.packed import EXACT, FITTED, Found, find_tensors, find_weights, nearest, pack, table_of


def one(values: np.ndarray) -> tuple[bytes, list[Found]]:
    """A file of one tensor between two texts."""
    return b"before" + values.tobytes() + b"after", [Found(6, values.size, values.itemsize)]


def sparse(count: int, share: float, seed: int = 0, kind: str = "<f4") -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.normal(size=count) if kind == "<f4" else random.integers(1, 255, count)
    return np.where(random.random(count) < share, 0, values).astype(kind)


@given(st.integers(1, 3000), st.sampled_from([0.0, 0.2, 0.5, 0.9, 0.999, 1.0]), st.sampled_from(["<f4", "u1"]))
def test_nothing_changes_at_32_bits(count: int, share: float, kind: str) -> None:
    values = sparse(count, share, count, kind)
    if kind == "<f4":
        values[::3] *= -1  # so zeros of both signs
    content, tensors = one(values)
    packed = pack(content, tensors, EXACT)
    assert expand(packed.content) == content


@given(st.integers(1, 8), st.sampled_from([0.0, 0.5, 0.95]), st.sampled_from(["k-means", "linear"]))
def test_zeros_stay_and_few_values_remain(bits: int, share: float, sharing: str) -> None:
    values = sparse(4000, share, bits)
    content, tensors = one(values)
    found = np.frombuffer(expand(pack(content, tensors, bits, sharing).content)[6:-5], "<f4")
    kept = found[values != 0]
    assert len(np.unique(kept)) <= 1 << bits
    if share:
        assert (found[values == 0] == 0).all()
    table = np.unique(kept)
    nearest = np.abs(values[values != 0][:, None] - table).min(1)
    np.testing.assert_allclose(np.abs(values[values != 0] - kept), nearest, atol=1e-6)


def test_the_files_around_the_tensors_are_untouched() -> None:
    content, tensors = one(sparse(1000, 0.9))
    found = expand(pack(content, tensors, 4).content)
    assert (found[:6], found[-5:], len(found)) == (b"before", b"after", len(content))


@pytest.mark.parametrize("distance", [1, 254, 255, 256, 509, 510, 511, 5000])
def test_numbers_that_are_far_apart(distance: int) -> None:
    values = np.zeros(20_000, "<f4")
    values[::distance] = 1.5
    content, tensors = one(values)
    assert expand(pack(content, tensors, EXACT).content) == content


def test_a_tensor_of_few_values_is_exact_at_any_bits() -> None:
    values = np.random.default_rng(0).choice(np.array([-2.5, 0.1, 7.0], "<f4"), 5000)
    content, tensors = one(values)
    assert expand(pack(content, tensors, 2).content) == content


def test_k_means_is_closer_than_even_steps() -> None:
    values = np.random.default_rng(0).standard_t(3, 20_000).astype("<f4")
    content, tensors = one(values)
    errors = {}
    for sharing in ("k-means", "linear"):
        found = np.frombuffer(expand(pack(content, tensors, 4, sharing).content)[6:-5], "<f4")
        errors[sharing] = float(((found - values) ** 2).mean())
    assert errors["k-means"] < 0.5 * errors["linear"]


@pytest.mark.parametrize("count", [40_000, FITTED + 200_000])
def test_an_outlier_keeps_its_value_and_leaves_the_others_theirs(count: int) -> None:
    values = np.random.default_rng(0).normal(0, 0.02, count).astype("<f4")
    values[count // 3] = 1.0
    table = table_of(values, 16, "k-means")
    found = table[np.frombuffer(nearest(table, values), np.uint8)]
    assert len(table) == 16
    assert found[count // 3] == 1.0
    usual = np.arange(count) != count // 3
    assert np.sqrt(np.mean((found[usual] - values[usual]) ** 2)) < 0.13 * 0.02


def test_levels_that_no_value_is_near_are_left_out() -> None:
    values = np.array([0.0] * 300 + [0.1] * 300 + [10.0], "<f4")
    for sharing in ("k-means", "linear"):
        table = table_of(values, 16, sharing)
        assert set(np.frombuffer(nearest(table, values), np.uint8)) == set(range(len(table)))


def test_ninety_percent_zeros_and_eight_bits_are_a_twentieth() -> None:
    content, tensors = one(sparse(200_000, 0.9))
    report = pack(content, tensors, 8).report
    assert report["ratio"] > 19
    assert report["expanded_bytes"] == len(content)
    assert report["zeros"] == pytest.approx(180_000, rel=0.01)


def test_packing_is_the_same_each_time() -> None:
    content, tensors = one(sparse(50_000, 0.5))
    digests = {hashlib.sha256(pack(content, tensors, 5).content).hexdigest() for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("bits", [0, -1, 9, 16, 33])
def test_bits_that_cannot_be_stored(bits: int) -> None:
    with pytest.raises(UsageError, match="bits") as caught:
        pack(*one(sparse(1000, 0.5)), bits)
    assert "1 to 8" in caught.value.fix


def test_an_unknown_sharing() -> None:
    with pytest.raises(UsageError, match="sharing"):
        pack(*one(sparse(1000, 0.5)), 8, "random")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers(bad: float) -> None:
    values = sparse(1000, 0.5)
    values[3] = bad
    with pytest.raises(StepError, match="not finite"):
        pack(*one(values))


def test_a_model_of_nothing_but_zeros_is_refused_as_its_reader_would() -> None:
    with pytest.raises(StepError, match="times its size"):
        pack(*one(np.zeros(1_000_000, "<f4")))


@pytest.mark.parametrize(("kind", "bits", "most"), [("<f4", 8, 2.6), ("<f4", EXACT, 3.1), ("u1", 8, 3.6)])
def test_expanding_needs_a_few_times_the_room_of_what_it_gives(kind: str, bits: int, most: float) -> None:
    content, tensors = one(sparse(1_200_000, 0.4, kind=kind))
    packed = pack(content, tensors, bits).content
    tracemalloc.start()
    try:
        found = expand(packed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * len(found)


def test_the_tensors_of_a_graph_are_found() -> None:
    content = tiny.graph(tiny.weights(50, 3))
    found = find_tensors(content)
    proto = ModelProto.FromString(content)
    table = next(item for item in proto.graph.initializer if item.name == "embedding")
    assert [(item.count, item.width) for item in found] == [(50 * tiny.HIDDEN, 4)]
    assert content[found[0].offset :].startswith(table.raw_data)


def test_tensors_in_constants_and_of_bytes_are_found_too() -> None:
    values = np.arange(512, dtype=np.float32).reshape(2, 256)
    inner = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(values))
    codes = numpy_helper.from_array(np.arange(300).astype(np.int8), "codes")
    ids = numpy_helper.from_array(np.arange(300), "ids")
    flat = numpy_helper.from_array(np.arange(300, dtype=np.float32), "flat")
    shape = helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 256])
    content = helper.make_model(helper.make_graph([inner], "g", [], [shape], [codes, ids, flat])).SerializeToString()
    assert sorted((item.count, item.width) for item in find_tensors(content)) == [(300, 1), (512, 4)]
    assert expand(pack(content, find_tensors(content), EXACT).content) == content


def test_something_else_than_a_graph() -> None:
    with pytest.raises(StepError, match="cannot be read") as caught:
        find_tensors(b"\xff" * 40)
    assert "export.onnx" in caught.value.fix


def test_the_tensors_of_a_safetensors_file_are_found() -> None:
    tensors = {
        "b": np.ones((32, 32), np.float32),
        "a": np.zeros((300,), np.float32),
        "c": np.ones((300,), np.int8),
        "d": np.ones((4, 100), np.float16),
    }
    content = save(tensors, {"format": "pt"})
    found = find_weights(content)
    assert sorted((item.count, item.width) for item in found) == [(300, 1), (1024, 4)]
    assert expand(pack(content, found, EXACT).content) == content
    with pytest.raises(StepError, match="cannot be read") as caught:
        find_weights(b"something else")
    assert "leave shrink.pack out" in caught.value.fix
