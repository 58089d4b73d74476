"""Adagrad with one sum for each block of elements: by its definition, and the same bits always."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robe_numba as rn
from robe_numba import RobeSpec, TableSpec
from robe_numba.state_blocks import state_block_of
from tests.support import naive
from tests.support.strategies import REAL_DTYPES, array_for, bags_for, indices_for, specs
from tests.support.updates import (
    BIG,
    SCAN,
    SCAN_LITTLE,
    SORT,
    SORT_LARGE,
    SORT_SMALL,
    grad_for,
    update_with,
)

state_blocks = st.sampled_from([2, 4, 8, 16, 32, 64, 256, 4096])


def sums_for(spec, state_block, dtype):
    """Sums that are 0 here and there."""
    count = -(-spec.array_size // state_block)
    return np.random.default_rng(3).integers(0, 50, count).astype(dtype)


def assert_is_step(moved, sums, array, before, gradient, eps, state_block):
    """As the oracle within rounding; where nothing moves, to the bit.

    What rounds: squares, their sum and mean (sums), the root of these, sum, quotient and product.
    """
    expected, expected_sums = naive.block_adagrad(array, before, gradient, 0.1, eps, state_block)
    unit = np.finfo(moved.dtype).eps
    assert (np.abs(sums - expected_sums) <= (state_block + 4) * unit * expected_sums).all()
    bound = unit * (np.abs(array) + (state_block + 9) * np.abs(expected - array))
    assert (np.abs(moved - expected) <= bound).all()
    still = gradient == 0
    assert moved[still].tobytes() == array[still].tobytes()
    quiet = expected_sums == before
    assert sums[quiet].tobytes() == before[quiet].tobytes()


@given(st.data(), st.sampled_from(REAL_DTYPES), state_blocks, st.sampled_from([0.0, 0.5]))
def test_updates_equal_the_oracle(data, dtype, state_block, eps):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array, before = array_for(spec, dtype, seed=8), sums_for(spec, state_block, dtype)
    grad_out = grad_for(spec, len(indices), dtype, whole=True)
    gradient, _ = naive.lookup_gradient(grad_out, indices, spec)
    moved, sums = array.copy(), before.copy()
    rn.adagrad_update(moved, sums, grad_out, indices, spec, eps=eps, state_block=state_block)
    assert_is_step(moved, sums, array, before, gradient, eps, state_block)


@given(st.data(), st.sampled_from(REAL_DTYPES), state_blocks)
def test_bag_updates_equal_the_oracle(data, dtype, state_block):
    spec = data.draw(specs)
    bags = data.draw(bags_for(spec, dtype))
    array, before = array_for(spec, dtype, seed=9), sums_for(spec, state_block, dtype)
    grad_out = grad_for(spec, (bags.offsets.size - 1) // spec.num_tables, dtype)
    call = (grad_out, bags.indices, bags.offsets, spec, *bags[2:])
    gradient = rn.embedding_bag_backward(*call, array=array).astype(np.float64)
    moved, sums = array.copy(), before.copy()
    rn.embedding_bag_adagrad_update(moved, sums, *call, eps=1e-3, state_block=state_block)
    assert_is_step(moved, sums, array, before, gradient, 1e-3, state_block)


def many_reads(spec, dtype=np.float32):
    """Gradients and ids of a batch with many duplicates."""
    generator = np.random.default_rng(11)
    indices = (generator.zipf(1.2, (90, 3)) % 5000).astype(np.uint64)
    return generator.standard_normal((90, 3, spec.embedding_dim)).astype(dtype), indices


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize(
    ("spec", "state_block"),
    [
        (BIG, 16),
        (RobeSpec(2000, 8, 16, 3), 8),  # plain pieces
        (RobeSpec(2000, 8, 16, 3), 4096),  # one sum
        (RobeSpec(2011, 33, 300, 3, seed=1), 32),  # ragged ones, and a short last block
        (RobeSpec(47, 47, 40, 3, seed=2), 4),
        (RobeSpec(1, 1, 3, 3, seed=3), 2),
        (RobeSpec(90_001, 1, 16, 3), 64),
        (RobeSpec(90_001, 4, 16, 3), 2),
    ],
)
def test_the_same_bits_however_the_array_is_shared_out(spec, state_block, dtype):
    """By scanning and by sorting, swept and walked, in ranges of any size."""
    batch = many_reads(spec, dtype)
    expected = update_with(spec, *batch, state_block=state_block, **SCAN)
    for settings in (SCAN, SCAN_LITTLE, SORT, SORT_SMALL, SORT_LARGE):
        for workers in (1, 2, 7):
            found = update_with(spec, *batch, workers=workers, state_block=state_block, **settings)
            assert found == expected


@pytest.mark.usefixtures("threads_for_everything")
@pytest.mark.parametrize("spec", [BIG, RobeSpec(2011, 8, 16, 3), RobeSpec(90_000, 1, 16, 3)])
def test_the_same_bits_for_any_number_of_threads(spec):
    grad_out, indices = many_reads(spec)
    results, before = set(), numba.get_num_threads()
    for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
        array, sums = array_for(spec, np.float32, seed=10), sums_for(spec, 8, np.float32)
        numba.set_num_threads(threads)
        try:
            rn.adagrad_update(array, sums, grad_out, indices, spec, state_block=8)
        finally:
            numba.set_num_threads(before)
        results.add((array.tobytes(), sums.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_arithmetic_is_of_the_arrays_own_precision(dtype):
    """Each element is read once; the sum of two has one order, so NumPy must give the same bits."""
    spec = TableSpec((499,), 16)
    array, before = array_for(spec, dtype, seed=14), sums_for(spec, 2, dtype)
    grad_out = array_for(spec, dtype, seed=16).reshape(499, 1, 16)
    grad, (lr, eps) = grad_out.reshape(-1), np.array([0.1, 1e-3], dtype)
    moved, sums = array.copy(), before.copy()
    indices = np.arange(499).reshape(-1, 1)
    rn.adagrad_update(moved, sums, grad_out, indices, spec, 0.1, 1e-3, state_block=2)
    expected = before + (grad[::2] * grad[::2] + grad[1::2] * grad[1::2]) / lr.dtype.type(2)
    assert sums.tobytes() == expected.tobytes()
    rate = np.repeat(lr / (np.sqrt(expected) + eps), 2)
    assert moved.tobytes() == (array - rate * grad).tobytes()


def test_blocks_of_one_element_are_adagrad_as_ever():
    grad_out, indices = many_reads(BIG)
    results = []
    for options in ({}, {"state_block": 1}, {"state_block": np.int64(1)}):
        array, sums = array_for(BIG, np.float32, seed=10), np.zeros(BIG.array_size, np.float32)
        rn.adagrad_update(array, sums, grad_out, indices, BIG, **options)
        results.append((array.tobytes(), sums.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("state_block", [4, 16, 64])
def test_what_has_no_gradient_keeps_its_bits(state_block):
    """With eps 0 and a sum of 0 it would become NaN; a block moves though its squares are 0."""
    spec = TableSpec((8,), 64)
    array = array_for(spec, np.float32, seed=13)
    array[::3], array[1::3] = -0.0, np.nan
    tiny = 2 * 64 + 62
    array[tiny] = 0
    grad_out = np.zeros((2, 1, 64), np.float32)
    grad_out[:, 0, 3], grad_out[0, 0, 62] = (5, -5), 1e-30  # a sum of 0, and a square of 0
    grad_out[1, 0, 60:62] = -0.0
    moved, sums = array.copy(), np.zeros(512 // state_block, np.float32)
    rows = np.array([[2], [2]])
    rn.adagrad_update(moved, sums, grad_out, rows, spec, 0.1, 1e-10, state_block=state_block)
    assert not sums.any()
    still = np.arange(512) != tiny
    assert moved[still].tobytes() == array[still].tobytes()
    assert moved[tiny] == pytest.approx(-1e-21, rel=1e-6)


def test_a_nan_reaches_what_has_a_gradient_in_its_block():
    spec = TableSpec((4,), 8)
    array, sums = np.zeros(32, np.float32), np.zeros(8, np.float32)
    grad_out = np.array([[[1, np.nan, 0, 1, 1, 1, 1, 1]]], np.float32)
    rn.adagrad_update(array, sums, grad_out, np.array([[1]]), spec, state_block=4)
    assert np.flatnonzero(np.isnan(array)).tolist() == [8, 9, 11]
    assert np.flatnonzero(np.isnan(sums)).tolist() == [2]
    assert np.isfinite(array[12:16]).all()
    assert array[12:16].all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"state_block": 3},
            ValueError,
            "is 3; it must be a power of two.* use 2 or 4",
        ),
        ({"state_block": 0}, ValueError, r"state_block is 0; it must be in \[1, 4096\]"),
        ({"state_block": 8192}, ValueError, r"state_block is 8192; it must be in \[1, 4096\]"),
        ({"state_block": 4.0}, TypeError, "state_block must be an integer"),
        ({"state_block": True}, TypeError, "state_block must be an integer"),
        ({"state_block": 4}, ValueError, r"has shape \(13,\); expected \(25,\).*state_block = 4"),
        ({"state_block": 1}, ValueError, r"has shape \(13,\); expected \(100,\).*state_block = 1"),
        ({"state_sum": np.ones(100, np.float32)}, ValueError, r"expected \(13,\)"),
        ({"state_sum": np.ones((13, 1), np.float32)}, ValueError, r"expected \(13,\)"),
        ({"state_sum": np.ones(13)}, TypeError, "state_sum has dtype float64"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(change, error, message):
    spec = RobeSpec(100, 8, 8, 2)
    array, ids = np.ones(100, np.float32), np.zeros((3, 2), np.int64)
    arguments = {"array": array, "state_sum": np.ones(13, np.float32), "state_block": 8}
    arguments |= {"grad_out": np.ones((3, 2, 8), np.float32), "spec": spec, **change}
    with pytest.raises(error, match=message):
        rn.adagrad_update(indices=ids, **arguments)
    with pytest.raises(error, match=message):
        rn.embedding_bag_adagrad_update(indices=ids[:, 0], offsets=np.arange(7) // 2, **arguments)
    assert (array == 1).all()
    assert (arguments["state_sum"] == 1).all()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (RobeSpec(9999, 32, 128, 1), 32),
        (RobeSpec(9999, 48, 128, 1), 32),
        (RobeSpec(9999, 64, 10, 1), 8),
        (RobeSpec(9999, 1, 16, 1), 1),
        (RobeSpec(2**20, 2**20, 2**20, 1), 4096),
        (TableSpec((5,), 16), 16),
        (TableSpec((5,), 100), 64),
    ],
)
def test_the_state_block_of_a_spec_is_a_power_of_two_within_a_block(spec, expected):
    assert state_block_of(spec) == expected
