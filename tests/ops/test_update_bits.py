"""Updates have the same bits for any threads and ranges, and with kept starts."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robe_numba as rn
from robe_numba import RobeSpec
from tests.support import naive
from tests.support.strategies import REAL_DTYPES, array_for, bags_for, indices_for, specs
from tests.support.updates import (
    BIG,
    RULES,
    SCAN,
    SCAN_LITTLE,
    SORT,
    SORT_LARGE,
    SORT_SMALL,
    grad_for,
    update_with,
)


def step(rule, threads, spec, grad_out, indices):
    """The array and its state after one step on a number of threads."""
    array, state = array_for(spec, np.float32, seed=10), np.ones(spec.array_size, np.float32)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        if rule == "sgd":
            rn.sgd_update(array, grad_out, indices, spec, lr=0.1)
        else:
            rn.adagrad_update(array, state, grad_out, indices, spec, lr=0.1)
    finally:
        numba.set_num_threads(before)
    return array, state


@pytest.mark.usefixtures("threads_for_everything")
@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
@pytest.mark.parametrize("spec", [BIG, RobeSpec(2000, 8, 16, 3), RobeSpec(90_000, 1, 16, 3)])
def test_updates_are_bit_identical_for_any_thread_count(rule, spec):
    generator = np.random.default_rng(11)
    indices = (generator.zipf(1.2, (700, 3)) % 5000).astype(np.uint64)  # many duplicates
    grad_out = generator.standard_normal((700, 3, spec.embedding_dim)).astype(np.float32)
    results = [
        step(rule, threads, spec, grad_out, indices)
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1)
    ]
    for array, state in results[1:]:
        assert array.tobytes() == results[0][0].tobytes()
        assert state.tobytes() == results[0][1].tobytes()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "spec",
    [
        BIG,
        RobeSpec(2000, 8, 16, 3),  # plain pieces
        RobeSpec(2000, 33, 300, 3, seed=1),  # ragged ones
        RobeSpec(47, 47, 40, 3, seed=2),  # as long as the array
        RobeSpec(1, 1, 3, 3, seed=3),
        RobeSpec(90_000, 1, 16, 3),
        RobeSpec(1000, 40, 16, 3, hash="paper", seed=4, alignment=16),  # Z > d
    ],
)
def test_the_same_bits_by_scanning_and_by_sorting(rule, spec):
    generator = np.random.default_rng(11)
    indices = (generator.zipf(1.2, (90, 3)) % 5000).astype(np.uint64)  # many duplicates
    grad_out = generator.standard_normal((90, 3, spec.embedding_dim)).astype(np.float32)
    array = np.zeros(spec.array_size, np.float32) if rule == "gradient" else None
    expected = update_with(spec, grad_out, indices, rule, array=array, **SCAN)
    for settings in (SCAN, SCAN_LITTLE, SORT, SORT_SMALL, SORT_LARGE):
        for workers in (1, 2, 3, 7):
            found = update_with(spec, grad_out, indices, rule, workers, array, **settings)
            assert found == expected


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize(("block_size", "dim"), [(80, 80), (8, 19), (1, 5)])
def test_a_sweep_gives_the_bits_of_a_walk(block_size, dim, dtype):
    """Whole ranges are swept where pieces would fill half of them; nothing else tells them apart.

    With eps and the state 0 an element that did not move would become NaN; -0.0 and NaN stay what
    they are where the sum is 0.
    """
    spec = RobeSpec(4000, block_size, dim, 1)
    indices = np.arange(4).repeat(2).reshape(8, 1)
    grad_out = np.random.default_rng(12).integers(-1, 2, (8, 1, dim)).astype(dtype)  # many zeros
    grad_out[1] = -grad_out[0]  # sums of 0
    grad_out[5, 0, 0] = np.nan
    array = array_for(spec, dtype, seed=13)
    array[::3], array[1::3] = -0.0, np.nan
    touched = 2 * 8 * spec.num_blocks * min(block_size, dim)  # pieces on both sides of a border
    assert touched < spec.array_size // 2  # one range is walked
    walked = update_with(spec, grad_out, indices, array=array, **SCAN)
    # A range of a piece's length is swept if a piece touches it.
    swept = update_with(
        spec, grad_out, indices, workers=4000 // min(block_size, dim), array=array, **SCAN
    )
    assert swept == walked
    assert update_with(spec, grad_out, indices, array=array, **SORT_SMALL) == walked
    assert update_with(spec, grad_out, indices, array=array, **SORT_LARGE) == walked
    gradient, magnitude = naive.lookup_gradient(grad_out, indices, spec)
    still = gradient == 0
    moved, state = (np.frombuffer(part, dtype) for part in walked)
    assert moved[still].tobytes() == array[still].tobytes()
    assert not state[still].any()
    assert (magnitude[still] != 0).any()  # sums of 0 are among them
    assert np.isnan(gradient).any()
    np.testing.assert_array_equal(np.isnan(state), np.isnan(gradient))


@given(st.data())
def test_kept_starts_give_the_bits_of_hashing_again(data):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, np.float32, seed=15)
    starts = np.empty((len(indices), spec.num_tables, spec.num_blocks), np.int64)
    rn.lookup(array, indices, spec, starts=starts)
    kept = starts.copy()
    grad_out = grad_for(spec, len(indices), np.float32)
    results = []
    for given_starts in (None, starts):
        gradient = rn.lookup_backward(grad_out, indices, spec, starts=given_starts)
        moved, state = array.copy(), np.ones_like(array)
        rn.sgd_update(moved, grad_out, indices, spec, starts=given_starts)
        rn.adagrad_update(moved, state, grad_out, indices, spec, starts=given_starts)
        results.append((gradient.tobytes(), moved.tobytes(), state.tobytes()))
    assert results[0] == results[1]
    np.testing.assert_array_equal(starts, kept)


@given(st.data())
def test_kept_starts_of_bags_give_the_bits_of_hashing_again(data):
    spec = data.draw(specs)
    bags = data.draw(bags_for(spec, np.float32))
    array = array_for(spec, np.float32, seed=16)
    starts = np.empty((bags.indices.size, spec.num_blocks), np.int64)
    call = (bags.indices, bags.offsets, spec, *bags[2:])
    grad_out = grad_for(spec, len(rn.embedding_bag(array, *call, starts=starts)), np.float32)
    kept = starts.copy()
    results = []
    for given_starts in (None, starts):
        gradient = rn.embedding_bag_backward(grad_out, *call, array, starts=given_starts)
        moved, state = array.copy(), np.ones_like(array)
        rn.embedding_bag_sgd_update(moved, grad_out, *call, starts=given_starts)
        rn.embedding_bag_adagrad_update(moved, state, grad_out, *call, starts=given_starts)
        results.append((gradient.tobytes(), moved.tobytes(), state.tobytes()))
    assert results[0] == results[1]
    np.testing.assert_array_equal(starts, kept)
