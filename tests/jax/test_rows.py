"""Reading rows in JAX: the bits of `robe_numba.lookup`, whatever transforms the call."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.needs import need

need("jax")

import jax
import jax.numpy as jnp
from jax import export

import robe_numba
from robe_numba import RobeSpec, TableSpec
from robe_numba.jax import Words, block_starts, lookup, to_words
from tests.jax.x64 import x64
from tests.support import naive
from tests.support.strategies import array_for, dtype_of, indices_for, specs

JITTED = jax.jit(lookup, static_argnames="spec")
SIGNED = RobeSpec(500, 8, 20, 3, seed=2, sign=True)
IDS = np.random.default_rng(1).integers(-(2**31), 2**31, (6, 3)).astype(np.int32)
ARRAY = array_for(SIGNED, np.float32, seed=3)


def assert_same_bits(left, right):
    left, right = np.asarray(left), np.asarray(right)
    assert (left.shape, left.dtype) == (right.shape, right.dtype)
    assert left.tobytes() == right.tobytes()


@settings(max_examples=12)  # each is compiled
@given(st.data(), st.sampled_from(["float32", "float16", "bfloat16"]))
def test_lookup_has_the_bits_of_the_kernels(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=1)
    out = lookup(array, indices, spec)
    assert_same_bits(out, robe_numba.lookup(array, indices, spec))
    if dtype == "float32":
        np.testing.assert_array_equal(out, naive.lookup(array, indices, spec))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_is_widened_exactly(dtype):
    half = np.arange(2**16, dtype=np.uint16).view(dtype_of(dtype))
    half = half[~np.isnan(half.astype(np.float32))]
    spec, ids = TableSpec((half.size,), 1), np.arange(half.size).reshape(-1, 1)
    assert_same_bits(lookup(half, ids, spec)[:, 0, 0], half.astype(np.float32))


@pytest.mark.parametrize("sign", [False, True])
def test_every_bit_is_passed_on(sign):
    """NaNs of any payload, -0.0, subnormals and infinities."""
    spec = RobeSpec(101, 3, 7, 2, sign=sign)
    odd = (0x7FC00001, 0xFFC12345, 0x80000000, 0x00000001, 0x7F800000, 0xFF800000)
    array = np.resize(np.array(odd, np.uint32), 101).view(np.float32)
    ids = np.arange(60).reshape(30, 2)
    assert_same_bits(lookup(array, ids, spec), robe_numba.lookup(array, ids, spec))


def test_doubles_are_read_in_64_bit_mode():
    array = array_for(SIGNED, np.float64, seed=4)
    with x64():
        out = JITTED(array, IDS.astype(np.int64), SIGNED)
    assert_same_bits(out, robe_numba.lookup(array, IDS.astype(np.int64), SIGNED))


def test_leading_dimensions_may_be_any():
    expected = robe_numba.lookup(ARRAY, IDS, SIGNED)
    assert_same_bits(lookup(ARRAY, IDS[0], SIGNED), expected[0])
    assert_same_bits(
        lookup(ARRAY, IDS.reshape(2, 3, 1, 3), SIGNED), expected.reshape(2, 3, 1, 3, 20)
    )
    assert lookup(ARRAY, IDS[:0], SIGNED).shape == (0, 3, 20)


def test_transformed_calls_have_the_same_bits():
    out = lookup(ARRAY, IDS, SIGNED)
    pair = to_words(IDS)
    assert_same_bits(JITTED(ARRAY, IDS, SIGNED), out)
    assert_same_bits(JITTED(ARRAY, pair, SIGNED), out)
    assert_same_bits(JITTED(ARRAY, tuple(pair), spec=SIGNED), out)
    assert_same_bits(jax.vmap(lambda ids: lookup(ARRAY, ids, SIGNED))(IDS), out)
    assert_same_bits(jax.vmap(lambda ids: lookup(ARRAY, ids, SIGNED))(pair), out)
    arrays = jnp.stack([ARRAY, 2 * ARRAY])
    several = jax.jit(jax.vmap(lambda array: lookup(array, IDS, SIGNED)))(arrays)
    assert_same_bits(several, jnp.stack([out, 2 * out]))


def test_calls_are_lowered_for_every_platform_without_leaving_it():
    """No callback to Python, and nothing that only one platform has."""
    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = export.export(JITTED, platforms=platforms)(ARRAY, IDS, SIGNED)
    assert exported.platforms == platforms
    assert "custom_call" not in exported.mlir_module()
    assert_same_bits(exported.call(ARRAY, IDS), lookup(ARRAY, IDS, SIGNED))


SIZED = [RobeSpec(100, 4, 8, 2, (5, 2**40)), TableSpec((5, 7), 8)]


@pytest.mark.parametrize("spec", SIZED, ids=["robe", "table"])
@pytest.mark.parametrize("index", [5, -1, 2**31 - 1])
def test_traced_ids_outside_their_table_are_nan(spec, index):
    array = array_for(spec, np.float32, seed=5)
    ids = np.array([[index, 6], [4, 6]], np.int32)
    out, gradient = jax.value_and_grad(lambda a, i: JITTED(a, i, spec)[0, 0].sum())(array, ids)
    assert np.isnan(out)
    np.testing.assert_array_equal(gradient, 0)
    rows = np.asarray(JITTED(array, ids, spec))
    ids[0, 0] = 0
    expected = robe_numba.lookup(array, ids, spec)
    expected[0, 0] = np.nan
    np.testing.assert_array_equal(rows, expected)
    starts = jax.jit(block_starts, static_argnames="spec")(np.array([[index, 6]], np.int32), spec)
    assert (starts >= 0).all()
    assert (starts < spec.array_size).all()


def test_positions_beyond_32_bits_are_traced_in_64_bits():
    """The array itself would not fit into the memory of a test."""
    for spec in (RobeSpec(2**31 + 1, 8, 16, 2), RobeSpec(2**33, 2**33, 16, 2)):
        array = jax.ShapeDtypeStruct((spec.array_size,), jnp.bfloat16)
        with x64():
            traced = JITTED.trace(array, IDS[:, :2], spec)
            assert traced.out_info.shape == (6, 2, 16)
            assert f"i64[6,2,{spec.num_blocks}" in str(traced.jaxpr)


def test_words_pass_through_jit_as_a_pair():
    pair = jax.jit(lambda words: words)(to_words(np.array([2**63 + 5], np.uint64)))
    assert isinstance(pair, Words)
    assert (int(pair.high[0]), int(pair.low[0])) == (2**31, 5)


def test_bfloat16_of_jax_is_that_of_ml_dtypes():
    half = jnp.asarray(ARRAY, jnp.bfloat16)
    expected = robe_numba.lookup(ARRAY.astype(ml_dtypes.bfloat16), IDS, SIGNED)
    assert_same_bits(lookup(half, IDS, SIGNED), expected)
