"""Reading rows and bags: equal to the oracle, to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import RobeSpec, TableSpec, block_starts, embedding_bag, lookup
from robe_numba.kernels.cpu import lookup as cpu_lookup
from robe_numba.memory import aligned_empty
from tests.support import naive
from tests.support.strategies import (
    HALF_DTYPES,
    REAL_DTYPES,
    array_for,
    bags_for,
    dtype_of,
    indices_for,
    specs,
    widened,
)


def same_bits(left, right):
    """Whether arrays are equal in shape, dtype and every bit: -0.0 is not 0.0, a NaN is itself."""
    assert (left.shape, left.dtype) == (right.shape, right.dtype)
    return left.tobytes() == right.tobytes()


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_lookup_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=1)
    out = lookup(array, indices, spec)
    starts = np.full((len(indices), spec.num_tables, spec.num_blocks), -7)
    given_out = np.full_like(out, np.nan)
    assert lookup(array, indices, spec, out=given_out, starts=starts) is given_out
    assert same_bits(given_out, out)
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))
    assert out.dtype == array.dtype
    assert out.shape == (len(indices), spec.num_tables, spec.embedding_dim)
    np.testing.assert_array_equal(out, naive.lookup(array, indices, spec))


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_embedding_bag_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    bags = data.draw(bags_for(spec, dtype))
    array = array_for(spec, dtype, seed=2)
    indices, offsets, mode, weights, padding_idx = bags
    out = embedding_bag(array, indices, offsets, spec, mode, weights, padding_idx)
    expected = naive.embedding_bag(array, indices, offsets, spec, mode, weights, padding_idx)
    assert out.dtype == array.dtype
    np.testing.assert_array_equal(out, expected)
    starts, given_out = np.full((indices.size, spec.num_blocks), -7), np.full_like(out, np.nan)
    embedding_bag(array, *bags[:2], spec, *bags[2:], out=given_out, starts=starts)
    assert same_bits(given_out, out)
    np.testing.assert_array_equal(starts, naive.bag_starts(indices, offsets, spec, padding_idx))


@given(st.data(), st.sampled_from(HALF_DTYPES))
def test_halves_are_read_as_if_they_had_been_widened_before(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    half = array_for(spec, dtype, seed=3)
    wide = widened(half)
    assert same_bits(lookup(half, indices, spec), lookup(wide, indices, spec))
    ids, offsets, *rest = data.draw(bags_for(spec, np.float32))
    out = embedding_bag(half, ids, offsets, spec, *rest)
    assert same_bits(out, embedding_bag(wide, ids, offsets, spec, *rest))


@pytest.mark.parametrize("dtype", HALF_DTYPES)
@pytest.mark.parametrize("dim", [1, 4, 8, 16, 20])
def test_every_half_is_widened_exactly(dim, dtype):
    """All 65,536, by loads of every length; a signalling NaN may come out quiet."""
    half = np.arange(2**16, dtype=np.uint16)
    half = np.append(half, half[: -(2**16) % dim]).view(dtype_of(dtype))
    spec = TableSpec((half.size // dim,), dim)
    out = lookup(half, np.arange(half.size // dim).reshape(-1, 1), spec).reshape(-1)
    expected = widened(half)
    numbers = ~np.isnan(expected)
    assert same_bits(out[numbers], expected[numbers])
    payload = np.uint32(0xFFBFFFFF)  # all but the bit that makes a NaN quiet
    np.testing.assert_array_equal(out.view(np.uint32) & payload, expected.view(np.uint32) & payload)


def test_halves_are_widened_also_without_an_instruction_for_it():
    """A processor that has none must not end the process, nor give other numbers."""
    name = test_every_half_is_widened_exactly.__name__
    finished = subprocess.run(
        [sys.executable, "-c", f"from tests.ops.test_lookup import {name}; {name}(20, 'float16')"],
        env={**os.environ, "NUMBA_CPU_NAME": "generic"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


ODD_BITS = (0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x00000001, 0x7F800000)


@pytest.mark.parametrize(("block_size", "dim"), [(1, 5), (3, 7), (8, 8), (16, 48), (40, 37)])
def test_lookup_passes_every_bit_on(block_size, dim):
    """NaNs of any payload, signalling ones too, -0.0, subnormals and infinities."""
    spec = RobeSpec(101, block_size, dim, 2)
    words = np.resize(np.array(ODD_BITS, np.uint32), 101)
    ids = np.arange(60).reshape(30, 2)
    starts, elements = block_starts(ids, spec), np.arange(dim)
    expected = words[(starts[:, :, elements // block_size] + elements % block_size) % 101]
    out = lookup(words.view(np.float32), ids, spec)
    np.testing.assert_array_equal(out.view(np.uint32), expected)
    # A sign is one bit, of a NaN too.
    signed = RobeSpec(101, block_size, dim, 2, sign=True)
    plus = lookup(np.ones(101, np.float32), ids, signed) > 0
    out = lookup(words.view(np.float32), ids, signed)
    np.testing.assert_array_equal(out.view(np.uint32), np.where(plus, expected, expected ^ 2**31))


def gathered(array, starts, spec):
    """Rows of given starts by NumPy's indexing, without signs."""
    elements = np.arange(spec.embedding_dim)
    blocks, rest = elements // spec.block_size, elements % spec.block_size
    return array[(starts[..., blocks] + rest) % spec.array_size]


def at(offset, shape, dtype):
    """An array whose first element is so many elements beyond the beginning of a cache line."""
    return aligned_empty((offset + int(np.prod(shape)),), dtype)[offset:].reshape(shape)


# (block size, dim): one vector or several, half vectors, rests of every kind, and no vector.
SHAPES = [
    (8, 16),
    (16, 32),
    (24, 48),
    (32, 96),
    (1, 4),
    (3, 8),
    (12, 24),
    (16, 40),
    (40, 300),
    (64, 17),
]


@pytest.mark.parametrize(("block_size", "dim"), SHAPES)
@pytest.mark.parametrize("num_tables", [1, 7, 8, 9, 26])
def test_any_number_of_rows_is_cut_into_tiles_and_workers(block_size, dim, num_tables, set_workers):
    spec = RobeSpec(700, block_size, dim, num_tables)
    array = array_for(spec, np.float32, seed=5)
    most = np.random.default_rng(6).integers(0, 2**63, (129, num_tables))
    starts = block_starts(most, spec)
    expected = gathered(array, starts, spec)
    for batch in (0, 1, 7, 8, 9, 15, 16, 17, 127, 128, 129):
        for workers in (1, 3):
            set_workers(workers)
            kept = np.full((batch, *starts.shape[1:]), -7)
            out = lookup(array, most[:batch], spec)
            assert same_bits(out, expected[:batch])
            out = lookup(array, most[:batch], spec, out=at(1, out.shape, np.float32), starts=kept)
            assert same_bits(out, expected[:batch])
            assert same_bits(kept, starts[:batch])


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize(("block_size", "dim"), [*SHAPES[:8], (80, 48)])
def test_outputs_that_stream_past_the_caches(block_size, dim, dtype, set_workers):
    """They begin a cache line and are large; others of the same values do not and are not."""
    set_workers(2)
    spec = RobeSpec(3001, block_size, dim, 3, seed=2)
    array = array_for(spec, dtype, seed=7)
    row_bytes = 3 * dim * array.itemsize
    batch = 2 * cpu_lookup.STREAM_BYTES // row_bytes + 130
    ids = np.random.default_rng(8).integers(0, 2**63, (batch, 3))
    expected = gathered(array, block_starts(ids, spec), spec)
    for offset in (0, 1, 4):
        buffer = np.full(64 + expected.size + 64, 7.5, dtype)
        begin = -buffer.__array_interface__["data"][0] % 64 // buffer.itemsize + offset
        end = begin + expected.size
        lookup(array, ids, spec, out=buffer[begin:end].reshape(expected.shape))
        assert same_bits(buffer[begin:end].reshape(expected.shape), expected)
        assert (buffer[:begin] == 7.5).all()
        assert (buffer[end:] == 7.5).all()


@pytest.mark.parametrize(("block_size", "dim"), [(300, 300), (144, 144), (70, 130), (30, 95)])
@pytest.mark.parametrize("sign", [False, True])
def test_bags_of_long_blocks_equal_additions_in_order(block_size, dim, sign):
    """Vectors of 64, 16, 4 and 1 elements; among large arrays hardly a block wraps."""
    spec = RobeSpec(20_000, block_size, dim, 2, sign=sign)
    array = array_for(spec, np.float32, seed=9)
    sizes = np.array([0, 1, 2, 17, 40, 3])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ids = np.random.default_rng(10).integers(0, 2**63, sizes.sum())
    table = np.repeat(np.arange(2), 3)[np.repeat(np.arange(6), sizes)]
    rows = lookup(array, np.stack([ids, ids], axis=1), spec)[np.arange(ids.size), table]
    weights = np.random.default_rng(11).standard_normal(ids.size).astype(np.float32)
    for factors in (None, weights):
        expected = np.zeros((6, dim), np.float32)
        for bag in range(6):
            for i in range(offsets[bag], offsets[bag + 1]):
                expected[bag] += rows[i] if factors is None else factors[i] * rows[i]
        out = embedding_bag(array, ids, offsets, spec, "sum", factors)
        np.testing.assert_array_equal(out, expected.reshape(2, 3, dim).transpose(1, 0, 2))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("ids", [[], [5, 5, 5]])
def test_bags_without_ids_or_all_padding_are_zero(mode, ids):
    spec = RobeSpec(100, 4, 8, 2)
    offsets = np.array([0, 0, 0, 0, len(ids)], np.uint64)
    array = np.full(100, np.nan, np.float32)
    starts = np.full((len(ids), 2), 3)
    out = embedding_bag(array, np.array(ids, int), offsets, spec, mode, None, 5, None, starts)
    assert same_bits(out, np.zeros((2, 2, 8), np.float32))
    assert (starts == -1).all()


def test_a_block_at_the_end_of_the_array_wraps():
    spec = RobeSpec(array_size=7, block_size=5, embedding_dim=5, num_tables=1)
    array = np.arange(7, dtype=np.float32)
    rows = lookup(array, np.arange(200).reshape(-1, 1), spec)[:, 0]
    wrapped = rows[rows[:, 0] > 2]
    assert len(wrapped) > 0
    np.testing.assert_array_equal(rows, (rows[:, :1] + np.arange(5)) % 7)


def test_several_specs_share_one_array():
    array = np.random.default_rng(0).random(5000, dtype=np.float32)
    ids = np.arange(12).reshape(4, 3)
    for dim in (16, 32):
        spec = RobeSpec(5000, 8, dim, 3, seed=dim)
        np.testing.assert_array_equal(lookup(array, ids, spec), naive.lookup(array, ids, spec))


def test_one_id_per_bag_is_a_lookup():
    spec = RobeSpec(1000, 8, 20, 3, sign=True)
    array = array_for(spec, np.float32, seed=3)
    ids = np.arange(12, dtype=np.int64).reshape(4, 3)
    flat = np.ascontiguousarray(ids.T).reshape(-1)  # table-major
    for mode in ("sum", "mean", "max"):
        out = embedding_bag(array, flat, np.arange(13), spec, mode)
        np.testing.assert_array_equal(out, lookup(array, ids, spec))


def test_a_table_spec_reads_rows_one_after_the_other():
    spec = TableSpec((3, 4), embedding_dim=2)
    array = np.arange(14, dtype=np.float32)
    out = lookup(array, np.array([[2, 0], [0, 3]]), spec)
    np.testing.assert_array_equal(out, [[[4, 5], [6, 7]], [[0, 1], [12, 13]]])


def test_max_passes_nan_on():
    spec = TableSpec((3,), embedding_dim=2)
    array = np.array([1, 2, np.nan, 0, 3, 4], dtype=np.float32)
    out = embedding_bag(array, np.array([0, 1, 2]), np.array([0, 3]), spec, "max")
    np.testing.assert_array_equal(out, [[[np.nan, 4]]])


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_a_read_only_array_can_be_read(dtype):
    spec = RobeSpec(100, 4, 8, 1)
    array = array_for(spec, dtype, seed=4)
    ids = np.array([[1], [2]])
    expected = lookup(array, ids, spec)
    array.flags.writeable = False
    ids.flags.writeable = False
    np.testing.assert_array_equal(lookup(array, ids, spec), expected)
