"""Starts that a caller hands to an update: within the array, and never written to."""

import numpy as np
import pytest

import robe_numba as rn
from tests.support.inputs import (
    BAG_GRAD,
    BAG_INDICES,
    GRAD,
    INDICES,
    OFFSETS,
    SPEC,
    array,
    read_only,
    strided,
    unaligned,
)


def step_calls(starts, bag_starts):
    """Each function that takes starts, and what it may write."""
    values, state = array(), np.zeros(100, np.float32)
    bags = (BAG_GRAD, BAG_INDICES, OFFSETS, SPEC)
    written = (values, state)
    return [
        (lambda: rn.lookup_backward(GRAD, INDICES, SPEC, starts=starts), written),
        (lambda: rn.sgd_update(values, GRAD, INDICES, SPEC, starts=starts), written),
        (lambda: rn.adagrad_update(values, state, GRAD, INDICES, SPEC, starts=starts), written),
        (lambda: rn.embedding_bag_backward(*bags, starts=bag_starts), written),
        (
            lambda: rn.embedding_bag_backward(*bags, "max", array=values, starts=bag_starts),
            written,
        ),
        (lambda: rn.embedding_bag_sgd_update(values, *bags, starts=bag_starts), written),
        (
            lambda: rn.embedding_bag_adagrad_update(values, state, *bags, starts=bag_starts),
            written,
        ),
    ]


@pytest.mark.parametrize("bad", [100, -2, -100, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("place", [0, -1])
def test_starts_outside_the_array_are_refused(bad, place):
    starts, bag_starts = np.zeros((3, 2, 2), np.int64), np.zeros((5, 2), np.int64)
    starts.reshape(-1)[place] = bag_starts.reshape(-1)[place] = bad
    for call, (values, state) in step_calls(starts, bag_starts):
        with pytest.raises(ValueError, match="starts has a value outside the array, which has 100"):
            call()
        np.testing.assert_array_equal(values, array())
        assert not state.any()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda good: good.tolist(), TypeError, "must be a NumPy array, got list"),
        (lambda good: good.astype(np.int32), TypeError, "has dtype int32"),
        (lambda good: good.view(np.uint64), TypeError, "has dtype uint64"),
        (lambda good: good[..., :1].copy(), ValueError, "has shape"),
        (lambda good: good.reshape(-1), ValueError, "has shape"),
        (strided, ValueError, "is not C-contiguous"),
        (unaligned, ValueError, "is not aligned"),
    ],
)
def test_starts_are_checked(spoil, error, words):
    spoiled = (spoil(np.zeros((3, 2, 2), np.int64)), spoil(np.zeros((5, 2), np.int64)))
    for call, (values, state) in step_calls(*spoiled):
        with pytest.raises(error, match=f"starts {words}"):
            call()
        np.testing.assert_array_equal(values, array())
        assert not state.any()


def test_starts_at_the_ends_of_the_array_are_taken():
    """Any start in the array is safe, and -1 means no read."""
    starts = np.array([[[0, 99], [-1, -1]]])
    gradient = rn.lookup_backward(np.ones((1, 2, 8), np.float32), INDICES[:1], SPEC, starts=starts)
    np.testing.assert_array_equal(np.flatnonzero(gradient), [0, 1, 2, 3, 99])
    np.testing.assert_array_equal(gradient[[0, 1, 2, 3, 99]], [2, 2, 2, 1, 1])
    read_only(starts)
    again = rn.lookup_backward(np.ones((1, 2, 8), np.float32), INDICES[:1], SPEC, starts=starts)
    np.testing.assert_array_equal(again, gradient)


def test_a_backward_pass_does_not_write_to_the_starts_that_it_is_given():
    starts = np.zeros((5, 2), np.int64)
    for call, _ in step_calls(np.zeros((3, 2, 2), np.int64), starts):
        call()
        assert not starts.any()
