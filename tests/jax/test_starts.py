"""Starts and signs in JAX: those of the oracle, for every hash family and kind of id."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.needs import need

need("jax")

import jax
import jax.numpy as jnp

from robe_numba import RobeSpec
from robe_numba.jax import block_starts, lookup, to_words
from tests.jax.x64 import x64
from tests.kernels.test_starts import UMA_GOLDEN, UMA_PLACES
from tests.support import naive
from tests.support.strategies import EDGES, indices_for, robe_specs, specs

FEW = settings(max_examples=12)  # each is compiled


@FEW
@given(st.data())
def test_starts_equal_the_oracle(data):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    starts = block_starts(indices, spec)
    assert starts.dtype == np.int32
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))


@settings(max_examples=8)
@given(robe_specs(("multiply-shift", "paper")), st.integers(0, 2**64 - 1))
def test_signs_equal_the_oracle(spec, index):
    spec = replace(spec, sign=True, num_embeddings=None)
    ids = np.full((1, spec.num_tables), index, np.uint64)
    signs = lookup(np.ones(spec.array_size, np.float32), ids, spec)
    for table in range(spec.num_tables):
        expected = [naive.sign(spec, table, index, i) for i in range(spec.embedding_dim)]
        np.testing.assert_array_equal(signs[0, table], expected)


@pytest.mark.parametrize("block_size", UMA_GOLDEN)
def test_uma_reproduces_the_authors_release(block_size):
    spec = RobeSpec(27_000_000, block_size, 128, 1, hash="uma", seed=1024)
    starts = np.asarray(block_starts(np.array([[row] for row, _ in UMA_PLACES]), spec))[:, 0]
    for begins, (_, element), golden in zip(
        starts, UMA_PLACES, UMA_GOLDEN[block_size], strict=True
    ):
        assert begins[element // block_size] + element % block_size == golden


@settings(max_examples=8)
@given(
    size=st.integers(2**31 + 1, 2**62),
    alignment=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 9),
)
@example(size=2**32, alignment=1, seed=0)  # 2**32 starts, which just fit one word
@example(size=2**32 + 1, alignment=1, seed=0)
@example(size=2**36, alignment=16, seed=0)
@example(size=2**62, alignment=1, seed=0)
def test_starts_beyond_32_bits_equal_the_oracle(size, alignment, seed):
    spec = RobeSpec(size, 16, 40, 2, seed=seed, alignment=alignment)
    indices = np.array([[0, 2**64 - 1], [2**32, 12345]], dtype=np.uint64)
    with x64():
        starts = block_starts(indices, spec)
    assert starts.dtype == np.int64
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))


@pytest.mark.parametrize("hash_name", ["multiply-shift", "paper"])
def test_the_largest_array_without_64_bits_equals_the_oracle(hash_name):
    size = 2**31 if hash_name == "multiply-shift" else 2**31 - 1
    spec = RobeSpec(size, 4, 16, 2, hash=hash_name)
    indices = np.random.default_rng(0).integers(0, 2**64, (50, 2), dtype=np.uint64)
    starts = np.asarray(block_starts(indices, spec))
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))
    assert starts.max() > 0.9 * size


SPEC = RobeSpec(1000, 4, 10, 2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_ids_of_every_dtype_equal_the_oracle(dtype):
    info = np.iinfo(dtype)
    ids = np.array([[0, 1], [info.min, info.max], [-1, info.max // 2]]).astype(dtype)
    expected = naive.block_starts(ids, SPEC)
    for indices in (ids, jnp.asarray(ids), to_words(ids)):
        np.testing.assert_array_equal(block_starts(indices, SPEC), expected)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_64_bit_ids_equal_the_oracle_in_words_and_in_64_bit_mode(dtype):
    ids = np.array(EDGES, np.uint64).astype(dtype).reshape(-1, 2)
    expected = naive.block_starts(ids, SPEC)
    jitted = jax.jit(block_starts, static_argnames="spec")
    np.testing.assert_array_equal(block_starts(ids, SPEC), expected)
    np.testing.assert_array_equal(jitted(to_words(ids), SPEC), expected)
    with x64():
        np.testing.assert_array_equal(block_starts(ids, SPEC), expected)
        np.testing.assert_array_equal(block_starts(jnp.asarray(ids), SPEC), expected)
        np.testing.assert_array_equal(jitted(ids, SPEC), expected)
