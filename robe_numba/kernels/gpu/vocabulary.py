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


@Kernel
def find_bag_rows(ids, offsets, indices, bag_offsets, rows):
    """rows (n,) of indices (n,) of table-major bags, 0 for unknown ids; a thread for each.

    bag_offsets (num_tables * batch + 1,) are not checked; those out of place give wrong rows.
    """
    i = cuda.grid(1)
    if i < indices.size:
        table, end = 0, offsets.size - 1
        batch = (bag_offsets.size - 1) // end
        while end - table > 1:
            middle = (table + end) // 2
            if np.int64(bag_offsets[middle * batch]) <= i:
                table = middle
            else:
                end = middle
        rows[i] = find_row(ids, offsets, table, np.uint64(indices[i]))
