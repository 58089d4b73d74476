"""Gradients and updates: against the float64 oracle, and exact on whole numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robe_numba as rn
from robe_numba import RobeSpec, TableSpec
from tests.support import naive
from tests.support.strategies import REAL_DTYPES, array_for, bags_for, indices_for, specs
from tests.support.updates import grad_for


def assert_sums_close(actual, oracle, additions):
    """A sum of n terms of precision eps, in any order: error <= (n + 2) eps * sum |terms|."""
    gradient, magnitude = oracle
    eps = np.finfo(actual.dtype).eps
    assert (np.abs(actual - gradient) <= (additions + 2) * eps * magnitude).all()


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_lookup_backward_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    grad_out = grad_for(spec, len(indices), dtype)
    gradient = rn.lookup_backward(grad_out, indices, spec)
    given = np.full(spec.array_size, np.nan, grad_out.dtype)
    assert rn.lookup_backward(grad_out, indices, spec, out=given) is given
    assert given.tobytes() == gradient.tobytes()
    assert gradient.dtype == dtype
    assert gradient.shape == (spec.array_size,)
    oracle = naive.lookup_gradient(grad_out, indices, spec)
    assert_sums_close(gradient, oracle, additions=grad_out.size)


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_embedding_bag_backward_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    bags = data.draw(bags_for(spec, dtype))
    array = array_for(spec, dtype, seed=6)
    grad_out = grad_for(spec, (bags.offsets.size - 1) // spec.num_tables, dtype)
    arguments = (grad_out, bags.indices, bags.offsets, spec, *bags[2:], array)
    gradient = rn.embedding_bag_backward(*arguments)
    given = np.full(spec.array_size, np.nan, dtype)
    assert rn.embedding_bag_backward(*arguments, out=given) is given
    assert given.tobytes() == gradient.tobytes()
    oracle = naive.embedding_bag_gradient(*arguments)
    # Weights and the reciprocal of a mean round twice more per term.
    assert_sums_close(gradient, oracle, additions=bags.indices.size * spec.embedding_dim + 2)


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_sgd_on_whole_numbers_is_exact(data, dtype):
    """Duplicates, wraps and signs included: sums of small integers round nowhere."""
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=7, whole=True)
    grad_out = grad_for(spec, len(indices), dtype, whole=True)
    gradient, _ = naive.lookup_gradient(grad_out, indices, spec)
    expected = naive.sgd(array, gradient, lr=0.5)
    rn.sgd_update(array, grad_out, indices, spec, lr=0.5)
    np.testing.assert_array_equal(array, expected)


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_adagrad_squares_the_complete_sum(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array, state = (array_for(spec, dtype, seed=8, whole=True) for _ in range(2))
    state = np.abs(state)
    grad_out = grad_for(spec, len(indices), dtype, whole=True)
    gradient, _ = naive.lookup_gradient(grad_out, indices, spec)
    expected, expected_state = naive.adagrad(array, state, gradient, lr=0.1, eps=1e-10)
    rn.adagrad_update(array, state, grad_out, indices, spec, lr=0.1, eps=1e-10)
    np.testing.assert_array_equal(state, expected_state)
    # Square root, sum, quotient, product and difference round once each.
    bound = 5 * np.finfo(dtype).eps * (np.abs(expected) + np.abs(expected - array) + 1)
    assert (np.abs(array - expected) <= bound).all()


@given(st.data(), st.sampled_from(REAL_DTYPES))
def test_bag_updates_equal_the_oracle(data, dtype):
    spec = data.draw(specs)
    bags = data.draw(bags_for(spec, dtype, whole=True))
    array = array_for(spec, dtype, seed=9, whole=True)
    grad_out = 12 * grad_for(spec, (bags.offsets.size - 1) // spec.num_tables, dtype, whole=True)
    call = (grad_out, bags.indices, bags.offsets, spec, *bags[2:])
    gradient, magnitude = naive.embedding_bag_gradient(*call, array)
    moved = array.copy()
    rn.embedding_bag_sgd_update(moved, *call, lr=0.5)
    eps = np.finfo(dtype).eps
    bound = (bags.indices.size * spec.embedding_dim + 5) * eps * (magnitude + np.abs(array))
    assert (np.abs(moved - naive.sgd(array, gradient, 0.5)) <= bound).all()

    moved, state = array.copy(), np.ones_like(array)
    rn.embedding_bag_adagrad_update(moved, state, *call, lr=0.1, eps=0.0)
    expected, expected_state = naive.adagrad(array, np.ones_like(array), gradient, 0.1, 0.0)
    assert (np.abs(state - expected_state) <= 3 * bound * (magnitude + 1)).all()
    # d(step)/d(gradient) is at most lr for a state of at least 1.
    assert (np.abs(moved - expected) <= bound + 5 * eps * (np.abs(array) + 1)).all()


def test_the_gradient_of_equal_maxima_goes_to_the_first():
    """Also of 0.0 and -0.0, which are equal, and of NaNs."""
    spec = TableSpec((4,), 3)
    array = np.array([1, 0, np.nan, 2, -0.0, 1, 2, 0, np.nan, 2, 0, np.nan], np.float32)
    grad_out = np.arange(1, 4, dtype=np.float32).reshape(1, 1, 3)
    for ids, winners in (([0, 1, 2, 3], [3, 1, 2]), ([3, 2, 1, 0], [9, 10, 11])):
        call = (grad_out, np.array(ids), np.array([0, 4]), spec, "max")
        gradient = rn.embedding_bag_backward(*call, array=array)
        assert np.flatnonzero(gradient).tolist() == sorted(winners)
        assert gradient[winners].tolist() == [1, 2, 3]


def test_large_updates_equal_numpy_scatter():
    """Many segments at once, against NumPy's add.at in float64 on the package's own starts."""
    generator = np.random.default_rng(12)
    spec = RobeSpec(300_000, 32, 80, 3)
    indices = generator.integers(0, 2**63, (3000, 3))
    grad_out = generator.integers(-9, 10, (3000, 3, 80)).astype(np.float32)
    starts = rn.block_starts(indices, spec)
    elements = np.arange(80)
    positions = (starts[:, :, elements // 32] + elements % 32) % spec.array_size
    expected = np.zeros(spec.array_size)
    np.add.at(expected, positions, grad_out)
    np.testing.assert_array_equal(rn.lookup_backward(grad_out, indices, spec), expected)


def test_untouched_elements_do_not_move():
    spec = RobeSpec(10_000, 4, 8, 1)
    array = array_for(spec, np.float32, seed=13)
    before, state = array.copy(), np.zeros_like(array)
    indices, grad_out = np.array([[5]]), np.ones((1, 1, 8), np.float32)
    rn.adagrad_update(array, state, grad_out, indices, spec, lr=1.0, eps=0.0)
    touched = naive.lookup_gradient(grad_out, indices, spec)[0] != 0
    assert 0 < touched.sum() <= 8
    np.testing.assert_array_equal(array[~touched], before[~touched])
    assert (array[touched] != before[touched]).all()
    assert not state[~touched].any()


def test_a_block_longer_than_a_segment():
    spec = RobeSpec(200_000, 100_000, 100_000, 1)
    indices, grad_out = np.array([[3], [4]]), np.ones((2, 1, 100_000), np.float32)
    starts = rn.block_starts(indices, spec)[:, 0, 0]
    expected = np.zeros(200_000)
    for start in starts:
        np.add.at(expected, (start + np.arange(100_000)) % 200_000, 1)
    np.testing.assert_array_equal(rn.lookup_backward(grad_out, indices, spec), expected)


def test_nan_gradients_reach_the_array():
    spec = RobeSpec(100, 4, 4, 1)
    array = np.zeros(100, np.float32)
    rn.sgd_update(array, np.full((1, 1, 4), np.nan, np.float32), np.array([[1]]), spec)
    assert np.isnan(array).sum() == 4


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_arithmetic_is_of_the_arrays_own_precision(dtype):
    """Each element is read once, so NumPy's elementwise arithmetic must give the same bits."""
    spec = TableSpec((500,), 16)
    array, state = array_for(spec, dtype, seed=14), np.abs(array_for(spec, dtype, seed=15))
    indices = np.arange(500).reshape(-1, 1)
    grad_out = array_for(spec, dtype, seed=16).reshape(500, 1, 16)
    grad, lr, eps = grad_out.reshape(-1), np.dtype(dtype).type(0.1), np.dtype(dtype).type(1e-3)
    moved = array.copy()
    rn.sgd_update(moved, grad_out, indices, spec, lr=0.1)
    assert moved.tobytes() == (array - lr * grad).tobytes()
    moved, new_state = array.copy(), state.copy()
    rn.adagrad_update(moved, new_state, grad_out, indices, spec, lr=0.1, eps=1e-3)
    expected_state = state + grad * grad
    assert new_state.tobytes() == expected_state.tobytes()
    expected = array - lr * grad / (np.sqrt(expected_state) + eps)
    assert moved.tobytes() == expected.tobytes()


def test_the_smallest_gradients_are_kept():
    spec = TableSpec((1,), 4)
    tiny = np.array([1e-45, 1e-38, -1e-45, 1e-30], dtype=np.float32).reshape(1, 1, 4)
    gradient = rn.lookup_backward(tiny, np.array([[0]]), spec)
    assert gradient.tobytes() == tiny.tobytes()
    assert gradient.all()
