"""New arrays: seeded, uniform and scaled."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba import RobeSpec
from tests.support.inputs import SPEC


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"scale": -1.0}, ValueError, "scale is -1"),
        ({"scale": np.nan}, ValueError, "scale is nan"),
        ({"scale": 1e39}, ValueError, "scale is 1e"),
        ({"scale": 1e308, "dtype": np.float64}, ValueError, "2 \\* scale, is inf"),
        ({"scale": "1"}, TypeError, "scale must be a number"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"seed": True}, TypeError, "seed must be an integer"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"dtype": None}, TypeError, "float32 or float64"),
    ],
)
def test_init_array_checks_its_arguments(call, error, words):
    with pytest.raises(error, match=words):
        rn.init_array(SPEC, **call)


def test_init_array_is_seeded_uniform_and_scaled():
    spec = RobeSpec(100_000, 4, 16, 1, num_embeddings=(400,))
    values = rn.init_array(spec, seed=3)
    assert values.dtype == np.float32
    assert values.shape == (100_000,)
    assert values.tobytes() == rn.init_array(spec, seed=3).tobytes()
    assert values.tobytes() != rn.init_array(spec, seed=4).tobytes()
    bound = np.sqrt(1 / 400)  # the published choice for DLRM
    assert bound * 0.999 < np.abs(values).max() <= bound
    # The standard deviation of a uniform value is bound / sqrt(3); of its estimate, far below 2 %.
    assert abs(values.std() * np.sqrt(3) / bound - 1) < 0.02
    assert np.abs(rn.init_array(spec, scale=7.0)).max() > 6.9
    assert rn.init_array(spec, dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="float32 or float64"):
        rn.init_array(spec, dtype=np.float16)
