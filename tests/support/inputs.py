"""Good arguments of the public functions, and ways to spoil an array."""

import numpy as np
import pytest

from robe_numba import RobeSpec

SPEC = RobeSpec(100, 4, 8, 2, num_embeddings=(10, 20))
FREE = RobeSpec(100, 4, 8, 2)
INDICES = np.array([[1, 2], [3, 4], [5, 6]])
BAG_INDICES = np.array([1, 2, 3, 4, 15])
OFFSETS = np.array([0, 2, 2, 3, 5])  # two samples of two tables
GRAD = np.ones((3, 2, 8), np.float32)
BAG_GRAD = np.ones((2, 2, 8), np.float32)


def array():
    return np.linspace(-1, 1, 100, dtype=np.float32)


def strided(values):
    """The same values, not contiguous."""
    wide = np.empty((*values.shape, 2), values.dtype)
    wide[..., 0] = values
    return wide[..., 0]


def read_only(values):
    values.flags.writeable = False
    return values


def unaligned(values):
    raw = np.empty(values.nbytes + 1, np.uint8)
    view = raw[1:].view(values.dtype).reshape(values.shape)
    view[:] = values
    return view


def masked(values):
    """A subclass whose comparisons skip elements that a kernel would read."""
    return np.ma.array(values, mask=np.ones(values.shape, bool))


def advised(name, values, refuse):
    """The array that a message says to use instead of one of a wrong dtype."""
    with pytest.raises(TypeError, match=f"{name} has dtype") as caught:
        refuse(values)
    _, advice = str(caught.value).split(": use ")
    return eval(advice, {name: values, "numpy": np})
