"""Steps by a dense gradient on a GPU: as the oracle within rounding, whole numbers exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robe_numba.dlrm.optimizers import DenseOptimizer
from robe_numba.ops.dense import apply_gradient
from tests.gpu.conftest import to_cpu, to_gpu
from tests.support import naive
from tests.support.strategies import REAL_DTYPES

# Around thread blocks and the parts that sums of blocks are made of; the simulator's are small.
sizes = st.one_of(st.sampled_from([0, 1, 31, 33, 63, 64, 65, 255, 257, 513]), st.integers(0, 300))


def step_for(size, dtype, state_block=1, moved=0.5):
    """An array, its sums and a gradient, all whole numbers."""
    generator = np.random.default_rng(size)
    array, gradient = generator.integers(-9, 10, (2, size)).astype(dtype)
    gradient[generator.random(size) >= moved] = 0
    return array, np.arange(-(-size // state_block)).astype(dtype), gradient


@given(sizes, st.sampled_from(REAL_DTYPES))
@settings(max_examples=8)
def test_sgd_on_whole_numbers_is_exact(size, dtype):
    array, _, gradient = step_for(size, dtype)
    moved, grads = to_gpu(array), to_gpu(gradient)
    apply_gradient(moved, None, grads, 0.5)
    np.testing.assert_array_equal(to_cpu(moved), naive.sgd(array, gradient, 0.5))
    assert to_cpu(grads).tobytes() == gradient.tobytes()


@given(
    sizes,
    st.sampled_from(REAL_DTYPES),
    st.sampled_from([1, 2, 16, 64, 128, 4096]),
    st.sampled_from([0.02, 0.5, 1.0]),
)
@settings(max_examples=12)
def test_adagrad_equals_the_oracle(size, dtype, state_block, moved):
    array, before, gradient = step_for(size, dtype, state_block, moved)
    found, sums, grads = map(to_gpu, (array, before, gradient))
    apply_gradient(found, sums, grads, 0.5, 1e-3, state_block)
    expected = naive.block_adagrad(array, before, gradient, 0.5, 1e-3, state_block)
    tolerance = 16 * np.finfo(dtype).eps  # of a tree of sums
    np.testing.assert_allclose(to_cpu(sums), expected[1], rtol=tolerance)
    np.testing.assert_allclose(to_cpu(found), expected[0], rtol=tolerance, atol=tolerance)
    still = gradient == 0
    assert to_cpu(found)[still].tobytes() == array[still].tobytes()
    assert to_cpu(grads).tobytes() == gradient.tobytes()


@pytest.mark.parametrize("state_block", [None, 1, 8])
def test_what_has_no_gradient_does_not_move_and_a_nan_moves_its_own(state_block):
    """With eps 0 and a sum of 0 it would become NaN."""
    gradient = np.zeros(300, np.float32)
    gradient[[16, 18]], gradient[17] = 1, np.nan
    array, grads = to_gpu(np.ones(300, np.float32)), to_gpu(gradient)
    sums = to_gpu(np.zeros(-(-300 // (state_block or 1)), np.float32)) if state_block else None
    apply_gradient(array, sums, grads, 0.5, 0.0, state_block or 1)
    assert np.flatnonzero(to_cpu(array) != 1).tolist() == [16, 17, 18]
    reached = [16, 17, 18] if state_block == 8 else [17]
    assert np.flatnonzero(np.isnan(to_cpu(array))).tolist() == reached


def test_dense_parameters_without_gradient_do_not_move():
    value = to_gpu(np.ones((3, 5), np.float32))
    optimizer = DenseOptimizer("adagrad", {"w": value}, eps=0.0)
    optimizer.step({"w": to_gpu(np.eye(3, 5, dtype=np.float32))}, 0.5)
    np.testing.assert_array_equal(to_cpu(value), 1 - np.eye(3, 5) / 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gradient": np.ones(99, np.float32)}, ValueError, "gradient has shape"),
        ({"gradient": np.ones(100)}, TypeError, "gradient has dtype float64"),
        ({"array": np.ones(100, np.int32)}, TypeError, "array has dtype int32"),
        ({"state_sum": np.ones(100, np.float32)}, ValueError, r"expected \(13,\)"),
        ({"state_block": 4}, ValueError, r"expected \(25,\)"),
        ({"state_block": 3}, ValueError, "must be a power of two"),
        ({"lr": np.nan}, ValueError, "lr is nan"),
        ({"lr": 1e39}, ValueError, "lr is 1e"),
        ({"eps": -1}, ValueError, "eps is -1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(change, error, message):
    arguments = {"array": np.ones(100, np.float32), "state_sum": np.ones(13, np.float32)}
    arguments |= {"gradient": np.ones(100, np.float32), "lr": 0.1, "state_block": 8, **change}
    arguments = {n: to_gpu(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    with pytest.raises(error, match=message):
        apply_gradient(**arguments)
    assert (to_cpu(arguments["array"]) == 1).all()
    assert (to_cpu(arguments["state_sum"]) == 1).all()


def test_what_is_written_shares_no_memory_with_the_rest():
    room = to_gpu(np.ones(150, np.float32))
    with pytest.raises(ValueError, match="array and gradient share memory"):
        apply_gradient(room[:100], None, room[50:], 0.1)
    with pytest.raises(ValueError, match="array and state_sum share memory"):
        apply_gradient(room[:70], room[30:100], to_gpu(np.ones(70, np.float32)), 0.1)
    apply_gradient(room[:50], room[50:100], room[100:], 0.1)  # side by side


@pytest.mark.parametrize("wrong", ["array", "state_sum", "gradient"])
def test_arrays_of_two_devices_are_refused(wrong):
    names = ("array", "state_sum", "gradient")
    arrays = {name: np.ones(10, np.float32) for name in names}
    mixed = {name: a if name == wrong else to_gpu(a) for name, a in arrays.items()}
    with pytest.raises(TypeError, match=f"{wrong} is a NumPy array but .* is on a GPU"):
        apply_gradient(**mixed, lr=0.1)
