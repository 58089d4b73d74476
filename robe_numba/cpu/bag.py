"""Bags of rows: pooled reading, and what the backward pass must know of each read.

Bags are CSR and table-major: bag t * batch + b holds indices[offsets[bag]:offsets[bag + 1]] and is
pooled into out[b, t], which is row b * num_tables + t of the flat output.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import jit
from robe_numba.cpu.blocks import block_length, move_block, move_signed, prefetch_block, sign_bits
from robe_numba.cpu.starts import ZERO, reads_starts, share
from robe_numba.cpu.vector import flip, load1
from robe_numba.hashing import HashSpec, row_key

SUM, MEAN, MAX = 0, 1, 2
NOWHERE = np.uint64(2**64 - 1)  # the start of a block that a padded index would have read
AHEAD_BYTES = 4096  # of rows that are prefetched


class Bags(NamedTuple):
    """The bags of one call, as kernels read them."""

    indices: np.ndarray  # uint64 (n,)
    offsets: np.ndarray  # int64 (num_tables * batch + 1,)
    weights: np.ndarray  # dtype of the output (n,), or (0,) for none
    batch: int
    mode: int  # SUM, MEAN or MAX
    padded: bool
    padding_idx: np.uint64  # read only where padded


def entries_ahead(spec: HashSpec, itemsize: int) -> np.uint64:
    """How many blocks to prefetch ahead."""
    block = int(min(spec.block_size, spec.embedding_dim)) * itemsize
    return np.uint64(max(1, AHEAD_BYTES // block))


@jit
def output_row(bag, bags, spec):
    """Row of the flat output that a bag is pooled into."""
    table, sample = bag // bags.batch, bag % bags.batch
    return np.uint64(sample) * spec.num_tables + np.uint64(table)


@jit
def is_padding(index, bags):
    """Whether an index is left out of its bag."""
    return bags.padded and index == bags.padding_idx


@jit
def bag_starts(bags, first, last, spec, starts):
    """Starts of the reads of bags [first, last), table by table; NOWHERE for padding."""
    while first < last:
        table = first // bags.batch
        end = min((table + 1) * bags.batch, last)
        low, high = np.uint64(bags.offsets[first]), np.uint64(bags.offsets[end])
        reads_starts(bags.indices, low, high, np.uint64(table), spec, starts)
        for i in range(low, high if bags.padded else low):
            if bags.indices[i] == bags.padding_idx:
                for block in range(spec.num_blocks):
                    starts[i * spec.num_blocks + block] = NOWHERE
        first = end


@jit
def add_block(array, start, length, scale, bags, i, table, element, spec, out, o):
    """out[o:o + length] += scale * a block of read i that does not wrap."""
    minus = out.dtype.type(-1)  # the SGD rule with this rate is an addition
    if spec.sign:
        key = row_key(bags.indices[i], spec)
        move_signed(out, o, array, start, length, scale, minus, key, table, element, spec)
    else:
        move_block(out, o, array, start, length, scale, minus)


@jit
def pool_bag(array, bags, bag, spec, starts, ahead, out):
    """Sum or mean of one bag; prefetches blocks `ahead` entries later."""
    row = output_row(bag, bags, spec)
    table, begin = row % spec.num_tables, row * spec.embedding_dim
    for o in range(begin, begin + spec.embedding_dim):
        out[o] = 0
    count = 0
    for i in range(np.uint64(bags.offsets[bag]), np.uint64(bags.offsets[bag + 1])):
        if is_padding(bags.indices[i], bags):
            continue
        scale = bags.weights[i] if bags.weights.size else out.dtype.type(1)
        element = ZERO
        for block in range(spec.num_blocks):
            entry, length = i * spec.num_blocks + block, block_length(block, spec)
            prefetch_block(array, starts[min(entry + ahead, np.uint64(starts.size - 1))], length)
            start, o = starts[entry], begin + element
            end = min(length, spec.array_size - start)
            add_block(array, start, end, scale, bags, i, table, element, spec, out, o)
            if end < length:
                rest, element_2 = length - end, element + end
                add_block(
                    array, ZERO, rest, scale, bags, i, table, element_2, spec, out, o + end
                )
            element += length
        count += 1
    if bags.mode == MEAN and count > 1:
        for o in range(begin, begin + spec.embedding_dim):
            out[o] /= out.dtype.type(count)


@jit(parallel=True)
def pool(array, bags, spec, starts, ahead, out, num_workers):
    """out (batch * num_tables * d,): sum or mean of each bag; one iteration owns its bags.

    starts (n * num_blocks,) receives the starts of all reads.
    """
    for worker in prange(num_workers):
        first, last = share(bags.offsets.size - 1, worker, num_workers)
        bag_starts(bags, np.int64(first), np.int64(last), spec, starts)
        for bag in range(np.int64(first), np.int64(last)):
            pool_bag(array, bags, bag, spec, starts, ahead, out)


@jit
def maximum_block(array, start, length, i, key, table, element, spec, out, winners, o, empty):
    """out[o:o + length] = max(out, block of read i); winners become i where it is larger, or NaN.

    The first read of a bag, where it is still `empty`, wins everywhere.
    """
    for j in range(length):
        value = load1(array, start + j)
        if spec.sign:
            value = flip(value, sign_bits(key, table, element + j, spec))
        # A NaN is passed on, as by NumPy: it wins over numbers, and nothing over it.
        best = out[o + j]
        if empty or value > best or (value != value and best == best):
            out[o + j] = value
            winners[o + j] = i


@jit
def maximum_bag(array, bags, bag, spec, starts, out, winners):
    """Each element's maximum over one bag and the read that gave it."""
    row = output_row(bag, bags, spec)
    table, begin = row % spec.num_tables, row * spec.embedding_dim
    for o in range(begin, begin + spec.embedding_dim):
        out[o] = 0
        winners[o] = -1
    empty = True
    for i in range(np.uint64(bags.offsets[bag]), np.uint64(bags.offsets[bag + 1])):
        if is_padding(bags.indices[i], bags):
            continue
        key, element = row_key(bags.indices[i], spec), ZERO
        for block in range(spec.num_blocks):
            start, length = starts[i * spec.num_blocks + block], block_length(block, spec)
            end = min(length, spec.array_size - start)
            o, rest = begin + element, element + end
            maximum_block(
                array, start, end, i, key, table, element, spec, out, winners, o, empty
            )
            maximum_block(
                array, ZERO, length - end, i, key, table, rest, spec, out, winners, o + end, empty
            )
            element += length
        empty = False


@jit(parallel=True)
def pool_max(array, bags, spec, starts, out, winners, num_workers):
    """out and winners (batch * num_tables * d,): each element's maximum and the read that gave it.

    Ties go to the first read; an empty bag gives 0 and the winner -1. One iteration owns its bags.
    starts (n * num_blocks,) receives the starts of all reads, again where they were hashed before.
    """
    for worker in prange(num_workers):
        first, last = share(bags.offsets.size - 1, worker, num_workers)
        bag_starts(bags, np.int64(first), np.int64(last), spec, starts)
        for bag in range(np.int64(first), np.int64(last)):
            maximum_bag(array, bags, bag, spec, starts, out, winners)


@jit(parallel=True)
def hash_bags(bags, spec, starts, num_workers):
    """starts (n * num_blocks,) of all reads, without reading; one iteration owns its bags."""
    for worker in prange(num_workers):
        first, last = share(bags.offsets.size - 1, worker, num_workers)
        bag_starts(bags, np.int64(first), np.int64(last), spec, starts)


@jit(parallel=True)
def expand(bags, spec, rows, scales, num_workers):
    """The output row of every read, and its factor unless there is none: (n,), scales maybe (0,).

    One iteration owns its bags.
    """
    for worker in prange(num_workers):
        first, last = share(bags.offsets.size - 1, worker, num_workers)
        for bag in range(np.int64(first), np.int64(last)):
            row = output_row(bag, bags, spec)
            begin, end = bags.offsets[bag], bags.offsets[bag + 1]
            count = 0
            for i in range(begin, end):
                rows[i] = row
                count += not is_padding(bags.indices[i], bags)
            if bags.mode == MEAN:
                for i in range(begin, end):
                    scales[i] = scales.dtype.type(1) / scales.dtype.type(max(count, 1))
