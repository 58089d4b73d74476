"""Reading rows and bags: equal to the oracle, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import RobeSpec, TableSpec, embedding_bag, lookup
from tests import naive
from tests.strategies import REAL_DTYPES, array_for, bags_for, indices_for, specs


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_lookup_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=1)
    out = lookup(array, indices, spec)
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
