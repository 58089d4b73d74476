"""Hashing on the CPU: eight starts at a time where the hash family and the shape allow it.

Starts are kept flat, block by block and row by row: block k of row r is entry r * num_blocks + k.
"""

import numpy as np
from numba import prange

from robe_numba._jit import jit
from robe_numba.cpu.vector import load8, store
from robe_numba.hashing import block_start, mix, row_key, scale_word, strong_word

ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
LANES = np.uint64(8)


@jit
def in_vectors(spec):
    """Whether the hash is multiply-shift with one word, which has no division and no branch."""
    return spec.modulus == 0 and spec.coefficients.shape[0] == 3


@jit
def coefficient_vectors(first, spec):
    """Eight neighbours of each of the three coefficients; `first` is table * num_blocks + block."""
    count = spec.num_tables * spec.num_blocks
    c = spec.coefficients
    return load8(c, first), load8(c, first + count), load8(c, first + TWO * count)


@jit
def row_starts(key, table, spec, starts, entry):
    """Starts of the blocks of one row, from `entry` on."""
    block = ZERO
    if in_vectors(spec):
        while block + LANES <= spec.num_blocks:
            a, a_high, b = coefficient_vectors(table * spec.num_blocks + block, spec)
            store(starts, entry + block, scale_word(strong_word(key, a, a_high, b), spec))
            block += LANES
    while block < spec.num_blocks:
        starts[entry + block] = block_start(key, table, block, spec)
        block += ONE


@jit
def rows_starts(indices, row, last, spec, starts, entry):
    """Starts of rows [row, last) of a batch, one id per table, from `entry` on."""
    table = row % spec.num_tables
    across_tables = spec.num_blocks == ONE and in_vectors(spec)
    while row < last:
        step = ONE
        if across_tables and row + LANES <= last and table + LANES <= spec.num_tables:
            a, a_high, b = coefficient_vectors(table, spec)
            key = mix(load8(indices, row))
            store(starts, entry, scale_word(strong_word(key, a, a_high, b), spec))
            step = LANES
        else:
            row_starts(row_key(indices[row], spec), table, spec, starts, entry)
        row += step
        entry += step * spec.num_blocks
        table += step
        if table == spec.num_tables:
            table = ZERO


@jit
def reads_starts(indices, read, last, table, spec, starts):
    """Starts of reads [read, last) of one table; read i has the entries from i * num_blocks on."""
    if spec.num_blocks == ONE and in_vectors(spec):
        c = spec.coefficients
        a, a_high, b = c[0, table, ZERO], c[1, table, ZERO], c[2, table, ZERO]
        while read + LANES <= last:
            key = mix(load8(indices, read))
            store(starts, read, scale_word(strong_word(key, a, a_high, b), spec))
            read += LANES
    while read < last:
        key = row_key(indices[read], spec)
        row_starts(key, table, spec, starts, read * spec.num_blocks)
        read += ONE


@jit
def share(count, worker, num_workers):
    """The contiguous part [first, last) of `count` items that a worker owns."""
    count, worker, num_workers = np.uint64(count), np.uint64(worker), np.uint64(num_workers)
    return count * worker // num_workers, count * (worker + ONE) // num_workers


@jit(parallel=True)
def block_starts(indices, spec, starts, num_workers):
    """starts (n * num_blocks,) of indices (n,); one iteration owns a worker's rows."""
    for worker in prange(num_workers):
        first, last = share(indices.size, worker, num_workers)
        rows_starts(indices, first, last, spec, starts, first * spec.num_blocks)
