"""Updates check everything before they write."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba import RobeSpec
from tests.support.inputs import (
    BAG_GRAD,
    BAG_INDICES,
    FREE,
    GRAD,
    INDICES,
    OFFSETS,
    SPEC,
    array,
    masked,
    read_only,
    strided,
)


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"array": read_only(array())}, ValueError, "array is read-only"),
        ({"state_sum": read_only(array())}, ValueError, "state_sum is read-only"),
        ({"state_sum": array().astype(np.float64)}, TypeError, "state_sum has dtype float64"),
        ({"state_sum": array()[:9]}, ValueError, "state_sum has shape"),
        ({"grad_out": GRAD[:2]}, ValueError, r"grad_out has shape \(2, 2, 8\)"),
        ({"grad_out": GRAD.astype(np.float64)}, TypeError, "grad_out has dtype float64"),
        ({"grad_out": GRAD.tolist()}, TypeError, "grad_out must be a NumPy array"),
        ({"grad_out": strided(GRAD)}, ValueError, "grad_out is not C-contiguous"),
        ({"state_sum": None}, TypeError, "state_sum must be a NumPy array, got NoneType"),
        ({"array": None}, TypeError, "array must be a NumPy array, got NoneType"),
        ({"grad_out": None}, TypeError, "grad_out must be a NumPy array, got NoneType"),
        ({"indices": None}, TypeError, "indices must be a NumPy array, got NoneType"),
        ({"grad_out": masked(GRAD)}, TypeError, "grad_out must be a NumPy array"),
        ({"state_sum": masked(array())}, TypeError, "state_sum must be a NumPy array"),
        ({"lr": float("nan")}, ValueError, "lr is nan"),
        ({"lr": -0.1}, ValueError, "lr is -0.1"),
        ({"lr": 1e39}, ValueError, r"lr is 1e\+39; .* to 3.4e\+38"),  # infinite in float32
        ({"lr": 10**400}, ValueError, "lr is inf"),
        ({"lr": "0.1"}, TypeError, "lr must be a number"),
        ({"lr": True}, TypeError, "lr must be a number"),
        ({"lr": np.array(0.1)}, TypeError, "lr must be a number"),
        ({"eps": float("inf")}, ValueError, "eps is inf"),
        ({"spec": "robe"}, TypeError, "spec must be a RobeSpec"),
    ],
)
@pytest.mark.parametrize("bags", [False, True])
@pytest.mark.parametrize("adagrad", [False, True])
def test_updates_check_what_they_write(bad, error, words, bags, adagrad):
    good = {"array": array(), "grad_out": GRAD, "indices": INDICES, "spec": SPEC, "lr": 0.1}
    if adagrad:
        good |= {"state_sum": np.zeros(100, np.float32), "eps": 0.0}
    elif not set(bad) <= set(good):
        return  # SGD has no such argument
    if bags:  # one id per bag, table-major
        good |= {"indices": INDICES.T.reshape(-1).copy(), "offsets": np.arange(7)}
    function = {
        (False, False): rn.sgd_update,
        (False, True): rn.adagrad_update,
        (True, False): rn.embedding_bag_sgd_update,
        (True, True): rn.embedding_bag_adagrad_update,
    }[bags, adagrad]
    with pytest.raises(error, match=words):
        function(**{**good, **bad})
    np.testing.assert_array_equal(good["array"], array())
    function(**good)
    assert (good["array"] != array()).any()


def test_arrays_that_share_memory_are_refused():
    values = array()
    with pytest.raises(ValueError, match="array and state_sum share memory"):
        rn.adagrad_update(values, values, GRAD, INDICES, SPEC)
    spec = RobeSpec(48, 4, 8, 2)
    values = np.ones(48, np.float32)
    with pytest.raises(ValueError, match="array and grad_out share memory"):
        rn.sgd_update(values, values.reshape(3, 2, 8), INDICES, spec)
    wide = np.ones(100)
    ids = wide[:6].view(np.int64).reshape(3, 2)
    with pytest.raises(ValueError, match="array and indices share memory"):
        rn.sgd_update(wide, GRAD.astype(np.float64), ids, FREE)
    with pytest.raises(ValueError, match="state_sum and indices share memory"):
        rn.adagrad_update(wide.copy(), wide, GRAD.astype(np.float64), ids, FREE)
    weights = values[:5]
    bags = (BAG_GRAD, BAG_INDICES, OFFSETS, RobeSpec(48, 4, 8, 2), "sum", weights)
    with pytest.raises(ValueError, match="array and per_sample_weights share memory"):
        rn.embedding_bag_sgd_update(values, *bags)
    with pytest.raises(ValueError, match="state_sum and per_sample_weights share memory"):
        rn.embedding_bag_adagrad_update(values.copy(), values, *bags)
    with pytest.raises(ValueError, match="state_sum and grad_out share memory"):
        rn.adagrad_update(np.ones(48, np.float32), values, values.reshape(3, 2, 8), INDICES, spec)
