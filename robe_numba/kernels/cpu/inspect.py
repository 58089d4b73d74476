"""Checks of values, at the speed at which memory is read."""

import numpy as np
from numba import prange

from robe_numba._jit import jit
from robe_numba.kernels.scalar.hashing import NO_START


@jit
def rows_inside(indices, limits):
    """Whether every id of indices (batch * num_tables,) is below its table's limit."""
    num_tables = np.uint64(limits.size)
    outside = 0
    for first in range(np.uint64(0), np.uint64(indices.size), num_tables):
        for table in range(num_tables):
            outside += indices[first + table] >= limits[table]
    return outside == 0


@jit
def reads_inside(indices, offsets, limits, padded, padding_idx):
    """Whether every id of table-major bags is below its table's limit, or padding."""
    outside, batch = 0, (offsets.size - 1) // limits.size
    for table in range(limits.size):
        first, last = np.uint64(offsets[table * batch]), np.uint64(offsets[(table + 1) * batch])
        for i in range(first, last):
            padding = padded and indices[i] == padding_idx
            outside += (indices[i] >= limits[table]) & (not padding)
    return outside == 0


@jit(parallel=True)
def starts_inside(starts, array_size):
    """Whether every start lies in the array, or is NO_START."""
    outside = 0
    for entry in prange(starts.size):
        outside += (starts[entry] >= array_size) & (starts[entry] != NO_START)
    return outside == 0
