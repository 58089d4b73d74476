"""Bags of rows, see `Bags`: pooled reading, and what the backward pass must know of each read."""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import BlockSource, axpy_block, axpy_signed, block_length
from robe_numba.kernels.cpu.simd.types import load_x1, load_x4, load_x16, prefetch, store, zero_like
from robe_numba.kernels.cpu.starts import reads_starts, share
from robe_numba.kernels.scalar.bags import MAX, MEAN, is_padding
from robe_numba.kernels.scalar.hashing import NO_START, row_key
from robe_numba.kernels.scalar.unsigned import ONE, U4, U15, U16, U32, U48, U63, U64, ZERO

AHEAD = np.uint64(16)  # reads that are prefetched


@inlined
def output_row(bag, bags, spec):
    """Row of the flat output that a bag is pooled into."""
    table, sample = bag // bags.batch, bag % bags.batch
    return np.uint64(sample) * spec.num_tables + np.uint64(table)


@inlined
def first_bag(reached, bags):
    """The first bag that has at least this many reads and bags, in all, before it."""
    low, high = 0, bags.offsets.size - 1
    while low < high:
        middle = (low + high) // 2
        if bags.offsets[middle] + middle < reached:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def share_bags(bags, worker, num_workers):
    """The contiguous bags [first, last) that a worker owns, of about as many reads as others'."""
    count = bags.offsets.size - 1
    first, last = share(bags.offsets[count] + count, worker, num_workers)
    return first_bag(np.int64(first), bags), first_bag(np.int64(last), bags)


@inner
def bag_starts(bags, first, last, spec, starts, largest):
    """Starts of the reads of bags [first, last), table by table; NO_START for padding.

    If `largest`, only those of tables that are pooled by their maximum.
    """
    while first < last:
        table = first // bags.batch
        end = min((table + 1) * bags.batch, last)
        low, high = np.uint64(bags.offsets[first]), np.uint64(bags.offsets[end])
        if largest and bags.modes[table] != MAX:
            high = low
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


class BagReads(NamedTuple):
    """The reads of one bag."""

    first: np.uint64
    last: np.uint64
    table: np.uint64
    divisor: np.floating  # of their sum


@inlined
def sum_64(source, bags, reads, block, element, out, o):
    """Pool 64 elements of a block, from `element` on, of all reads of a bag.

    The sums stay in registers. Prefetches what the read `AHEAD` of each one needs.
    """
    array, starts, num_blocks = source.array, source.starts, source.spec.num_blocks
    sum_0, sum_1 = zero_like(load_x16(out, o)), zero_like(load_x16(out, o))
    sum_2, sum_3 = zero_like(load_x16(out, o)), zero_like(load_x16(out, o))
    end = np.uint64(bags.indices.size) - ONE
    for i in range(reads.first, reads.last):
        soon = starts[min(i + AHEAD, end) * num_blocks + block] + element
        prefetch(array, soon)
        prefetch(array, soon + U16)
        prefetch(array, soon + U32)
        prefetch(array, soon + U48)
        prefetch(array, soon + U63)
        start = starts[i * num_blocks + block]
        if start != NO_START:
            weight, p = weight_of(i, bags, out), start + element
            sum_0 = sum_0 + weight * load_x16(array, p)
            sum_1 = sum_1 + weight * load_x16(array, p + U16)
            sum_2 = sum_2 + weight * load_x16(array, p + U32)
            sum_3 = sum_3 + weight * load_x16(array, p + U48)
    store(out, o, sum_0 / reads.divisor)
    store(out, o + U16, sum_1 / reads.divisor)
    store(out, o + U32, sum_2 / reads.divisor)
    store(out, o + U48, sum_3 / reads.divisor)


@inlined
def sum_16(source, bags, reads, block, element, out, o):
    """As `sum_64`, for 16 elements."""
    array, starts, num_blocks = source.array, source.starts, source.spec.num_blocks
    total = zero_like(load_x16(out, o))
    end = np.uint64(bags.indices.size) - ONE
    for i in range(reads.first, reads.last):
        soon = starts[min(i + AHEAD, end) * num_blocks + block] + element
        prefetch(array, soon)
        prefetch(array, soon + U15)
        start = starts[i * num_blocks + block]
        if start != NO_START:
            total = total + weight_of(i, bags, out) * load_x16(array, start + element)
    store(out, o, total / reads.divisor)


@inlined
def sum_4(source, bags, reads, block, element, out, o):
    """As `sum_64`, for 4 elements."""
    total = zero_like(load_x4(out, o))
    for i in range(reads.first, reads.last):
        start = source.starts[i * source.spec.num_blocks + block]
        if start != NO_START:
            total = total + weight_of(i, bags, out) * load_x4(source.array, start + element)
    store(out, o, total / reads.divisor)


@inlined
def sum_1(source, bags, reads, block, element, out, o):
    """As `sum_64`, for 1 element."""
    total = out.dtype.type(0)
    for i in range(reads.first, reads.last):
        start = source.starts[i * source.spec.num_blocks + block]
        if start != NO_START:
            total += weight_of(i, bags, out) * load_x1(source.array, start + element)
    out[o] = total / reads.divisor


@inlined
def pool_block(source, bags, reads, block, out, o):
    """Pool one block of a bag whose reads neither wrap nor have signs."""
    element, length = ZERO, block_length(block, source.spec)
    while element + U64 <= length:
        sum_64(source, bags, reads, block, element, out, o + element)
        element += U64
    while element + U16 <= length:
        sum_16(source, bags, reads, block, element, out, o + element)
        element += U16
    while element + U4 <= length:
        sum_4(source, bags, reads, block, element, out, o + element)
        element += U4
    while element < length:
        sum_1(source, bags, reads, block, element, out, o + element)
        element += ONE


@inlined
def add_part(source, start, length, weight, signs, out, o):
    """out[o:o + length] += weight * a part of a block that does not wrap."""
    one = out.dtype.type(1)
    if source.spec.sign:
        axpy_signed(out, o, source.array, start, length, weight, one, signs, source.spec)
    else:
        axpy_block(out, o, source.array, start, length, weight, one)


@inner
def pool_any(source, bags, reads, out, begin):
    """Pool a bag of any reads."""
    starts, spec, table = source.starts, source.spec, reads.table
    for o in range(begin, begin + spec.embedding_dim):
        out[o] = 0
    for i in range(reads.first, reads.last):
        element, key, weight = ZERO, row_key(bags.indices[i], spec), weight_of(i, bags, out)
        for block in range(spec.num_blocks):
            start, length = starts[i * spec.num_blocks + block], block_length(block, spec)
            if start != NO_START:
                end = min(length, spec.array_size - start)
                o, rest = begin + element, element + end
                add_part(source, start, end, weight, (key, table, element), out, o)
                add_part(source, ZERO, length - end, weight, (key, table, rest), out, o + end)
            element += length
    for o in range(begin, begin + spec.embedding_dim):
        out[o] /= reads.divisor


@inlined
def wraps_any(reads, source):
    """Whether a block of the reads continues at the beginning of the array."""
    starts, spec = source.starts, source.spec
    limit = spec.array_size - min(spec.block_size, spec.embedding_dim)
    wraps = ZERO  # counted without a branch, so that it is done in vectors
    for entry in range(reads.first * spec.num_blocks, reads.last * spec.num_blocks):
        wraps += np.uint64((starts[entry] > limit) & (starts[entry] != NO_START))
    return wraps != ZERO


@inlined
def divisor_of(bags, table, first, last, out):
    """What the sum of a bag is divided by: 1, or its number of ids for the mean."""
    count = last - first
    if bags.modes[table] != MEAN:
        return out.dtype.type(1)
    if bags.padded:
        for i in range(first, last):
            count -= np.uint64(is_padding(bags.indices[i], bags))
    return out.dtype.type(max(count, ONE))


@inlined
def pool_bag(source, bags, bag, out):
    """Sum or mean of one bag; nothing if its table takes the maximum."""
    spec = source.spec
    row = output_row(bag, bags, spec)
    begin, table = row * spec.embedding_dim, row % spec.num_tables
    if bags.modes[table] == MAX:
        return
    first, last = np.uint64(bags.offsets[bag]), np.uint64(bags.offsets[bag + 1])
    reads = BagReads(first, last, table, divisor_of(bags, table, first, last, out))
    if spec.sign or wraps_any(reads, source):
        pool_any(source, bags, reads, out, begin)
        return
    for block in range(spec.num_blocks):
        pool_block(source, bags, reads, block, out, begin + block * spec.block_size)


@jit(parallel=True)
def pool(array, starts, spec, bags, out, num_workers):
    """out (batch * num_tables * d,): sum or mean of each bag; one iteration owns its bags.

    Leaves out the bags of tables that take the maximum.
    starts (n * num_blocks,) receives the starts of all reads.
    """
    for worker in prange(num_workers):
        first, last = share_bags(bags, worker, num_workers)
        bag_starts(bags, first, last, spec, starts, False)
        source = BlockSource(array, starts, spec)
        for bag in range(first, last):
            pool_bag(source, bags, bag, out)


@jit(parallel=True)
def hash_bags(bags, spec, starts, num_workers):
    """starts (n * num_blocks,) of all reads, without reading; one iteration owns its bags."""
    for worker in prange(num_workers):
        first, last = share_bags(bags, worker, num_workers)
        bag_starts(bags, first, last, spec, starts, False)


@jit(parallel=True)
def expand(bags, spec, rows, scales, num_workers):
    """The output row of every read and, unless scales is (0,), its factor; both (n,).

    One iteration owns its bags.
    """
    for worker in prange(num_workers):
        first, last = share_bags(bags, worker, num_workers)
        for bag in range(first, last):
            row = output_row(bag, bags, spec)
            mean = bags.modes[row % spec.num_tables] == MEAN
            begin, end = bags.offsets[bag], bags.offsets[bag + 1]
            count = 0
            for i in range(begin, end):
                rows[i] = row
                count += not is_padding(bags.indices[i], bags)
            if mean:
                scale = scales.dtype.type(1) / scales.dtype.type(max(count, 1))
                for i in range(begin, end):
                    scales[i] = scale
            elif scales.size:
                for i in range(begin, end):
                    scales[i] = weight_of(i, bags, scales)
