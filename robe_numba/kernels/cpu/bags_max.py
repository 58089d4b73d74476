"""Bags pooled by their maximum, and which read gave it."""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.bags import bag_starts, output_row, share_bags
from robe_numba.kernels.cpu.blocks import BlockSource, block_length, sign_bits
from robe_numba.kernels.cpu.simd.types import load_x1, negate_lanes
from robe_numba.kernels.scalar.bags import EVERY_READ, MAX, is_padding
from robe_numba.kernels.scalar.hashing import row_key
from robe_numba.kernels.scalar.unsigned import ZERO


class Maxima(NamedTuple):
    """The maximum of each element of the output, and the read that gave it."""

    out: np.ndarray  # (batch * num_tables * d,)
    argmax: np.ndarray  # int64, of the same shape; -1 for an empty bag; see `EVERY_READ`


class Candidate(NamedTuple):
    """A read that may give a maximum."""

    number: np.uint64
    key: np.uint64
    table: np.uint64
    first: bool  # of its bag


@inlined
def maximum_part(source, start, length, read, element, maxima, o):
    """Compare a part of a block that does not wrap with the maxima from o on; the larger stay.

    The first read of a bag always wins.
    """
    out = maxima.out
    for j in range(length):
        value = load_x1(source.array, start + j)
        if source.spec.sign:
            signs = sign_bits(read.key, read.table, element + j, source.spec)
            value = negate_lanes(value, signs)
        # A NaN is passed on, as by NumPy: it wins over numbers, and nothing wins over it.
        best = out[o + j]
        if read.first or value > best or (value != value and best == best):
            out[o + j] = value
            maxima.argmax[o + j] = read.number


@inner
def maximum_bag(source, bags, bag, maxima):
    """Each element's maximum over one bag, and the read that gave it.

    If its table takes no maximum, only `EVERY_READ` is written.
    """
    starts, spec = source.starts, source.spec
    row = output_row(bag, bags, spec)
    table, begin = row % spec.num_tables, row * spec.embedding_dim
    if bags.modes[table] != MAX:
        for block in range(spec.num_blocks):
            maxima.argmax[begin + block * spec.block_size] = EVERY_READ
        return
    for o in range(begin, begin + spec.embedding_dim):
        maxima.out[o] = 0
        maxima.argmax[o] = -1
    empty = True
    for i in range(np.uint64(bags.offsets[bag]), np.uint64(bags.offsets[bag + 1])):
        if is_padding(bags.indices[i], bags):
            continue
        read, element = Candidate(i, row_key(bags.indices[i], spec), table, empty), ZERO
        for block in range(spec.num_blocks):
            start, length = starts[i * spec.num_blocks + block], block_length(block, spec)
            end = min(length, spec.array_size - start)
            o, rest = begin + element, element + end
            maximum_part(source, start, end, read, element, maxima, o)
            maximum_part(source, ZERO, length - end, read, rest, maxima, o + end)
            element += length
        empty = False


@jit(parallel=True)
def pool_max(array, starts, spec, bags, maxima, num_workers):
    """Fill the maxima; one iteration owns its bags.

    Ties go to the first read; an empty bag gives 0. starts (n * num_blocks,) receives the starts
    that were used, even where they were hashed before.
    """
    for worker in prange(num_workers):
        first, last = share_bags(bags, worker, num_workers)
        bag_starts(bags, first, last, spec, starts, True)
        source = BlockSource(array, starts, spec)
        for bag in range(first, last):
            maximum_bag(source, bags, bag, maxima)
