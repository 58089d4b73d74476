"""Rows on a GPU: starts and forward as the oracle to the bit, gradients and updates exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import robe_numba as rn
from tests.gpu.conftest import to_cpu, to_gpu
from tests.gpu.examples import CROWD, few_examples, indices_for, real_dtypes, specs
from tests.support import naive, numpy_oracle
from tests.support.strategies import (
    EDGES,
    HALF_DTYPES,
    INDEX_DTYPES,
    REAL_DTYPES,
    array_for,
    widened,
)


def whole_numbers(shape, dtype, seed):
    """Gradients whose sums are exact in any order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


@given(st.data(), real_dtypes)
@few_examples
def test_lookup_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=1)
    expected, places = naive.lookup(array, indices, spec), naive.block_starts(indices, spec)
    ids = to_gpu(indices)
    np.testing.assert_array_equal(to_cpu(rn.block_starts(ids, spec)), places)
    out, starts = to_gpu(np.full_like(expected, np.nan)), to_gpu(np.full_like(places, -7))
    assert rn.lookup(to_gpu(array), ids, spec, out=out, starts=starts) is out
    assert to_cpu(out).tobytes() == expected.tobytes()
    np.testing.assert_array_equal(to_cpu(starts), places)


@given(st.data(), real_dtypes, st.booleans())
@few_examples
def test_updates_equal_the_oracle(data, dtype, keep):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, dtype, seed=2, whole=True)
    grad_out = whole_numbers((*indices.shape, spec.embedding_dim), dtype, seed=3)
    gradient, _ = naive.lookup_gradient(grad_out, indices, spec)
    ids, grads = to_gpu(indices), to_gpu(grad_out)
    starts = to_gpu(naive.block_starts(indices, spec)) if keep else None
    result = rn.lookup_backward(grads, ids, spec, starts)
    np.testing.assert_array_equal(to_cpu(result), gradient)
    filled = to_gpu(np.full(gradient.shape, np.nan, dtype))
    assert rn.lookup_backward(grads, ids, spec, starts, out=filled) is filled
    np.testing.assert_array_equal(to_cpu(filled), gradient)
    moved = to_gpu(array)
    rn.sgd_update(moved, grads, ids, spec, 0.5, starts)
    np.testing.assert_array_equal(to_cpu(moved), array - gradient / 2)
    moved, sums = to_gpu(array), to_gpu(np.abs(array))
    rn.adagrad_update(moved, sums, grads, ids, spec, 0.5, 1e-3, starts)
    expected, expected_sums = naive.adagrad(array, np.abs(array), gradient, 0.5, 1e-3)
    np.testing.assert_array_equal(to_cpu(sums), expected_sums)
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(to_cpu(moved), expected, rtol=tolerance, atol=tolerance)


def assert_blocks_move(spec, indices, grad_out, state_block):
    """Sums of blocks are those of the oracle, which has the exact gradient."""
    array = array_for(spec, grad_out.dtype, seed=2, whole=True)
    sums = np.arange(-(-spec.array_size // state_block)).astype(grad_out.dtype)
    gradient, _ = naive.lookup_gradient(grad_out, indices, spec)
    moved, found = to_gpu(array), to_gpu(sums)
    step = (0.5, 1e-3, None, state_block)
    rn.adagrad_update(moved, found, to_gpu(grad_out), to_gpu(indices), spec, *step)
    expected = naive.block_adagrad(array, sums, gradient, 0.5, 1e-3, state_block)
    tolerance = 16 * np.finfo(grad_out.dtype).eps  # of a tree of sums
    np.testing.assert_allclose(to_cpu(found), expected[1], rtol=tolerance)
    np.testing.assert_allclose(to_cpu(moved), expected[0], rtol=tolerance, atol=tolerance)
    still = gradient == 0
    assert to_cpu(moved)[still].tobytes() == array[still].tobytes()


@given(st.data(), real_dtypes, st.sampled_from([2, 16, 32, 64, 128, 4096]))
@settings(max_examples=8)
def test_sums_of_blocks_equal_the_oracle(data, dtype, state_block):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    grad_out = whole_numbers((*indices.shape, spec.embedding_dim), dtype, seed=3)
    assert_blocks_move(spec, indices, grad_out, state_block)


@pytest.mark.parametrize("state_block", [8, 128])
def test_blocks_of_light_and_of_heavy_segments(state_block):
    """Reads crowd where one id puts them; the others are few, and the last block is short."""
    spec = rn.RobeSpec(300, 8, 8, 2, sign=True)  # two parts of the sums
    indices = np.concatenate([np.full((CROWD, 2), 7), np.arange(8).reshape(4, 2)])
    grad_out = whole_numbers((len(indices), 2, 8), np.float32, seed=5)
    assert_blocks_move(spec, indices, grad_out, state_block)


@pytest.mark.parametrize(("size", "message"), [(99, "expected"), (100, "expected"), (25, None)])
def test_sums_that_do_not_fit_their_blocks_are_refused(size, message):
    spec = rn.RobeSpec(98, 8, 8, 1)
    array, sums = to_gpu(np.ones(98, np.float32)), to_gpu(np.ones(size, np.float32))
    grads, ids = to_gpu(np.ones((1, 1, 8), np.float32)), to_gpu(np.zeros((1, 1), np.int64))
    call = (array, sums, grads, ids, spec)
    if message:
        with pytest.raises(ValueError, match=message):
            rn.adagrad_update(*call, state_block=4)
        with pytest.raises(ValueError, match="must be a power of two"):
            rn.adagrad_update(*call, state_block=5)
        assert (to_cpu(array) == 1).all()
    else:
        rn.adagrad_update(*call, state_block=4)


@pytest.mark.parametrize(
    ("dtype", "real"), [*((ids, "float32") for ids in INDEX_DTYPES), ("int64", "float64")]
)
@pytest.mark.parametrize("alignment", [1, 4])
def test_many_reads_of_few_elements_by_ids_of_every_dtype(dtype, real, alignment):
    """The edges of each dtype, and reads that are added up by whole thread blocks."""
    spec = rn.RobeSpec(44, 8, 16, 2, alignment=alignment, sign=True)
    info = np.iinfo(dtype)
    edges = [info.min, *(edge for edge in EDGES if edge <= info.max)]
    crowd = np.random.default_rng(4).integers(0, 3, (CROWD, 2))
    indices = np.concatenate([np.array([edges, edges], dtype).T, crowd.astype(dtype)])
    array = array_for(spec, real, seed=6)
    out = rn.lookup(to_gpu(array), to_gpu(indices), spec)
    np.testing.assert_array_equal(to_cpu(out), numpy_oracle.lookup(array, indices, spec))
    grad_out = whole_numbers((len(indices), 2, 16), real, seed=5)
    result = rn.lookup_backward(to_gpu(grad_out), to_gpu(indices), spec)
    gradient = numpy_oracle.lookup_gradient(grad_out, indices, spec)
    np.testing.assert_array_equal(to_cpu(result), gradient)


@pytest.mark.parametrize("wrong", ["array", "indices", "out", "starts"])
def test_arrays_of_two_devices_are_refused(wrong):
    spec = rn.RobeSpec(100, 8, 8, 2)
    arguments = {
        "array": np.zeros(100, np.float32),
        "indices": np.zeros((3, 2), np.int64),
        "out": np.zeros((3, 2, 8), np.float32),
        "starts": np.zeros((3, 2, 1), np.int64),
    }
    mixed = {name: a if name == wrong else to_gpu(a) for name, a in arguments.items()}
    with pytest.raises(TypeError, match=f"{wrong} is a NumPy array but .* is on a GPU"):
        rn.lookup(spec=spec, **mixed)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"array": np.zeros(99, np.float32)}, ValueError, "array has shape"),
        ({"array": np.zeros(100, np.int32)}, TypeError, "array has dtype int32"),
        ({"indices": np.zeros((3, 3), np.int64)}, ValueError, "indices has shape"),
        ({"indices": np.zeros((3, 2))}, TypeError, "indices has dtype float64"),
        ({"out": np.zeros((3, 2, 9), np.float32)}, ValueError, "out has shape"),
        ({"starts": np.zeros((3, 2, 1), np.int32)}, TypeError, "starts has dtype int32"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    spec = rn.RobeSpec(100, 8, 8, 2)
    arguments = {"array": np.zeros(100, np.float32), "indices": np.zeros((3, 2), np.int64)}
    with pytest.raises(error, match=message):
        rn.lookup(spec=spec, **{name: to_gpu(a) for name, a in (arguments | change).items()})


@pytest.mark.parametrize("dtype", [*REAL_DTYPES, *HALF_DTYPES])
@pytest.mark.parametrize(
    ("block_size", "alignment"), [(8, 4), (4, 4), (32, 8), (16, 16), (12, 12), (16, 1)]
)
def test_aligned_blocks_give_the_same_as_others(block_size, alignment, dtype):
    """Some wrap: the array is hardly longer than a block."""
    spec = rn.RobeSpec(36, block_size, 48, 2, alignment=alignment)
    indices = np.arange(20).reshape(10, 2)
    places = naive.block_starts(indices, spec)
    assert (places + block_size > 36).any() == (alignment < block_size or 36 % block_size > 0)
    array = array_for(spec, dtype, seed=6)
    out = to_cpu(rn.lookup(to_gpu(array), to_gpu(indices), spec))
    np.testing.assert_array_equal(out, naive.lookup(widened(array), indices, spec))


@pytest.mark.parametrize("alignment", [1, 4])
def test_signs_of_blocks_that_are_longer_than_a_word_of_them(alignment):
    """Lanes take the next word together, when none needs the last one."""
    spec = rn.RobeSpec(400, 200, 200, 1, alignment=alignment, sign=True)
    indices, array = np.arange(9).reshape(9, 1), array_for(spec, "float32", seed=6)
    out = to_cpu(rn.lookup(to_gpu(array), to_gpu(indices), spec))
    np.testing.assert_array_equal(out, naive.lookup(array, indices, spec))


@pytest.mark.parametrize(("length", "size"), [(1, 70), (2, 64), (33, 70), (34, 64), (66, 70)])
def test_blocks_at_the_bounds_of_segments_are_found(length, size):
    """A gradient of one block, wherever it begins; starts are the caller's to give."""
    spec = rn.RobeSpec(size, length, length, 1)
    grad_out = np.arange(1, length + 1, dtype=np.float32).reshape(1, 1, length)
    for start in (0, 31, 32, 63, size - length, size - 2, size - 1):
        expected = np.zeros(size)
        expected[(start + np.arange(length)) % size] = grad_out
        starts = to_gpu(np.array([[[start]]]))
        gradient = rn.lookup_backward(to_gpu(grad_out), to_gpu(np.array([[5]])), spec, starts)
        np.testing.assert_array_equal(to_cpu(gradient), expected)


@pytest.mark.parametrize("copies", [1, CROWD])
def test_a_nan_reaches_the_elements_it_belongs_to(copies):
    """Few reads of an element, which a warp adds up, and many, which a thread block does."""
    spec = rn.RobeSpec(40, 4, 4, 1)
    indices = np.zeros((copies, 1), np.int64)
    grad_out = np.ones((copies, 1, 4), np.float32)
    grad_out[0, 0, 1] = np.nan
    place = (naive.block_starts(indices, spec)[0, 0, 0] + 1) % 40
    array = to_gpu(np.zeros(40, np.float32))
    rn.sgd_update(array, to_gpu(grad_out), to_gpu(indices), spec)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(to_cpu(array))), [place])


@pytest.mark.parametrize("start", [-1, 40, 41, 80, 2**62])
def test_no_starts_write_outside(start):
    """They are not looked at, so anything may come out, but nothing may be touched."""
    spec = rn.RobeSpec(40, 8, 8, 2)
    starts = to_gpu(np.full((3, 2, 1), start))
    grads, ids = to_gpu(np.ones((3, 2, 8), np.float32)), to_gpu(np.zeros((3, 2), np.int64))
    assert np.isfinite(to_cpu(rn.lookup_backward(grads, ids, spec, starts))).all()


@given(st.data(), st.sampled_from(HALF_DTYPES))
@few_examples
def test_halves_are_widened(data, dtype):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    half = array_for(spec, dtype, seed=6)
    out = to_cpu(rn.lookup(to_gpu(half), to_gpu(indices), spec))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, naive.lookup(widened(half), indices, spec))


def test_what_is_written_shares_no_memory_with_the_rest():
    spec = rn.RobeSpec(24, 4, 4, 2)
    room = to_gpu(np.zeros(60, np.float32))
    array, state_sum, out = room[:24], room[24:48], room[44:60].reshape(2, 2, 4)
    ids = to_gpu(np.zeros((2, 2), np.int64))
    with pytest.raises(ValueError, match="array and grad_out share memory"):
        rn.sgd_update(array, room[8:24].reshape(2, 2, 4), ids, spec)
    with pytest.raises(ValueError, match="state_sum and grad_out share memory"):
        rn.adagrad_update(array, state_sum, out, ids, spec)
    with pytest.raises(ValueError, match="array and state_sum share memory"):
        rn.adagrad_update(array, array, to_gpu(np.zeros((2, 2, 4), np.float32)), ids, spec)
    with pytest.raises(ValueError, match="out and array share memory"):
        rn.lookup(array, ids, spec, out=room[16:32].reshape(2, 2, 4))
    rn.lookup(array, ids, spec, out=out)  # beside it


def test_arrays_with_gaps_are_refused():
    spec = rn.RobeSpec(100, 8, 8, 2)
    ids = to_gpu(np.zeros((3, 4), np.int64))[:, ::2]
    with pytest.raises(ValueError, match="indices is not C-contiguous"):
        rn.lookup(to_gpu(np.zeros(100, np.float32)), ids, spec)


def test_quantized_arrays_are_for_the_cpu():
    spec = rn.RobeSpec(40, 4, 8, 2)
    stored = rn.quantize(np.ones(40, np.float32), 16)
    there = rn.QuantizedArray(to_gpu(stored.values), to_gpu(stored.scales), 16)
    ids, dense = to_gpu(np.zeros((3, 2), np.int64)), to_gpu(np.ones((3, 8), np.float32))
    bags = to_gpu(np.zeros(4, np.int64)), to_gpu(np.arange(5))
    grads = to_gpu(np.ones((3, 2, 8), np.float32))
    for array in (stored, there):
        for call in (
            lambda a: rn.lookup(a, ids, spec),
            lambda a: rn.lookup_dot_interaction(a, ids, dense, spec),
            lambda a: rn.embedding_bag(a, *bags, spec),
            lambda a: rn.sgd_update(a, grads, ids, spec),
        ):
            with pytest.raises(TypeError, match=r"array is a QuantizedArray, which only the CPU"):
                call(array)
    with pytest.raises(TypeError, match=r"array.values must be a NumPy array, got .*cupy.asnumpy"):
        rn.lookup(there, np.zeros((3, 2), np.int64), spec)
