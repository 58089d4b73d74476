"""From raw ids to the row numbers of uncompressed tables, on the GPU."""

import numpy as np

from robe_numba.kernels.gpu.compiler import cuda
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.scalar.searching import find_row


@Kernel
def find_rows(ids, offsets, indices, rows):
    """rows (n,) of indices (n,), 0 for unknown ids; index i belongs to table i mod num_tables."""
    i = cuda.grid(1)
    if i < indices.size:
        table = i % (offsets.size - 1)
        rows[i] = find_row(ids, offsets, table, np.uint64(indices[i]))
