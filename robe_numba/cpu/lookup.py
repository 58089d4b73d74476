"""Reading the array one row per id: block starts and embeddings.

The table of a row follows from its place in the output: rows are (batch, num_tables), so row r
belongs to table r mod num_tables. That holds for single ids and for bags alike.
"""

import numpy as np
from numba import prange

from robe_numba._jit import jit
from robe_numba.cpu.runs import apply_sign, block_bounds, next_run
from robe_numba.hashing import block_start, row_key


@jit(parallel=True)
def block_starts(indices, spec, starts):
    """starts (n, num_blocks) of indices (n,); one iteration owns one row."""
    for row in prange(indices.size):
        table = np.uint64(row) % spec.num_tables
        key = row_key(indices[row], spec)
        for block in range(spec.num_blocks):
            starts[row, block] = block_start(key, table, block, spec)


@jit
def copy_row(array, key, table, spec, out):
    """out (d,) = the embedding of a key."""
    for block in range(spec.num_blocks):
        start = block_start(key, table, block, spec)
        first, last = block_bounds(block, spec)
        element = first
        while element < last:
            position, length, signs = next_run(start, first, element, last, key, table, spec)
            if spec.sign:
                for j in range(length):
                    out[element + j] = apply_sign(array[position + j], signs, element + j)
            else:
                for j in range(length):
                    out[element + j] = array[position + j]
            element += length


@jit(parallel=True)
def lookup(array, indices, spec, out):
    """out (n, d) of indices (n,); one iteration owns one row."""
    for row in prange(indices.size):
        table = np.uint64(row) % spec.num_tables
        copy_row(array, row_key(indices[row], spec), table, spec, out[row])
