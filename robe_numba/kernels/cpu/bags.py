"""Bags of rows: pooled reading, and what the backward pass must know of each read.

Bags are CSR and table-major: bag t * batch + b holds indices[offsets[bag]:offsets[bag + 1]] and is
pooled into out[b, t], which is row b * num_tables + t of the flat output.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import axpy_block, axpy_signed, block_length
from robe_numba.kernels.cpu.simd.types import load_x1, load_x4, load_x16, prefetch, store, zero_like
from robe_numba.kernels.cpu.starts import reads_starts, share
from robe_numba.kernels.scalar.hashing import NO_START, row_key
from robe_numba.kernels.scalar.unsigned import ONE, U4, U15, U16, U32, U48, U63, U64, ZERO

SUM, MEAN, MAX = 0, 1, 2
AHEAD = np.uint64(16)  # reads that are prefetched


class Bags(NamedTuple):
    """The bags of one call, as kernels read them."""

    indices: np.ndarray  # uint64 (n,)
    offsets: np.ndarray  # int64 (num_tables * batch + 1,)
    weights: np.ndarray  # dtype of the output (n,), or (0,) for none
    batch: int
    mode: int  # SUM, MEAN or MAX
    padded: bool
    padding_idx: np.uint64  # read only where padded


@inlined
def output_row(bag, bags, spec):
    """Row of the flat output that a bag is pooled into."""
    table, sample = bag // bags.batch, bag % bags.batch
    return np.uint64(sample) * spec.num_tables + np.uint64(table)


@inlined
def is_padding(index, bags):
    """Whether an index is left out of its bag."""
    return bags.padded and index == bags.padding_idx


@inner
def bag_starts(bags, first, last, spec, starts):
    """Starts of the reads of bags [first, last), table by table; NO_START for padding."""
    while first < last:
        table = first // bags.batch
        end = min((table + 1) * bags.batch, last)
        low, high = np.uint64(bags.offsets[first]), np.uint64(bags.offsets[end])
        reads_starts(bags.indices, low, high, np.uint64(table), spec, starts)
        for i in range(low, high if bags.padded else low):
            if bags.indices[i] == bags.padding_idx:
                for block in range(spec.num_blocks):
                    starts[i * spec.num_blocks + block] = NO_START
        first = end


@inlined
def weight_of(i, bags, out):
    """The factor of a read."""
    return bags.weights[i] if bags.weights.size else out.dtype.type(1)


@inlined
def sum_64(array, bags, first, last, block, spec, starts, ahead, element, count, out, o):
    """Pool 64 elements of a block, from `element` on, of all reads [first, last) of a bag.

    The sums stay in registers. Prefetches the lines that the read `ahead` of each one needs.
    """
    sum_0, sum_1 = zero_like(load_x16(out, o)), zero_like(load_x16(out, o))
    sum_2, sum_3 = zero_like(load_x16(out, o)), zero_like(load_x16(out, o))
    end = np.uint64(bags.indices.size) - ONE
    for i in range(first, last):
        soon = starts[min(i + ahead, end) * spec.num_blocks + block] + element
        prefetch(array, soon)
        prefetch(array, soon + U16)
        prefetch(array, soon + U32)
        prefetch(array, soon + U48)
        prefetch(array, soon + U63)
        start = starts[i * spec.num_blocks + block]
        if start != NO_START:
            scale, p = weight_of(i, bags, out), start + element
            sum_0 = sum_0 + scale * load_x16(array, p)
            sum_1 = sum_1 + scale * load_x16(array, p + U16)
            sum_2 = sum_2 + scale * load_x16(array, p + U32)
            sum_3 = sum_3 + scale * load_x16(array, p + U48)
    store(out, o, sum_0 / count)
    store(out, o + U16, sum_1 / count)
    store(out, o + U32, sum_2 / count)
    store(out, o + U48, sum_3 / count)


@inlined
def sum_16(array, bags, first, last, block, spec, starts, ahead, element, count, out, o):
    """As `sum_64`, for 16 elements."""
    total = zero_like(load_x16(out, o))
    end = np.uint64(bags.indices.size) - ONE
    for i in range(first, last):
        soon = starts[min(i + ahead, end) * spec.num_blocks + block] + element
        prefetch(array, soon)
        prefetch(array, soon + U15)
        start = starts[i * spec.num_blocks + block]
        if start != NO_START:
            total = total + weight_of(i, bags, out) * load_x16(array, start + element)
    store(out, o, total / count)


@inlined
def sum_4(array, bags, first, last, block, spec, starts, element, count, out, o):
    """As `sum_64`, for 4 elements."""
    total = zero_like(load_x4(out, o))
    for i in range(first, last):
        start = starts[i * spec.num_blocks + block]
        if start != NO_START:
            total = total + weight_of(i, bags, out) * load_x4(array, start + element)
    store(out, o, total / count)


@inlined
def sum_1(array, bags, first, last, block, spec, starts, element, count, out, o):
    """As `sum_64`, for 1 element."""
    total = out.dtype.type(0)
    for i in range(first, last):
        start = starts[i * spec.num_blocks + block]
        if start != NO_START:
            total += weight_of(i, bags, out) * load_x1(array, start + element)
    out[o] = total / count


@inlined
def pool_block(array, bags, first, last, block, spec, starts, ahead, count, out, o):
    """Pool one block of a bag whose reads neither wrap nor have signs."""
    element, length = ZERO, block_length(block, spec)
    place = (bags, first, last, block, spec, starts)
    while element + U64 <= length:
        sum_64(array, *place, ahead, element, count, out, o + element)
        element += U64
    while element + U16 <= length:
        sum_16(array, *place, ahead, element, count, out, o + element)
        element += U16
    while element + U4 <= length:
        sum_4(array, *place, element, count, out, o + element)
        element += U4
    while element < length:
        sum_1(array, *place, element, count, out, o + element)
        element += ONE


@inlined
def add_signed(array, start, length, i, table, element, bags, spec, out, o):
    """out[o:o + length] += scale * a block of read i that does not wrap, with its signs."""
    key, scale, minus = row_key(bags.indices[i], spec), weight_of(i, bags, out), out.dtype.type(-1)
    # The SGD rule with a rate of -1 is an addition.
    if spec.sign:
        axpy_signed(out, o, array, start, length, scale, minus, key, table, element, spec)
    else:
        axpy_block(out, o, array, start, length, scale, minus)


@inner
def pool_any(array, bags, first, last, table, spec, starts, count, out, begin):
    """Pool a bag of any reads."""
    for o in range(begin, begin + spec.embedding_dim):
        out[o] = 0
    for i in range(first, last):
        element = ZERO
        for block in range(spec.num_blocks):
            start, length = starts[i * spec.num_blocks + block], block_length(block, spec)
            if start != NO_START:
                end = min(length, spec.array_size - start)
                o, rest = begin + element, element + end
                add_signed(array, start, end, i, table, element, bags, spec, out, o)
                add_signed(array, ZERO, length - end, i, table, rest, bags, spec, out, o + end)
            element += length
    for o in range(begin, begin + spec.embedding_dim):
        out[o] /= count


@inlined
def wraps_any(first, last, spec, starts):
    """Whether a block of reads [first, last) goes on at the beginning of the array."""
    limit = spec.array_size - min(spec.block_size, spec.embedding_dim)
    wraps = ZERO  # counted, not branched upon, so that it is done in vectors
    for entry in range(first * spec.num_blocks, last * spec.num_blocks):
        wraps += np.uint64((starts[entry] > limit) & (starts[entry] != NO_START))
    return wraps != ZERO


@inlined
def divisor_of(bags, first, last, out):
    """What the sum of a bag is divided by: 1, or its number of ids for the mean."""
    count = last - first
    if bags.mode != MEAN:
        return out.dtype.type(1)
    if bags.padded:
        for i in range(first, last):
            count -= np.uint64(is_padding(bags.indices[i], bags))
    return out.dtype.type(max(count, ONE))


@inlined
def pool_bag(array, bags, bag, spec, starts, ahead, out):
    """Sum or mean of one bag."""
    row = output_row(bag, bags, spec)
    table, begin = row % spec.num_tables, row * spec.embedding_dim
    first, last = np.uint64(bags.offsets[bag]), np.uint64(bags.offsets[bag + 1])
    divisor = divisor_of(bags, first, last, out)
    if spec.sign or wraps_any(first, last, spec, starts):
        pool_any(array, bags, first, last, table, spec, starts, divisor, out, begin)
        return
    for block in range(spec.num_blocks):
        o = begin + block * spec.block_size
        pool_block(array, bags, first, last, block, spec, starts, ahead, divisor, out, o)


@jit(parallel=True)
def pool(array, bags, spec, starts, out, num_workers):
    """out (batch * num_tables * d,): sum or mean of each bag; one iteration owns its bags.

    starts (n * num_blocks,) receives the starts of all reads.
    """
    for worker in prange(num_workers):
        first, last = share(bags.offsets.size - 1, worker, num_workers)
        bag_starts(bags, np.int64(first), np.int64(last), spec, starts)
        for bag in range(np.int64(first), np.int64(last)):
            pool_bag(array, bags, bag, spec, starts, AHEAD, out)


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
