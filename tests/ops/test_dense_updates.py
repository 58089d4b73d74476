"""Steps by a dense gradient: the rules' formulas, the bits of sparse updates, and any threads."""

import subprocess
import sys
from functools import partial

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robe_numba as rn
from robe_numba import RobeSpec, TableSpec
from robe_numba.dlrm.optimizers import DenseOptimizer
from robe_numba.kernels.cpu.update import dense as kernels
from robe_numba.ops import dense
from robe_numba.ops.dense import apply_gradient
from tests.ops.test_state_blocks import assert_is_step
from tests.support import naive
from tests.support.strategies import REAL_DTYPES

# Around vectors, state blocks and what is gone through together.
BORDERS = [0, 1, 3, 15, 16, 17, 31, 33, 255, 256, 257, 511, 513, 1025, 4095, 4097, 8200]
sizes = st.one_of(st.sampled_from(BORDERS), st.integers(0, 300))
state_blocks = st.sampled_from([1, 2, 16, 64, 4096])


@pytest.fixture
def share_out(monkeypatch):
    """Call it with the number of workers that kernels get, for any number of threads."""

    def set_to(workers):
        monkeypatch.setattr(dense, "threads_for", lambda elements: workers)

    return set_to


def step_for(size, dtype, state_block=1, moved=0.3, stretch=1):
    """An array, its sums and a gradient that is 0 but in some stretches of so many elements."""
    generator = np.random.default_rng(size)
    array = generator.standard_normal(size).astype(dtype)
    sums = generator.integers(0, 5, -(-size // state_block)).astype(dtype)
    gradient = generator.standard_normal(size).astype(dtype)
    gradient[np.repeat(generator.random(-(-size // stretch)) >= moved, stretch)[:size]] = 0
    return array, sums, gradient


@given(sizes, st.sampled_from(REAL_DTYPES), state_blocks, st.sampled_from([0.0, 0.5]),
       st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.sampled_from([1, 16, 300]))  # fmt: skip
def test_steps_equal_the_oracle(size, dtype, state_block, eps, moved, stretch):
    array, before, gradient = step_for(size, dtype, state_block, moved, stretch)
    kept = gradient.copy()
    found, sums = array.copy(), before.copy()
    apply_gradient(found, sums, gradient, 0.1, eps, state_block)
    assert_is_step(found, sums, array, before, gradient.astype(np.float64), eps, state_block)
    found = array.copy()
    apply_gradient(found, None, gradient, 0.1)
    expected = naive.sgd(array, gradient.astype(np.float64), 0.1)
    bound = 3 * np.finfo(dtype).eps * (np.abs(array) + np.abs(expected - array))
    assert (np.abs(found - expected) <= bound).all()
    assert gradient.tobytes() == kept.tobytes()


@given(sizes, st.sampled_from(REAL_DTYPES))
def test_arithmetic_is_of_the_arrays_own_precision(size, dtype):
    """Nothing is rounded together, so NumPy must give the same bits."""
    array, before, gradient = step_for(size, dtype)
    lr, eps = np.array([0.1, 1e-3], dtype)
    found, sums = array.copy(), before.copy()
    apply_gradient(found, sums, gradient, 0.1, 1e-3)
    expected = before + gradient * gradient
    assert sums.tobytes() == expected.tobytes()
    assert found.tobytes() == (array - lr * gradient / (np.sqrt(expected) + eps)).tobytes()
    found = array.copy()
    apply_gradient(found, None, gradient, 0.1)
    assert found.tobytes() == (array - lr * gradient).tobytes()


def reads_of(spec, batch, dtype):
    """Ids, gradients of what was read, and the gradient of the array."""
    generator = np.random.default_rng(batch)
    if isinstance(spec, TableSpec):  # each row once at most
        rows = generator.permutation(spec.num_embeddings[0])[:batch].reshape(-1, 1)
    else:
        rows = generator.integers(0, 50, (batch, spec.num_tables))
    grad_out = generator.standard_normal((*rows.shape, spec.embedding_dim)).astype(dtype)
    return rows, grad_out, rn.lookup_backward(grad_out, rows, spec)


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("state_block", [1, 2, 64, 4096])
@pytest.mark.parametrize(
    ("spec", "batch"),
    [
        (TableSpec((700,), 24), 700),
        (TableSpec((700,), 24), 90),
        (TableSpec((41,), 1), 20),
        (RobeSpec(9000, 16, 16, 2), 30),  # elements that are read more than once
        (RobeSpec(4099, 24, 80, 3, sign=True), 60),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_adagrad_has_the_bits_of_an_update_by_reads(
    spec, batch, state_block, dtype, workers, share_out
):
    share_out(workers)
    rows, grad_out, gradient = reads_of(spec, batch, dtype)
    array, before, _ = step_for(spec.array_size, dtype, state_block)
    expected, expected_sums = array.copy(), before.copy()
    options = {"lr": 0.3, "eps": 1e-3, "state_block": state_block}
    rn.adagrad_update(expected, expected_sums, grad_out, rows, spec, **options)
    apply_gradient(array, before, gradient, **options)
    assert before.tobytes() == expected_sums.tobytes()
    assert array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("batch", [700, 90])
def test_sgd_has_the_bits_of_an_update_that_reads_each_element_once(batch, dtype):
    spec = TableSpec((700,), 24)
    rows, grad_out, gradient = reads_of(spec, batch, dtype)
    array, _, _ = step_for(spec.array_size, dtype)
    expected = array.copy()
    rn.sgd_update(expected, grad_out, rows, spec, 0.3)
    apply_gradient(array, None, gradient, 0.3)
    assert array.tobytes() == expected.tobytes()


@given(sizes, st.sampled_from(REAL_DTYPES), st.one_of(st.none(), state_blocks))
def test_the_same_bits_however_the_array_is_shared_out(size, dtype, state_block):
    array, before, gradient = step_for(size, dtype, state_block or 1, stretch=5)
    results = set()
    for workers in (1, 2, 3, 7):
        found, sums = array.copy(), before.copy()
        given_sums = sums if state_block else None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dense, "threads_for", lambda _, count=workers: count)
            apply_gradient(found, given_sums, gradient, 0.1, 1e-3, state_block or 1)
        results.add((found.tobytes(), sums.tobytes()))
    assert len(results) == 1


@pytest.mark.usefixtures("threads_for_everything")
@pytest.mark.parametrize("state_block", [None, 1, 64, 4096])
def test_the_same_bits_for_any_number_of_threads(state_block):
    array, before, gradient = step_for(100_003, np.float32, state_block or 1, stretch=100)
    results, allowed = set(), numba.get_num_threads()
    for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
        found, sums = array.copy(), before.copy()
        numba.set_num_threads(threads)
        try:
            given_sums = sums if state_block else None
            apply_gradient(found, given_sums, gradient, 0.1, 1e-3, state_block or 1)
        finally:
            numba.set_num_threads(allowed)
        results.add((found.tobytes(), sums.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("tile", [64, 128, 1 << 20])
def test_the_same_bits_for_any_number_of_elements_gone_through_together(tile, monkeypatch):
    array, before, gradient = step_for(9000, np.float32, 64)
    expected, expected_sums = array.copy(), before.copy()
    apply_gradient(expected, expected_sums, gradient, 0.1, state_block=64)
    monkeypatch.setattr(kernels, "TILE", tile)
    apply_gradient(array, before, gradient, 0.1, state_block=64)
    assert (array.tobytes(), before.tobytes()) == (expected.tobytes(), expected_sums.tobytes())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("state_block", [None, 1, 2, 64, 4096])
def test_what_has_no_gradient_keeps_its_bits(state_block, workers, share_out):
    """With eps 0 and a sum of 0 it would become NaN, and -0.0 less -0.0 is 0.0."""
    share_out(workers)
    array = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    array[::3], array[1::3] = -0.0, np.inf
    array[2::30] = np.array([0x7FA00001], np.uint32).view(np.float32)  # a NaN that would change
    gradient = np.zeros(5000, np.float32)
    gradient[::2], gradient[[1, 70, 4999]] = -0.0, (1, -2, 3)
    found, sums = array.copy(), np.zeros(-(-5000 // (state_block or 1)), np.float32)
    step = (None,) if state_block is None else (sums,)
    apply_gradient(found, *step, gradient, 0.5, 0.0, state_block or 1)
    still = gradient == 0
    assert found[still].tobytes() == array[still].tobytes()
    expected = np.zeros_like(sums)
    if state_block:
        for i in (1, 70, 4999):
            block = range(i // state_block * state_block, 5000)[:state_block]
            expected[i // state_block] += gradient[i] ** 2 / len(block)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_a_nan_reaches_its_element():
    array, sums = np.ones(40, np.float32), np.zeros(40, np.float32)
    gradient = np.ones(40, np.float32)
    gradient[[3, 37]], gradient[[2, 38]] = np.nan, 0
    for given_sums in (None, sums):
        array[:] = 1
        apply_gradient(array, given_sums, gradient, 0.5)
        assert np.flatnonzero(np.isnan(array)).tolist() == [3, 37]
        assert np.flatnonzero(array == 1).tolist() == [2, 38]
    assert np.flatnonzero(np.isnan(sums)).tolist() == [3, 37]


def test_a_nan_reaches_what_has_a_gradient_in_its_block():
    array, sums = np.ones(40, np.float32), np.zeros(10, np.float32)
    gradient = np.zeros(40, np.float32)
    gradient[[8, 10, 11, 12, 17]], gradient[9] = 1, np.nan
    apply_gradient(array, sums, gradient, 0.5, state_block=4)
    assert np.flatnonzero(np.isnan(array)).tolist() == [8, 9, 10, 11]
    assert np.flatnonzero(np.isnan(sums)).tolist() == [2]
    assert np.flatnonzero(array != 1).tolist() == [8, 9, 10, 11, 12, 17]


def test_the_last_block_may_be_short():
    array, sums = np.zeros(70, np.float64), np.zeros(2, np.float64)
    apply_gradient(array, sums, np.full(70, 3.0), 1.0, 0.0, 64)
    assert sums.tolist() == [9, 9]
    assert (array == -1).all()


def step_between_guards():
    """Arrays and scratch lie against pages that may not be touched, at either end."""
    from tests.support.guard_pages import Guard

    for guard in (Guard(at_end=True), Guard(at_end=False)):
        for size in (1, 15, 16, 70, 4097):
            for state_block in (None, 1, 2, 64, 4096):
                arrays = step_for(size, np.float32, state_block or 1, moved=1)
                guarded = [guard.copy(values) for values in arrays]
                for array, sums, gradient in (arrays, guarded):
                    kernels.scratch = lambda _, *rest: guard.empty(*rest)  # noqa: B023
                    step = (sums if state_block else None, gradient, 0.1, 1e-3, state_block or 1)
                    apply_gradient(array, *step)
                for values, expected in zip(guarded, arrays, strict=True):
                    assert values.tobytes() == expected.tobytes()
    print("done")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages of memory")
def test_kernels_stay_within_their_arrays():
    program = "from tests.ops.test_dense_updates import step_between_guards as check; check()"
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "done\n"


def test_a_gradient_may_be_read_only_and_arrays_of_any_shape():
    array, sums, gradient = step_for(60, np.float32)
    expected, expected_sums = array.copy(), sums.copy()
    apply_gradient(expected, expected_sums, gradient, 0.1)
    gradient.flags.writeable = False
    shaped = array.reshape(3, 4, 5)
    apply_gradient(shaped, sums, gradient.reshape(3, 4, 5), 0.1)
    assert array.tobytes() == expected.tobytes()
    assert sums.tobytes() == expected_sums.tobytes()


@pytest.mark.usefixtures("threads_for_everything")
@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_dense_parameters_move_by_the_same_step(name):
    array, _, gradient = step_for(1003 * 3, np.float32)
    array, gradient = array.reshape(-1, 3), gradient.reshape(-1, 3)
    moved, expected, sums = array.copy(), array.copy(), np.zeros_like(array)
    optimizer = DenseOptimizer(name, {"w": moved}, eps=0.0)
    by = partial(apply_gradient, expected, sums.reshape(-1) if name == "adagrad" else None)
    for _ in range(2):
        optimizer.step({"w": gradient}, 0.1)
        by(gradient, 0.1, 0.0)
    assert moved.tobytes() == expected.tobytes()
    assert np.isfinite(moved).all()
    for state in optimizer.state.values():
        assert state.shape == array.shape
        assert state.tobytes() == sums.tobytes()
