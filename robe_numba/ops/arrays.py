"""Making the arrays that hold embeddings."""

import math
from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.memory import aligned_empty
from robe_numba.spec import Spec, check_int


def default_scale(spec: Spec) -> float:
    """Half-width of the initial values: sqrt(1 / rows of the largest table), as published.

    Without table sizes it is 1 / sqrt(d), the publication's value for other models.
    """
    rows = max(spec.num_embeddings) if spec.num_embeddings else spec.embedding_dim
    return math.sqrt(1 / rows)


def init_array(
    spec: Spec, scale: float | None = None, seed: int = 0, dtype: Any = np.float32
) -> np.ndarray:
    """A new array of uniform random values in [-scale, scale).

    Parameters
    ----------
    spec : RobeSpec or TableSpec
        What the array is for.
    scale : float, optional
        Half-width of the distribution; None for `default_scale(spec)`.
    seed : int
        In [0, 2**64); the same seed gives the same bits.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    ndarray, (array_size,) of `dtype`
        It begins a cache line.

    Raises
    ------
    TypeError, ValueError
        Scale or seed is not a number or out of range, or another dtype.
    """
    check_spec(spec)
    seed = check_int("seed", seed, 0, 2**64 - 1)
    if dtype is None or np.dtype(dtype) not in ARRAY_DTYPES:
        raise TypeError(f"dtype is {dtype}; use float32 or float64")
    dtype = np.dtype(dtype)
    scale = default_scale(spec) if scale is None else check_scalar("scale", scale, 0, dtype)
    check_scalar("the width of the initial values, 2 * scale,", 2 * scale, 0, dtype)
    array = aligned_empty((spec.array_size,), dtype)
    np.random.default_rng(seed).random(dtype=dtype, out=array)
    array *= dtype.type(2 * scale)
    array -= dtype.type(scale)
    return array
