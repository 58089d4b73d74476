"""Bad bags: an error that names the argument, and nothing written."""

import numpy as np
import pytest

import robe_numba as rn
from tests.support.inputs import BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, array, masked


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"indices": BAG_INDICES.reshape(5, 1)}, ValueError, "one dimension"),
        ({"indices": np.array([1, 2, 20, 4, 15])}, ValueError, r"indices\[2\] is 20, but table 1"),
        ({"indices": np.array([1, 10, 3, 4, 15])}, ValueError, r"indices\[1\] is 10, but table 0"),
        ({"offsets": masked(OFFSETS)}, TypeError, "offsets must be a NumPy array, got numpy.ma"),
        (
            {"indices": masked(BAG_INDICES)},
            TypeError,
            "indices must be a NumPy array, got numpy.ma",
        ),
        ({"indices": [[1], [2, 3]]}, TypeError, "indices must be a NumPy array, got list"),
        ({"mode": np.array("sum")}, ValueError, "sum, mean, max"),
        ({"mode": 3}, ValueError, "mode is 3; choose one of sum, mean, max"),
        ({"mode": ["sum"]}, ValueError, "mode has 1 values but there are 2 tables"),
        ({"mode": ("sum", "median")}, ValueError, r"mode\[1\] is 'median'; choose one of sum"),
        ({"mode": ["sum", None]}, ValueError, r"mode\[1\] is None; choose one of sum"),
        (
            {"mode": ["sum", "max"], "per_sample_weights": np.array([3, 2, 1, 0, 1], np.float32)},
            ValueError,
            r"per_sample_weights\[3\] is 0.0, but table 1 has another mode than 'sum'",
        ),
        ({"padding_idx": np.array(3.7)}, TypeError, "padding_idx must be an integer"),
        (
            {"per_sample_weights": masked(np.ones(5, np.float32))},
            TypeError,
            "per_sample_weights must",
        ),
        ({"offsets": OFFSETS.astype(float)}, TypeError, "offsets has dtype float64"),
        ({"offsets": OFFSETS[:-1]}, ValueError, "offsets has shape"),
        ({"offsets": np.array([], np.int64)}, ValueError, "offsets has shape"),
        ({"offsets": np.array([1, 2, 2, 3, 5])}, ValueError, "first offset must be 0"),
        ({"offsets": np.array([0, 2, 1, 3, 5])}, ValueError, "falls from 2 to 1 at bag 1"),
        ({"offsets": np.array([0, 2, 2, 3, 6])}, ValueError, "ends at 6 but there are 5"),
        ({"offsets": np.array([0, 0, 0, 0, 2**64 - 1], np.uint64)}, ValueError, "offsets ends"),
        ({"mode": "median"}, ValueError, "sum, mean, max"),
        ({"padding_idx": 1.5}, TypeError, "padding_idx must be an integer"),
        ({"padding_idx": 2**64}, ValueError, "padding_idx is"),
        (
            {"per_sample_weights": np.ones(4, np.float32)},
            ValueError,
            "per_sample_weights has shape",
        ),
        ({"per_sample_weights": np.ones(5)}, TypeError, "per_sample_weights has dtype float64"),
        (
            {"per_sample_weights": np.ones(5, np.float32), "mode": "mean"},
            ValueError,
            "with mode 'sum' alone",
        ),
    ],
)
def test_every_bag_function_checks_the_bags_and_writes_nothing(bad, error, words):
    values, state = array(), np.zeros(100, np.float32)
    call = {"indices": BAG_INDICES, "offsets": OFFSETS, "spec": SPEC, **bad}
    batch = max(len(call["offsets"]) - 1, 0) // 2
    grad_out = np.ones((batch, 2, 8), np.float32)
    for function, arrays in (
        (rn.embedding_bag, {"array": values}),
        (rn.embedding_bag_backward, {"grad_out": grad_out, "array": values}),
        (rn.embedding_bag_sgd_update, {"array": values, "grad_out": grad_out}),
        (
            rn.embedding_bag_adagrad_update,
            {"array": values, "state_sum": state, "grad_out": grad_out},
        ),
    ):
        with pytest.raises(error, match=words):
            function(**arrays, **call)
    np.testing.assert_array_equal(values, array())
    assert not state.any()


def test_max_backward_needs_the_array():
    with pytest.raises(ValueError, match="pass array="):
        rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max")


def test_a_padded_id_may_lie_outside_its_table():
    indices = np.array([1, -1, 3, -1, 15])
    out = rn.embedding_bag(array(), indices, OFFSETS, SPEC, padding_idx=-1)
    without = rn.embedding_bag(array(), np.array([1, 3, 15]), np.array([0, 1, 1, 2, 3]), SPEC)
    np.testing.assert_array_equal(out, without)


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint64])
def test_padding_idx_may_be_any_integer(kind):
    out = rn.embedding_bag(array(), BAG_INDICES, OFFSETS, SPEC, padding_idx=kind(3))
    without = rn.embedding_bag(array(), np.array([1, 2, 4, 15]), np.array([0, 2, 2, 2, 4]), SPEC)
    np.testing.assert_array_equal(out, without)
