"""Embeddings and their dot products in one pass: the oracle, and the same bits for any workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import RobeSpec, TableSpec, lookup, lookup_dot_interaction
from tests.support import naive
from tests.support.strategies import (
    HALF_DTYPES,
    REAL_DTYPES,
    array_for,
    indices_for,
    specs,
    widened,
)


def dense_for(spec, batch, dtype, whole=False):
    generator = np.random.default_rng(17)
    shape = (batch, spec.embedding_dim)
    values = generator.integers(-9, 10, shape) if whole else generator.standard_normal(shape)
    return values.astype(dtype)


def assert_close(out, oracle, dim):
    """A dot product of d terms, in any order, fused or not: error <= (d + 2) eps * sum |terms|."""
    assert (np.abs(out - oracle[0]) <= (dim + 2) * np.finfo(out.dtype).eps * oracle[1]).all()


@given(st.data(), st.sampled_from((*REAL_DTYPES, *HALF_DTYPES)))
def test_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=18)
    wide = widened(array)
    real = wide.dtype
    dense = dense_for(spec, len(indices), real)
    out = lookup_dot_interaction(array, indices, dense, spec)
    oracle = naive.interaction(naive.lookup(wide, indices, spec), dense)
    assert (out.shape, out.dtype) == (oracle.shape[1:], real)
    assert_close(out, oracle, spec.embedding_dim)
    assert out[:, : spec.embedding_dim].tobytes() == dense.tobytes()
    starts = np.full((len(indices), spec.num_tables, spec.num_blocks), -7)
    given_out = np.full_like(out, np.nan)
    returned = lookup_dot_interaction(array, indices, dense, spec, out=given_out, starts=starts)
    assert returned is given_out
    assert given_out.tobytes() == out.tobytes()
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_whole_numbers_are_exact(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=19, whole=True)
    dense = dense_for(spec, len(indices), dtype, whole=True)
    expected = naive.interaction(naive.lookup(array, indices, spec), dense)[0]
    np.testing.assert_array_equal(lookup_dot_interaction(array, indices, dense, spec), expected)


@pytest.mark.parametrize("num_tables", [1, 2, 3, 7, 8, 26])
@pytest.mark.parametrize(
    ("block_size", "dim", "sign"), [(16, 16, False), (8, 40, True), (7, 33, False), (90, 65, True)]
)
def test_the_same_bits_for_any_number_of_workers(num_tables, block_size, dim, sign, set_workers):
    spec = RobeSpec(900, block_size, dim, num_tables, sign=sign)
    array = array_for(spec, np.float32, seed=20)
    most = np.random.default_rng(21).integers(0, 2**63, (17, num_tables))
    dense = dense_for(spec, 17, np.float32)
    oracle = naive.interaction(lookup(array, most, spec), dense)
    for batch in (0, 1, 2, 7, 8, 9, 17):
        found = set()
        for workers in (1, 2, 3, 7):
            set_workers(workers)
            out = lookup_dot_interaction(array, most[:batch], dense[:batch], spec)
            starts = np.empty((batch, num_tables, spec.num_blocks), np.int64)
            kept = lookup_dot_interaction(array, most[:batch], dense[:batch], spec, starts=starts)
            found |= {out.tobytes(), kept.tobytes()}
            assert_close(out, oracle[:, :batch], dim)
        assert len(found) == 1


def test_a_nan_stays_within_its_pairs():
    """The padding of the scratch is not multiplied into other products."""
    spec = TableSpec((2, 2, 2), 5)
    array = np.ones(30, np.float32)
    array[5:10] = [np.nan, np.inf, -np.inf, 1, 1]  # row 1 of table 0
    dense = np.ones((3, 5), np.float32)
    out = lookup_dot_interaction(array, np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]]), dense, spec)
    assert (out[[0, 2]] == [1] * 5 + [5] * 6).all()
    np.testing.assert_array_equal(np.isnan(out[1, 5:]), [True, False] * 3)
    assert (out[1, [6, 8, 10]] == 5).all()
