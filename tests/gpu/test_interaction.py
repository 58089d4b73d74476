"""Lookup and interaction in one pass on a GPU: as the oracle, within the rounding of sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robe_numba as rn
from robe_numba.kernels.gpu.interaction import tiles
from tests.gpu.conftest import to_cpu, to_gpu
from tests.gpu.examples import few_examples, indices_for, real_dtypes, specs
from tests.support import naive
from tests.support.strategies import array_for


def check(spec, indices, dtype):
    array = array_for(spec, dtype, seed=1)
    dense = np.random.default_rng(2).standard_normal((len(indices), spec.embedding_dim))
    dense = dense.astype(dtype)
    rows = naive.lookup(array, indices, spec)
    expected, size = naive.interaction(rows, dense)
    starts = to_gpu(np.full((*indices.shape, spec.num_blocks), -7))
    ids, features = to_gpu(indices), to_gpu(dense)
    out = rn.lookup_dot_interaction(to_gpu(array), ids, features, spec, starts=starts)
    result = to_cpu(out)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result[:, : spec.embedding_dim], dense)
    tolerance = (spec.embedding_dim + 1) * np.finfo(dtype).eps * size
    assert np.all(np.abs(result - expected) <= tolerance)
    np.testing.assert_array_equal(to_cpu(starts), naive.block_starts(indices, spec))


@given(st.data(), real_dtypes)
@few_examples
def test_it_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    check(spec, data.draw(indices_for(spec)), dtype)


@pytest.mark.parametrize("room", [300, 150, 100])
def test_vectors_that_do_not_fit_shared_memory_are_multiplied_in_parts(monkeypatch, room):
    monkeypatch.setattr(tiles, "SHARED_BYTES", room)
    check(rn.RobeSpec(50, 4, 13, 3, sign=True), np.arange(9).reshape(3, 3), "float32")


def test_too_many_tables_are_refused(monkeypatch):
    monkeypatch.setattr(tiles, "SHARED_BYTES", 160)
    spec = rn.RobeSpec(50, 4, 4, 9)
    arrays = np.zeros(50, np.float32), np.zeros((2, 9), np.int64), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"num_tables is 9; .* at most 7"):
        rn.lookup_dot_interaction(*map(to_gpu, arrays), spec)


def test_what_is_written_shares_no_memory_with_the_rest():
    spec = rn.RobeSpec(24, 4, 4, 1)
    room = to_gpu(np.zeros(60, np.float32))
    ids = to_gpu(np.zeros((2, 1), np.int64))
    with pytest.raises(ValueError, match="out and dense share memory"):
        rn.lookup_dot_interaction(
            room[:24], ids, room[24:32].reshape(2, 4), spec, out=room[30:40].reshape(2, 5)
        )
