"""Pooling bags in JAX: the values of the oracle and of the kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.needs import need

need("jax")

import jax
import jax.numpy as jnp

import robe_numba
from robe_numba import RobeSpec, TableSpec
from robe_numba.jax import embedding_bag, lookup, to_words
from tests.jax.x64 import x64
from tests.support import naive
from tests.support.strategies import array_for, bags_for, dtype_of, specs

JITTED = jax.jit(embedding_bag, static_argnames=("spec", "mode", "padding_idx"))
SPEC = RobeSpec(500, 4, 12, 2, seed=2, sign=True)
ARRAY = array_for(SPEC, np.float32, seed=3)
IDS = np.array([7, 8, 9, 2**62, -1, 3, 3])
OFFSETS = np.array([0, 2, 2, 3, 3, 6, 7])  # three samples of two tables
WEIGHTS = np.linspace(-1, 2, 7, dtype=np.float32)
MODES = [("sum", WEIGHTS), ("mean", None), ("max", None)]


@settings(max_examples=12)  # each is compiled
@given(st.data(), st.sampled_from(["float32", "float16", "bfloat16"]))
def test_bags_of_whole_numbers_equal_the_oracle(data, dtype):
    """Their sums are exact in any order; for means XLA may multiply by a rounded reciprocal."""
    spec = data.draw(specs)
    indices, offsets, *pooling = data.draw(bags_for(spec, np.float32, whole=True, mixed=False))
    array = array_for(spec, np.float32, seed=1, whole=True)
    out = embedding_bag(array.astype(dtype_of(dtype)), indices, offsets, spec, *pooling)
    expected = naive.embedding_bag(array, indices, offsets, spec, *pooling)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=2.0**-22 if pooling[0] == "mean" else 0)


@pytest.mark.parametrize(("mode", "weights"), MODES)
def test_transformed_calls_equal_the_plain_one(mode, weights):
    out = embedding_bag(ARRAY, IDS, OFFSETS, SPEC, mode, weights, 8)
    expected = robe_numba.embedding_bag(ARRAY, IDS, OFFSETS, SPEC, mode, weights, 8)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    words = to_words(IDS)
    jitted = JITTED(ARRAY, words, OFFSETS, SPEC, mode, weights, 8)
    np.testing.assert_array_equal(jitted, out)
    other = to_words(IDS[::-1].copy())
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), words, other)

    def pooled(ids):
        return embedding_bag(ARRAY, ids, OFFSETS, SPEC, mode, weights, 8)

    mapped = jax.vmap(pooled)(both)
    np.testing.assert_allclose(mapped[0], out, rtol=1e-6)
    np.testing.assert_allclose(mapped[1], pooled(other), rtol=1e-6)


@pytest.mark.parametrize(("mode", "weights"), MODES)
def test_ids_after_the_last_traced_offset_are_left_out(mode, weights):
    """So that batches can be padded to one shape, here by ids that are outside their table."""
    spec = TableSpec((9, 9), 3)
    array = array_for(spec, np.float32, seed=4)
    ids = np.array([1, 2, 3, 4, 5, 99, -7], np.int32)
    offsets = np.array([0, 2, 3, 3, 5])
    part = weights if weights is None else weights[:5]
    expected = embedding_bag(array, ids[:5], offsets, spec, mode, part)
    np.testing.assert_array_equal(JITTED(array, ids, offsets, spec, mode, weights), expected)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("ids", [[], [5, 5, 5]])
def test_bags_without_ids_or_all_padding_are_zero(mode, ids):
    array = np.full(500, np.nan, np.float32)
    out = embedding_bag(array, np.array(ids, int), np.array([0, 0, len(ids)]), SPEC, mode, None, 5)
    assert (out.shape, out.dtype) == ((1, 2, 12), np.float32)
    np.testing.assert_array_equal(out, 0)
    assert embedding_bag(ARRAY, np.array([], int), np.array([0]), SPEC, mode).shape == (0, 2, 12)


def test_padding_is_compared_in_64_bits():
    ids = np.array([8, 8 + 2**32, 8])
    out = embedding_bag(ARRAY, ids, np.array([0, 2, 3]), SPEC, padding_idx=8)
    np.testing.assert_array_equal(out[0, 0], lookup(ARRAY, ids[1:], SPEC)[0])
    np.testing.assert_array_equal(out[0, 1], 0)


def test_one_id_per_bag_is_a_lookup():
    ids = np.arange(12).reshape(6, 2)
    out = embedding_bag(ARRAY, ids.T.reshape(-1), np.arange(13), SPEC)
    np.testing.assert_array_equal(out, lookup(ARRAY, ids, SPEC))


def test_max_passes_nan_on():
    spec = TableSpec((3,), embedding_dim=2)
    array = np.array([1, 2, np.nan, 0, 3, 4], dtype=np.float32)
    out = embedding_bag(array, np.array([0, 1, 2]), np.array([0, 3]), spec, "max")
    np.testing.assert_array_equal(out, [[[np.nan, 4]]])


def test_a_traced_id_outside_its_table_makes_its_bag_nan():
    spec = TableSpec((3, 5), embedding_dim=2)
    array = np.arange(16, dtype=np.float32)
    ids, offsets = np.array([2, 3, 4], np.int32), np.array([0, 2, 3])
    out = JITTED(array, ids, offsets, spec)
    np.testing.assert_array_equal(out, [[[np.nan, np.nan], [14, 15]]])
    np.testing.assert_array_equal(JITTED(array, ids, offsets, spec, padding_idx=3)[0, 0], [4, 5])


@pytest.mark.parametrize(("mode", "weights"), MODES)
def test_bags_in_64_bit_mode(mode, weights):
    expected = robe_numba.embedding_bag(ARRAY, IDS, OFFSETS, SPEC, mode, weights)
    assert not expected[1, 0].any()  # an empty bag
    with x64():
        out = embedding_bag(ARRAY, IDS, OFFSETS, SPEC, mode, weights)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
