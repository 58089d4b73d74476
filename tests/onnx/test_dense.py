"""Dense features in ONNX Runtime, beside the transforms of `robe ingest`."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_tools.options import DENSE_TRANSFORMS
from data_tools.sources.criteo.parser import transform_dense
from robe_numba.onnx.graph import Graph
from robe_numba.onnx.layers import transformed
from tests.onnx.sessions import run_graph

finite = st.floats(width=32, allow_nan=True, allow_infinity=False)


def exported(values, transform):
    graph = Graph()
    output = transformed(graph, "dense", transform)
    (found,) = run_graph(graph, [output], dense=values)
    assert found.dtype == np.float32
    return found


@pytest.mark.parametrize("transform", DENSE_TRANSFORMS)
@given(values=arrays(np.float32, (3, 5), elements=finite))
def test_as_ingest_transforms_them(transform, values):
    wanted = transform_dense(values.astype(np.float64), transform)
    # Both take logarithms in float64, whose last bit may differ: so may float32's, seldom.
    np.testing.assert_allclose(exported(values, transform), wanted, rtol=2**-23, atol=1e-45)


RULES = {
    "log1p": lambda x: math.log(max(x, 0) + 1),
    "none": lambda x: x,
    "log3": lambda x: math.log(max(x, -2) + 3),
    "log-squared": lambda x: math.floor(math.log(x) ** 2) if x > 2 else x,
}


@pytest.mark.parametrize("transform", DENSE_TRANSFORMS)
def test_values_that_logs_have(transform):
    numbers = [0, -1, -2, -3, -1e30, 1, 2, 2.5, 3, 7, 65535, 65536, 1e9, 3e38]
    values = np.array([[*numbers, np.nan]], np.float32)
    wanted = [RULES[transform](float(x)) for x in values[0, :-1]] + [RULES[transform](0.0)]
    np.testing.assert_allclose(exported(values, transform)[0], wanted, rtol=2**-23)
