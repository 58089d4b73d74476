"""From raw ids to the row numbers of uncompressed tables."""

from numba import prange

from robe_numba._jit import jit
from robe_numba.kernels.scalar.searching import find_row


@jit(parallel=True)
def find_rows(ids, offsets, indices, rows):
    """rows (batch, num_tables) of indices, 0 for unknown ids; an iteration owns one sample."""
    batch, num_tables = indices.shape
    for b in prange(batch):
        for t in range(num_tables):
            rows[b, t] = find_row(ids, offsets, t, indices[b, t])
