"""From raw ids to the row numbers of uncompressed tables."""

import numpy as np
from numba import prange

from robe_numba._jit import jit
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.scalar.searching import find_row


@jit(parallel=True)
def find_rows(ids, offsets, indices, rows):
    """rows (batch, num_tables) of indices, 0 for unknown ids; an iteration owns one sample."""
    batch, num_tables = indices.shape
    for b in prange(batch):
        for t in range(num_tables):
            rows[b, t] = find_row(ids, offsets, t, indices[b, t])


@jit(parallel=True)
def find_bag_rows(ids, offsets, indices, bounds, rows, num_workers):
    """rows (n,) of indices (n,), 0 for unknown ids; those of table t begin at bounds[t].

    One iteration owns a worker's share of the indices.
    """
    for worker in prange(num_workers):
        first, last = share(indices.size, worker, num_workers)
        for t in range(bounds.size - 1):
            for i in range(max(np.int64(first), bounds[t]), min(np.int64(last), bounds[t + 1])):
                rows[i] = find_row(ids, offsets, t, indices[i])
