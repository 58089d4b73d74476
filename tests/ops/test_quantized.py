"""Reading int8 with scales: the bits of reading the same elements as float32."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import (
    QuantizedArray,
    RobeSpec,
    block_starts,
    embedding_bag,
    lookup,
    lookup_dot_interaction,
)
from robe_numba.kernels.cpu import lookup as cpu_lookup
from tests.ops.test_lookup import at, gathered, same_bits
from tests.support import naive
from tests.support.strategies import SCALE_BLOCKS, bags_for, indices_for, quantized_for, specs


@given(st.data(), st.sampled_from(SCALE_BLOCKS))
def test_rows_and_bags_equal_the_oracle(data, block):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = quantized_for(spec, block, seed=1)
    wide = naive.dequantized(*array)
    assert same_bits(array.dequantize(), wide)
    starts = np.full((len(indices), spec.num_tables, spec.num_blocks), -7)
    out = lookup(array, indices, spec, starts=starts)
    assert same_bits(out, naive.lookup(wide, indices, spec))
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))

    ids, offsets, *rest = data.draw(bags_for(spec, np.float32))
    starts = np.full((ids.size, spec.num_blocks), -7)
    out = embedding_bag(array, ids, offsets, spec, *rest, starts=starts)
    np.testing.assert_array_equal(out, naive.embedding_bag(wide, ids, offsets, spec, *rest))
    assert same_bits(out, embedding_bag(wide, ids, offsets, spec, *rest))
    np.testing.assert_array_equal(starts, naive.bag_starts(ids, offsets, spec, rest[-1]))


@given(st.data(), st.sampled_from(SCALE_BLOCKS))
def test_the_interaction_has_the_bits_of_float32(data, block):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = quantized_for(spec, block, seed=2)
    shape = (len(indices), spec.embedding_dim)
    dense = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    wide = naive.dequantized(*array)
    starts = np.full((len(indices), spec.num_tables, spec.num_blocks), -7)
    out = lookup_dot_interaction(array, indices, dense, spec, starts=starts)
    assert same_bits(out, lookup_dot_interaction(wide, indices, dense, spec))
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("dim", [1, 3, 4, 7, 8, 15, 16, 17, 40, 70])
@pytest.mark.parametrize("sign", [False, True])
def test_loads_of_every_length_from_every_element(dim, block, sign):
    """A vector that crosses from one scale to the next takes each for its own elements."""
    spec = RobeSpec(230, dim, dim, 1, sign=sign)
    array = quantized_for(spec, block, seed=4)
    ids = np.arange(3000).reshape(-1, 1)
    starts = block_starts(ids, spec)
    assert set(starts.ravel().tolist()) == set(range(230))
    wide = naive.dequantized(*array)
    out = lookup(array, ids, spec)
    if not sign:
        assert same_bits(out, gathered(wide, starts, spec))
    assert same_bits(out, lookup(wide, ids, spec))
    bags = (ids.reshape(-1), np.arange(0, 3001, 3), spec)
    for mode in ("sum", "mean", "max"):
        assert same_bits(embedding_bag(array, *bags, mode), embedding_bag(wide, *bags, mode))


@pytest.mark.parametrize(("block_size", "dim"), [(8, 16), (16, 32), (32, 96)])
def test_outputs_that_stream_past_the_caches(block_size, dim, set_workers):
    set_workers(2)
    spec = RobeSpec(3001, block_size, dim, 3, seed=2)
    array = quantized_for(spec, 32, seed=5)
    batch = 2 * cpu_lookup.STREAM_BYTES // (12 * dim) + 130
    ids = np.random.default_rng(6).integers(0, 2**63, (batch, 3))
    expected = gathered(naive.dequantized(*array), block_starts(ids, spec), spec)
    for offset in (0, 1):
        out = at(offset, expected.shape, np.float32)
        assert same_bits(lookup(array, ids, spec, out=out), expected)


def test_a_scale_of_nan_makes_its_block_nan():
    spec = RobeSpec(40, 40, 40, 1)
    scales = np.array([1, np.nan, np.inf], np.float32)
    array = QuantizedArray(np.ones(40, np.int8), scales, 16)
    ids = np.arange(50).reshape(-1, 1)
    out, starts = lookup(array, ids, spec), block_starts(ids, spec)
    places = (starts + np.arange(40)) % 40
    np.testing.assert_array_equal(np.isnan(out), (places >= 16) & (places < 32))
    np.testing.assert_array_equal(np.isinf(out), places >= 32)
