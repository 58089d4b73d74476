"""Hashing on the CPU: eight starts at a time where the hash family and the shape allow it.

Starts are flat: block k of row r is entry r * num_blocks + k.
"""

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.simd.types import load_x1, load_x4, load_x8, store
from robe_numba.kernels.scalar.hashing import block_start, mix, row_key, scale_word, strong_word
from robe_numba.kernels.scalar.unsigned import ONE, TWO, U4, U8, ZERO


@inlined
def in_vectors(spec):
    """Whether the hash is multiply-shift with one word, which has neither division nor branch."""
    return spec.modulus == 0 and spec.coefficients.shape[0] == 3


@inlined
def hash_keys(starts, entry, count, first, spec):
    """Replace `count` keys, from `entry` on, by starts; `first` is table * num_blocks + block."""
    c, stride = spec.coefficients, spec.num_tables * spec.num_blocks
    while count >= U8:
        a, a_high, b = (
            load_x8(c, first),
            load_x8(c, first + stride),
            load_x8(c, first + TWO * stride),
        )
        word = strong_word(load_x8(starts, entry), a, a_high, b)
        store(starts, entry, scale_word(word, spec))
        entry, first, count = entry + U8, first + U8, count - U8
    if count >= U4:
        a, a_high, b = (
            load_x4(c, first),
            load_x4(c, first + stride),
            load_x4(c, first + TWO * stride),
        )
        word = strong_word(load_x4(starts, entry), a, a_high, b)
        store(starts, entry, scale_word(word, spec))
        entry, first, count = entry + U4, first + U4, count - U4
    while count > ZERO:
        a, a_high, b = (
            load_x1(c, first),
            load_x1(c, first + stride),
            load_x1(c, first + TWO * stride),
        )
        starts[entry] = scale_word(strong_word(starts[entry], a, a_high, b), spec)
        entry, first, count = entry + ONE, first + ONE, count - ONE


@inlined
def write_keys(indices, row, last, spec, starts, entry):
    """The key of each row, once for each of its blocks."""
    if spec.num_blocks == ONE:
        while row + U8 <= last:
            store(starts, entry, mix(load_x8(indices, row)))
            row, entry = row + U8, entry + U8
    while row < last:
        key = mix(indices[row])
        for _ in range(spec.num_blocks):
            starts[entry] = key
            entry += ONE
        row += ONE


@inner
def rows_starts(indices, row, last, spec, starts, entry):
    """Starts of rows [row, last) of a batch, one id per table, from `entry` on."""
    table = row % spec.num_tables
    while row < last:
        count = min(spec.num_tables - table, last - row)
        if in_vectors(spec):
            write_keys(indices, row, row + count, spec, starts, entry)
            entries = count * spec.num_blocks
            hash_keys(starts, entry, entries, table * spec.num_blocks, spec)
            entry += entries
        else:
            for i in range(count):
                key = row_key(indices[row + i], spec)
                for block in range(spec.num_blocks):
                    starts[entry] = block_start(key, table + i, block, spec)
                    entry += ONE
        row, table = row + count, ZERO


@inner
def reads_starts(indices, read, last, table, spec, starts):
    """Starts of reads [read, last) of one table; read i has the entries from i * num_blocks on."""
    if not in_vectors(spec):
        for i in range(read, last):
            key = row_key(indices[i], spec)
            for block in range(spec.num_blocks):
                starts[i * spec.num_blocks + block] = block_start(key, table, block, spec)
        return
    write_keys(indices, read, last, spec, starts, read * spec.num_blocks)
    if spec.num_blocks > ONE:
        for i in range(read, last):
            entry = i * spec.num_blocks
            hash_keys(starts, entry, spec.num_blocks, table * spec.num_blocks, spec)
        return
    c = spec.coefficients
    a, a_high, b = c[0, table, ZERO], c[1, table, ZERO], c[2, table, ZERO]
    while read + U8 <= last:
        store(starts, read, scale_word(strong_word(load_x8(starts, read), a, a_high, b), spec))
        read += U8
    while read < last:
        starts[read] = scale_word(strong_word(starts[read], a, a_high, b), spec)
        read += ONE


@inlined
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
