"""Steps by dense gradients check everything before they write."""

import numpy as np
import pytest

from robe_numba.ops.dense import apply_gradient
from tests.support.inputs import read_only

READ_ONLY = read_only(np.ones(100, np.float32))
SHARED = np.ones(150, np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"array": [1.0]}, TypeError, "array must be a NumPy array"),
        ({"array": np.ones(100, np.int32)}, TypeError, "array has dtype int32"),
        ({"array": np.ones(100, np.float16)}, TypeError, "array has dtype float16"),
        ({"array": np.ones(200, np.float32)[::2]}, ValueError, "array is not C-contiguous"),
        ({"array": READ_ONLY}, ValueError, "array is read-only"),
        ({"gradient": np.ones(99, np.float32)}, ValueError, r"gradient has shape \(99,\)"),
        ({"gradient": np.ones((10, 10), np.float32)}, ValueError, "gradient has shape"),
        ({"gradient": np.ones(100)}, TypeError, "gradient has dtype float64"),
        ({"gradient": np.ones(200, np.float32)[::2]}, ValueError, "gradient is not C-contiguous"),
        ({"state_sum": np.ones(100, np.float32)}, ValueError, r"shape \(100,\); expected \(13,\)"),
        ({"state_sum": np.ones((13, 1), np.float32)}, ValueError, r"expected \(13,\)"),
        ({"state_sum": np.ones(13)}, TypeError, "state_sum has dtype float64"),
        ({"state_sum": READ_ONLY[:13]}, ValueError, "state_sum is read-only"),
        ({"state_block": 4}, ValueError, r"has shape \(13,\); expected \(25,\)"),
        ({"state_block": 3}, ValueError, "is 3; it must be a power of two"),
        ({"state_block": 8192}, ValueError, r"state_block is 8192; it must be in \[1, 4096\]"),
        ({"state_block": 8.0}, TypeError, "state_block must be an integer"),
        ({"state_sum": None, "state_block": 3}, ValueError, "is 3; it must be a power of two"),
        ({"lr": -1}, ValueError, "lr is -1"),
        ({"lr": np.nan}, ValueError, "lr is nan"),
        ({"lr": 1e39}, ValueError, "lr is 1e"),  # infinite in float32
        ({"lr": "fast"}, TypeError, "lr must be a number"),
        ({"eps": -1e-9}, ValueError, "eps is -1e-09"),
        ({"eps": np.inf}, ValueError, "eps is inf"),
        ({"array": SHARED[:100], "gradient": SHARED[50:]}, ValueError, "array and gradient share"),
        (
            {"array": SHARED[:100], "state_sum": SHARED[90:103]},
            ValueError,
            "array and state_sum share",
        ),
        (
            {"gradient": SHARED[:100], "state_sum": SHARED[90:103]},
            ValueError,
            "state_sum and gradient",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(change, error, message):
    arguments = {"array": np.ones(100, np.float32), "state_sum": np.ones(13, np.float32)}
    arguments |= {"gradient": np.ones(100, np.float32), "lr": 0.1, "state_block": 8, **change}
    with pytest.raises(error, match=message):
        apply_gradient(**arguments)
    for name in ("array", "state_sum", "gradient"):
        assert arguments[name] is None or (np.asarray(arguments[name]) == 1).all()
