"""Bags pooled by their maximum, and which read gave it."""

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.bags import bag_starts, is_padding, output_row
from robe_numba.kernels.cpu.blocks import block_length, sign_bits
from robe_numba.kernels.cpu.simd.types import load_x1, negate_lanes
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.scalar.hashing import row_key
from robe_numba.kernels.scalar.unsigned import ZERO


@inlined
def maximum_block(array, start, length, i, key, table, element, spec, out, argmax, o, empty):
    """out[o:o + length] = max(out, block of read i); argmax become i where it is larger, or NaN.

    The first read of a bag, where it is still `empty`, wins everywhere.
    """
    for j in range(length):
        value = load_x1(array, start + j)
        if spec.sign:
            value = negate_lanes(value, sign_bits(key, table, element + j, spec))
        # A NaN is passed on, as by NumPy: it wins over numbers, and nothing over it.
        best = out[o + j]
        if empty or value > best or (value != value and best == best):
            out[o + j] = value
            argmax[o + j] = i


@inner
def maximum_bag(array, bags, bag, spec, starts, out, argmax):
    """Each element's maximum over one bag and the read that gave it."""
    row = output_row(bag, bags, spec)
    table, begin = row % spec.num_tables, row * spec.embedding_dim
    for o in range(begin, begin + spec.embedding_dim):
        out[o] = 0
        argmax[o] = -1
    empty = True
    for i in range(np.uint64(bags.offsets[bag]), np.uint64(bags.offsets[bag + 1])):
        if is_padding(bags.indices[i], bags):
            continue
        key, element = row_key(bags.indices[i], spec), ZERO
        for block in range(spec.num_blocks):
            start, length = starts[i * spec.num_blocks + block], block_length(block, spec)
            end = min(length, spec.array_size - start)
            o, rest = begin + element, element + end
            maximum_block(array, start, end, i, key, table, element, spec, out, argmax, o, empty)
            maximum_block(
                array, ZERO, length - end, i, key, table, rest, spec, out, argmax, o + end, empty
            )
            element += length
        empty = False


@jit(parallel=True)
def pool_max(array, bags, spec, starts, out, argmax, num_workers):
    """out and argmax (batch * num_tables * d,): each element's maximum and the read that gave it.

    Ties go to the first read; an empty bag gives 0 and the winner -1. One iteration owns its bags.
    starts (n * num_blocks,) receives the starts of all reads, again where they were hashed before.
    """
    for worker in prange(num_workers):
        first, last = share(bags.offsets.size - 1, worker, num_workers)
        bag_starts(bags, np.int64(first), np.int64(last), spec, starts)
        for bag in range(np.int64(first), np.int64(last)):
            maximum_bag(array, bags, bag, spec, starts, out, argmax)
