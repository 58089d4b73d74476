"""Bags on a GPU: starts and forward as the oracle to the bit, gradients and updates exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robe_numba as rn
from tests.gpu.conftest import to_cpu, to_gpu
from tests.gpu.examples import CROWD, bags_for, few_examples, real_dtypes, specs
from tests.support import naive
from tests.support.strategies import (
    HALF_DTYPES,
    INDEX_DTYPES,
    REAL_DTYPES,
    array_for,
    widened,
)


def on_gpu(bags):
    """The arguments of a call: ids, offsets, and by name what says how to pool."""
    weights = None if bags.weights is None else to_gpu(bags.weights)
    options = {"per_sample_weights": weights, "padding_idx": bags.padding_idx}
    return (to_gpu(bags.indices), to_gpu(bags.offsets)), {"mode": bags.mode, **options}


@given(st.data(), real_dtypes)
@few_examples
def test_embedding_bag_equals_the_oracle(data, dtype):
    spec = data.draw(specs)
    bags = data.draw(bags_for(spec, dtype))
    array = array_for(spec, dtype, seed=1)
    expected = naive.embedding_bag(array, *bags[:2], spec, *bags[2:])
    places = naive.bag_starts(*bags[:2], spec, bags.padding_idx)
    (ids, offsets), options = on_gpu(bags)
    out, starts = to_gpu(np.full_like(expected, np.nan)), to_gpu(np.full_like(places, -7))
    result = rn.embedding_bag(to_gpu(array), ids, offsets, spec, out=out, starts=starts, **options)
    assert result is out
    np.testing.assert_array_equal(to_cpu(out), expected)
    np.testing.assert_array_equal(to_cpu(starts), places)
    out = rn.embedding_bag(to_gpu(array), ids, offsets, spec, **options)
    np.testing.assert_array_equal(to_cpu(out), expected)


@pytest.mark.parametrize("mode", ["sum", "weighted", "mean", "max", ("mean", "max")])
@pytest.mark.parametrize("dtype", [*REAL_DTYPES, *HALF_DTYPES])
@pytest.mark.parametrize("alignment", [1, 4, 8])
def test_aligned_blocks_give_the_same_as_others(alignment, dtype, mode):
    """Many wrap: the array is hardly longer than a block."""
    spec = rn.RobeSpec(40, 8, 16, 2, alignment=alignment)
    generator = np.random.default_rng(4)
    offsets = np.array([0, 3, 3, 8, 9, 14, 15])
    indices, weights = generator.integers(0, 9, 15), None
    array = array_for(spec, dtype, seed=5)
    if mode == "weighted":
        mode, weights = "sum", generator.normal(size=15).astype(widened(array).dtype)
    wide = widened(array)
    expected = naive.embedding_bag(wide, indices, offsets, spec, mode, weights, 4)
    weights = None if weights is None else to_gpu(weights)
    out = rn.embedding_bag(*map(to_gpu, (array, indices, offsets)), spec, mode, weights, 4)
    np.testing.assert_array_equal(to_cpu(out), expected)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize(
    ("ids", "bounds"), [*zip(INDEX_DTYPES, INDEX_DTYPES[1:] + INDEX_DTYPES[:1], strict=True)]
)
def test_ids_and_offsets_of_every_dtype(ids, bounds, mode):
    spec = rn.RobeSpec(40, 8, 16, 2, sign=True)
    offsets = np.array([0, 3, 3, 8, 9, 9, 10], bounds)
    indices = np.array([0, 3, np.iinfo(ids).max, np.iinfo(ids).min, 7, 3, 0, 1, 9, 2], ids)
    array = array_for(spec, np.float32, seed=5)
    expected = naive.embedding_bag(array, indices, offsets, spec, mode, None, 3)
    inputs = tuple(map(to_gpu, (array, indices, offsets)))
    out = rn.embedding_bag(*inputs, spec, mode, padding_idx=3)
    np.testing.assert_array_equal(to_cpu(out), expected)
    if mode != "mean":  # whose factors are rounded
        grad_out = np.arange(96, dtype=np.float32).reshape(3, 2, 16)
        options = (mode, None, 3, array)
        gradient, _ = naive.embedding_bag_gradient(grad_out, indices, offsets, spec, *options)
        found = rn.embedding_bag_backward(
            to_gpu(grad_out), *inputs[1:], spec, mode, padding_idx=3, array=inputs[0]
        )
        np.testing.assert_array_equal(to_cpu(found), gradient)


@given(st.data(), real_dtypes, st.booleans())
@few_examples
def test_updates_equal_the_oracle(data, dtype, keep):
    spec = data.draw(specs)
    bags = data.draw(bags_for(spec, dtype, whole=True))
    array = array_for(spec, dtype, seed=2, whole=True)
    shape = ((len(bags.offsets) - 1) // spec.num_tables, spec.num_tables, spec.embedding_dim)
    grad_out = np.random.default_rng(3).integers(-9, 10, shape).astype(dtype)
    gradient, size = naive.embedding_bag_gradient(grad_out, *bags[:2], spec, *bags[2:], array=array)
    # Whole numbers add up exactly; a mean's factor and its products are rounded.
    tolerance = 4 * np.finfo(dtype).eps * size * ("mean" in bags.mode)
    (ids, offsets), options = on_gpu(bags)
    grads, values = to_gpu(grad_out), to_gpu(array)
    if keep:
        starts = to_gpu(naive.bag_starts(*bags[:2], spec, bags.padding_idx))
        options["starts"] = starts
    result = rn.embedding_bag_backward(grads, ids, offsets, spec, array=values, **options)
    assert np.all(np.abs(to_cpu(result) - gradient) <= tolerance)
    moved = to_gpu(array)
    rn.embedding_bag_sgd_update(moved, grads, ids, offsets, spec, lr=0.5, **options)
    expected = array - to_cpu(result) / 2
    rounding = np.finfo(dtype).eps * np.abs(expected) * ("mean" in bags.mode)
    assert np.all(np.abs(to_cpu(moved) - expected) <= rounding)
    state_block = 8 if keep else 1
    before = np.abs(array)[: -(-array.size // state_block)]
    moved, sums = to_gpu(array), to_gpu(before)
    step = {"lr": 0.5, "eps": 1e-3, "state_block": state_block}
    rn.embedding_bag_adagrad_update(moved, sums, grads, ids, offsets, spec, **step, **options)
    rule = (to_cpu(result), 0.5, 1e-3)
    expected, expected_sums = naive.block_adagrad(array, before, *rule, state_block)
    eps = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(to_cpu(sums), expected_sums, rtol=eps)
    np.testing.assert_allclose(to_cpu(moved), expected, rtol=eps, atol=eps)


@pytest.mark.parametrize("offsets", [[0, 9, -3, 5, 99], [5, 5, 4, 0, 2], [0, 0, 0, 0, 2**40]])
@pytest.mark.parametrize("mode", ["sum", "mean", "max", ("max", "mean"), ("sum", "max")])
def test_no_offsets_read_or_write_outside(offsets, mode):
    """They are not looked at, so anything may come out, but nothing may be touched."""
    spec = rn.RobeSpec(64, 8, 8, 2)
    ids, bounds = to_gpu(np.arange(5)), to_gpu(np.array(offsets))
    array = to_gpu(np.ones(64, np.float32))
    assert to_cpu(rn.embedding_bag(array, ids, bounds, spec, mode)).shape == (2, 2, 8)
    grads = to_gpu(np.ones((2, 2, 8), np.float32))
    rn.embedding_bag_sgd_update(array, grads, ids, bounds, spec, mode)
    assert np.isfinite(to_cpu(array)).all()


@pytest.mark.parametrize("start", [-1, 64, 65, 200, 2**62])
@pytest.mark.parametrize("mode", ["sum", "mean", "max", ("max", "mean"), ("sum", "max")])
def test_no_starts_read_or_write_outside(start, mode):
    spec = rn.RobeSpec(64, 8, 8, 2)
    ids, bounds = to_gpu(np.arange(5)), to_gpu(np.array([0, 2, 2, 4, 5]))
    array, starts = to_gpu(np.ones(64, np.float32)), to_gpu(np.full((5, 1), start))
    grads = to_gpu(np.ones((2, 2, 8), np.float32))
    rn.embedding_bag_sgd_update(array, grads, ids, bounds, spec, mode, starts=starts)
    assert np.isfinite(to_cpu(array)).all()
    np.testing.assert_array_equal(to_cpu(starts), start)


@pytest.mark.parametrize(
    "mode", [("sum", "max", "sum"), ("max", "sum", "max"), ("mean", "max", "sum")]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_crowds_of_reads_of_tables_with_modes_of_their_own(mode, weighted):
    """Enough reads of few places for chunks, and ids that win a maximum beside ids that add up."""
    spec = rn.RobeSpec(100, 8, 20, 3, sign=True)
    generator = np.random.default_rng(6)
    offsets = np.array([0, CROWD, CROWD, CROWD + 3, 2 * CROWD, 2 * CROWD + 4, 3 * CROWD])
    ids = generator.integers(0, 3, offsets[-1])
    array = array_for(spec, np.float32, seed=7, whole=True)
    grad_out = generator.integers(-3, 4, (2, 3, 20)).astype(np.float32)
    weights = None
    if weighted:
        weights = generator.integers(-1, 2, ids.size).astype(np.float32)
        for table, way in enumerate(mode):
            if way != "sum":
                weights[offsets[2 * table] : offsets[2 * table + 2]] = 1
    call = (ids, offsets, spec, mode, weights, 2)
    inputs = [to_gpu(a) if isinstance(a, np.ndarray) else a for a in call]
    out = rn.embedding_bag(to_gpu(array), *inputs)
    np.testing.assert_array_equal(to_cpu(out), naive.embedding_bag(array, *call))
    found = rn.embedding_bag_backward(to_gpu(grad_out), *inputs, array=to_gpu(array))
    gradient, size = naive.embedding_bag_gradient(grad_out, *call, array=array)
    # Whole numbers add up exactly, but a mean's factors and their sums are rounded.
    rounding = (ids.size + 2) * np.finfo(np.float32).eps * ("mean" in mode)
    assert np.all(np.abs(to_cpu(found) - gradient) <= rounding * size)
    moved = to_gpu(array)
    rn.embedding_bag_sgd_update(moved, to_gpu(grad_out), *inputs, lr=0.5)
    expected = naive.sgd(array, gradient, 0.5)
    assert np.all(np.abs(to_cpu(moved) - expected) <= rounding * (size + np.abs(array)))


def test_modes_for_each_table_are_checked():
    arrays = (np.zeros(64, np.float32), np.zeros(5, np.int64), np.array([0, 1, 2, 4, 5]))
    call = (*map(to_gpu, arrays), rn.RobeSpec(64, 8, 8, 2))
    with pytest.raises(ValueError, match="mode has 3 values but there are 2 tables"):
        rn.embedding_bag(*call, ["sum"] * 3)
    grad_out = to_gpu(np.zeros((2, 2, 8), np.float32))
    with pytest.raises(ValueError, match="pass array="):
        rn.embedding_bag_backward(grad_out, *call[1:], ["sum", "max"])


def test_a_nan_is_the_largest():
    spec = rn.TableSpec((3,), 2)
    array = np.array([1, np.nan, np.nan, 5, 2, 6], np.float32)
    out = rn.embedding_bag(
        to_gpu(array), to_gpu(np.array([0, 1, 2])), to_gpu(np.array([0, 3])), spec, "max"
    )
    assert np.isnan(to_cpu(out)).all()


def test_what_is_written_shares_no_memory_with_the_rest():
    spec = rn.RobeSpec(24, 4, 4, 1)
    room = to_gpu(np.zeros(60, np.float32))
    array, state_sum = room[:24], room[24:48]
    ids, bounds = to_gpu(np.zeros(2, np.int64)), to_gpu(np.array([0, 1, 2]))
    apart = to_gpu(np.zeros((2, 1, 4), np.float32))
    with pytest.raises(ValueError, match="array and grad_out share memory"):
        rn.embedding_bag_sgd_update(array, room[20:28].reshape(2, 1, 4), ids, bounds, spec)
    overlapping = room[44:52].reshape(2, 1, 4)
    with pytest.raises(ValueError, match="state_sum and grad_out share memory"):
        rn.embedding_bag_adagrad_update(array, state_sum, overlapping, ids, bounds, spec)
    with pytest.raises(ValueError, match="array and state_sum share memory"):
        rn.embedding_bag_adagrad_update(array, array, apart, ids, bounds, spec)
    with pytest.raises(ValueError, match="out and array share memory"):
        rn.embedding_bag(array, ids, bounds, spec, out=room[16:24].reshape(2, 1, 4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"offsets": np.zeros(4, np.int64)}, ValueError, "offsets has shape"),
        ({"indices": np.zeros((5, 1), np.int64)}, ValueError, "bags take one dimension"),
        (
            {"per_sample_weights": np.ones(4, np.float32)},
            ValueError,
            "per_sample_weights has shape",
        ),
        ({"per_sample_weights": np.ones(5)}, TypeError, "per_sample_weights has dtype float64"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    arguments = {
        "array": np.zeros(64, np.float32),
        "indices": np.zeros(5, np.int64),
        "offsets": np.array([0, 1, 2, 4, 5]),
    }
    arrays = {name: to_gpu(array) for name, array in (arguments | change).items()}
    with pytest.raises(error, match=message):
        rn.embedding_bag(spec=rn.RobeSpec(64, 8, 8, 2), **arrays)


def test_weights_go_with_sums_alone():
    arrays = (np.zeros(64, np.float32), np.zeros(5, np.int64), np.array([0, 1, 2, 4, 5]))
    weights = to_gpu(np.ones(5, np.float32))
    with pytest.raises(ValueError, match="mode 'sum' alone"):
        rn.embedding_bag(*map(to_gpu, arrays), rn.RobeSpec(64, 8, 8, 2), "mean", weights)
