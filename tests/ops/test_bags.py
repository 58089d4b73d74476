"""Tables that pool their bags in ways of their own; and bags of very unequal numbers of ids."""

import ml_dtypes
import numpy as np
import pytest

import robe_numba as rn
from robe_numba import RobeSpec, TableSpec
from tests.support import naive
from tests.support.strategies import MODES, array_for
from tests.support.updates import grad_for

ORDERS = [("sum", "mean", "max"), ("max", "sum", "mean"), ("max", "max", "sum")]
LONG = 10_000


def same_bits(left, right):
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def unequal_bags(spec, mode, dtype=np.float32):
    """Ids, offsets and weights: a table of one bag of 10,000 ids of 50, others short or empty."""
    generator = np.random.default_rng(7)
    sizes = np.array([[0, LONG, 3], [0, 0, 0], [1, 7, 0]])[:, : spec.num_tables].reshape(-1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    weights = generator.integers(-1, 2, offsets[-1]).astype(dtype)
    for table, way in enumerate(mode):
        if way != "sum":
            weights[offsets[3 * table] : offsets[3 * table + 3]] = 1
    return generator.integers(0, 50, offsets[-1]), offsets, weights


@pytest.mark.parametrize("mode", ORDERS)
def test_one_bag_of_many_ids_among_short_ones(mode, set_workers):
    """Whole numbers, whose sums are exact, but not with the rounded factors of a mean."""
    spec = RobeSpec(97, 4, 6, 3)
    ids, offsets, weights = unequal_bags(spec, mode)
    array = array_for(spec, np.float32, seed=1, whole=True)
    grad_out = grad_for(spec, 3, np.float32, whole=True)
    call = (ids, offsets, spec, mode, weights, 9)
    starts = np.empty((ids.size, spec.num_blocks), np.int64)
    out = rn.embedding_bag(array, *call, starts=starts)
    np.testing.assert_array_equal(out, naive.embedding_bag(array, *call))
    np.testing.assert_array_equal(starts, naive.bag_starts(ids, offsets, spec, 9))

    oracle, size = naive.embedding_bag_gradient(grad_out, *call, array=array)
    gradient = rn.embedding_bag_backward(grad_out, *call, array=array)
    # Each of the additions rounds a partial sum that is at most the sum of absolute values.
    rounding = (LONG + 2) * np.finfo(np.float32).eps * ("mean" in mode)
    assert (np.abs(gradient - oracle) <= rounding * size).all()
    moved, slid, state = array.copy(), array.copy(), np.ones(49, np.float32)
    rn.embedding_bag_sgd_update(moved, grad_out, *call, lr=0.5, starts=starts)
    expected = naive.sgd(array, oracle, 0.5)
    assert (np.abs(moved - expected) <= rounding * (size + np.abs(array))).all()

    rn.embedding_bag_adagrad_update(slid, state, grad_out, *call, state_block=2)
    for workers in (1, 2, 3, 50):
        set_workers(workers)
        again, after, sums = array.copy(), array.copy(), np.ones(49, np.float32)
        rn.embedding_bag_sgd_update(again, grad_out, *call, lr=0.5)
        rn.embedding_bag_adagrad_update(after, sums, grad_out, *call, state_block=2)
        assert same_bits(rn.embedding_bag(array, *call), out)
        assert same_bits(rn.embedding_bag_backward(grad_out, *call, array=array), gradient)
        for left, right in ((again, moved), (after, slid), (sums, state)):
            assert same_bits(left, right)


@pytest.mark.parametrize("mode", [*MODES, *ORDERS])
def test_batches_without_ids_or_without_samples(mode):
    spec = RobeSpec(100, 4, 8, 3, sign=True)
    none = np.empty(0, np.int64)
    array = np.full(100, np.nan, np.float32)
    for batch in (0, 2):
        offsets = np.zeros(3 * batch + 1, np.int64)
        out = rn.embedding_bag(array, none, offsets, spec, mode)
        assert same_bits(out, np.zeros((batch, 3, 8), np.float32))
        grad_out = np.ones_like(out)
        gradient = rn.embedding_bag_backward(grad_out, none, offsets, spec, mode, array=array)
        assert not gradient.any()
        moved, state = np.ones_like(array), np.ones(50, np.float32)
        rn.embedding_bag_sgd_update(moved, grad_out, none, offsets, spec, mode)
        rn.embedding_bag_adagrad_update(
            moved, state, grad_out, none, offsets, spec, mode, state_block=2
        )
        assert (moved == 1).all()
        assert (state == 1).all()


STORAGES = {
    "float32": lambda array: array,
    "float64": lambda array: array.astype(np.float64),
    "float16": lambda array: array.astype(np.float16),
    "bfloat16": lambda array: array.astype(ml_dtypes.bfloat16),
    "int8": lambda array: rn.quantize(array, 16),
}
SPECS = {
    "vectors": RobeSpec(9000, 96, 200, 3),
    "signs": RobeSpec(9000, 24, 40, 3, sign=True),
    "wraps": RobeSpec(101, 40, 90, 3, alignment=8),
    "rows": TableSpec((40, 40, 40), 20),
}


def many_bags(spec, mode, dtype, weighted):
    """A batch of 30 bags of up to 39 ids for each of three tables, with repeated ids."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(0, 40, 90) * (generator.random(90) < 0.8)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ids, weights = generator.integers(0, 40, offsets[-1]), None
    if weighted:
        weights = generator.standard_normal(ids.size).astype(dtype)
        weights[generator.random(ids.size) < 0.1] = 0
        for table, way in enumerate(mode):
            if way != "sum":
                weights[offsets[30 * table] : offsets[30 * table + 30]] = 1
    return ids, offsets, weights


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", [*ORDERS, ("mean", "sum", "sum"), ("max", "mean", "mean")])
def test_each_table_is_pooled_as_in_a_call_with_its_mode_for_all(mode, weighted, name):
    spec = SPECS[name]
    array = array_for(spec, np.float32, seed=4)
    for storage, store in STORAGES.items():
        stored = store(array)
        dtype = np.float64 if storage == "float64" else np.float32
        ids, offsets, weights = many_bags(spec, mode, dtype, weighted)
        out = rn.embedding_bag(stored, ids, offsets, spec, mode, weights, 5)
        for table, way in enumerate(mode):
            factors = weights if way == "sum" else None
            alone = rn.embedding_bag(stored, ids, offsets, spec, way, factors, 5)
            assert same_bits(out[:, table], alone[:, table])


def table_of(spec, array, table):
    """The elements of a table of a `TableSpec`, or its sums of squares."""
    return array.reshape(spec.num_tables, -1)[table]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", [*ORDERS, ("mean", "sum", "sum"), ("max", "mean", "mean")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_table_moves_as_in_a_call_with_its_mode_for_all(mode, weighted, dtype):
    """Plain tables share no elements, so what one has does not depend on the others."""
    spec = SPECS["rows"]
    ids, offsets, weights = many_bags(spec, mode, dtype, weighted)
    array = array_for(spec, dtype, seed=5)
    grad_out = grad_for(spec, 30, dtype)

    def steps(way, factors):
        call = (ids, offsets, spec, way, factors, 5)
        moved, slid, state = array.copy(), array.copy(), np.ones(array.size // 4, dtype)
        rn.embedding_bag_sgd_update(moved, grad_out, *call)
        rn.embedding_bag_adagrad_update(slid, state, grad_out, *call, state_block=4)
        return rn.embedding_bag_backward(grad_out, *call, array=array), moved, slid, state

    found = steps(mode, weights)
    for table, way in enumerate(mode):
        alone = steps(way, weights if way == "sum" else None)
        for mine, other in zip(found, alone, strict=True):
            assert same_bits(table_of(spec, mine, table), table_of(spec, other, table))


def test_weights_of_the_ids_of_means_and_maxima_are_one():
    spec, offsets = TableSpec((9, 9), 4), np.array([0, 1, 3])
    array, weights = array_for(spec, np.float32, seed=6), np.array([0.5, 1, 1], np.float32)
    out = rn.embedding_bag(array, np.array([3, 4, 5]), offsets, spec, ["sum", "mean"], weights)
    rows = array.reshape(18, 4)
    np.testing.assert_array_equal(out[0], [rows[3] / 2, (rows[13] + rows[14]) / 2])
    for wrong in (np.nextafter(np.float32(1), np.float32(2)), 0, np.nan):
        weights[2] = wrong
        with pytest.raises(
            ValueError, match=r"per_sample_weights\[2\] .* table 1 has another mode"
        ):
            rn.embedding_bag(array, np.array([3, 4, 5]), offsets, spec, ["sum", "max"], weights)
