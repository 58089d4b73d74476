"""Which parts of the array a batch touches, found range by range and in the order of the batch.

A piece is a block of a read as one range of the array, [low, low + size), sees it: the read, the
block's first element in the flat gradient, and a place, where the block begins relative to `low`. A
block may begin before a range and end after it; only what lies within is the range's to move. So
that a place is never negative, `bias` is added, at least the longest block. A block that wraps
around the end of the array is two pieces.

There are two ways to find them. Scanning: a worker goes through all starts and takes what touches
its one range, the fastest way while workers are few. Sorting: a counting sort, for many ranges.
Both are stable, so that every element sees its reads in the order of the batch.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import block_length
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.scalar.hashing import NO_START
from robe_numba.kernels.scalar.unsigned import ONE, TWO, ZERO

LINE = 8  # int64 in a cache line of 64 bytes


class Partition(NamedTuple):
    """How pieces of a call are written down."""

    bias: np.uint64  # elements, added to places
    shift: np.uint64  # sorted ranges have 2**shift elements
    block_bits: np.uint64  # a sorted piece: (read << block_bits | block) << (shift + 1) | place


class Found(NamedTuple):
    """Buffers for the pieces that a scan finds, uint64 (capacity,) each."""

    reads: np.ndarray
    grads: np.ndarray
    places: np.ndarray


@inlined
def output_element(read, block, rows, spec):
    """Where the gradient of a read's block begins, flat."""
    row = rows[read] if rows.size else read
    return row * spec.embedding_dim + block * spec.block_size


@inlined
def append(found, count, read, grad, place):
    """Write a piece down."""
    found.reads[count], found.grads[count], found.places[count] = read, grad, place


@inner
def scan(starts, rows, read, low, size, bias, spec, found):
    """Find pieces of [low, low + size) from a read on, until the buffers might overflow.

    Returns their number and the read to go on with.
    """
    count, high, num_blocks = ZERO, low + size, spec.num_blocks
    capacity = np.uint64(found.reads.size) - TWO * num_blocks
    num_reads = np.uint64(starts.size) // num_blocks
    while read < num_reads and count <= capacity:
        grad = output_element(read, ZERO, rows, spec)
        for block in range(num_blocks):
            start = starts[read * num_blocks + block]
            end = start + block_length(block, spec)  # for NO_START: less than any block's length
            # Written first, counted if it was one: a branch would be guessed wrong half the time.
            append(found, count, read, grad, start + bias - low)
            count += np.uint64((start < high) & (end > low))
            if end > spec.array_size + low:
                append(found, count, read, grad, start + bias - low - spec.array_size)
                count += ONE
            grad += spec.block_size
        read += ONE
    return count, read


@inlined
def touched_ranges(start, block, pieces, spec):
    """First and last sorted range of a block, and whether it wraps into range 0 besides."""
    end = start + block_length(block, spec)
    wraps = end > spec.array_size
    return start >> pieces.shift, (min(end, spec.array_size) - ONE) >> pieces.shift, wraps


@inlined
def pack(read, block, start, index, pieces):
    """The entry of a piece of range `index`."""
    place = start + pieces.bias - (index << pieces.shift)
    return (read << pieces.block_bits | block) << (pieces.shift + ONE) | place


@inner
def count_pieces(starts, first, last, pieces, spec, counts, chunk):
    """Add to counts[chunk] the pieces that reads [first, last) have in each range."""
    for read in range(first, last):
        for block in range(spec.num_blocks):
            start = starts[read * spec.num_blocks + block]
            if start != NO_START:
                low, high, wraps = touched_ranges(start, block, pieces, spec)
                counts[chunk, low] += 1
                if high != low:
                    counts[chunk, high] += 1
                if wraps:
                    counts[chunk, ZERO] += 1


@inner
def place_pieces(starts, first, last, pieces, spec, counts, chunk, order):
    """Write the entries of reads [first, last) to where counts[chunk] says, and advance it."""
    for read in range(first, last):
        for block in range(spec.num_blocks):
            start = starts[read * spec.num_blocks + block]
            if start != NO_START:
                low, high, wraps = touched_ranges(start, block, pieces, spec)
                order[counts[chunk, low]] = pack(read, block, start, low, pieces)
                counts[chunk, low] += 1
                if high != low:
                    order[counts[chunk, high]] = pack(read, block, start, high, pieces)
                    counts[chunk, high] += 1
                if wraps:
                    start -= spec.array_size
                    order[counts[chunk, ZERO]] = pack(read, block, start, ZERO, pieces)
                    counts[chunk, ZERO] += 1


@jit(parallel=True)
def count_in_ranges(starts, pieces, spec, counts, bounds):
    """Where the entries of each chunk of reads begin in each range, and where ranges begin.

    counts int64 (num_chunks, num_ranges + LINE) apart by a cache line, or threads would wait for
    each other's counts; bounds int64 (num_ranges + 1,). One iteration owns one chunk of reads.
    """
    num_chunks, num_ranges = counts.shape[0], bounds.size - 1
    num_reads = np.uint64(starts.size) // spec.num_blocks
    for chunk in prange(num_chunks):
        first, last = share(num_reads, chunk, num_chunks)
        counts[chunk, :] = 0
        count_pieces(starts, first, last, pieces, spec, counts, np.uint64(chunk))
    total = 0
    for index in range(num_ranges):
        bounds[index] = total
        for chunk in range(num_chunks):
            count = counts[chunk, index]
            counts[chunk, index] = total
            total += count
    bounds[num_ranges] = total


@jit(parallel=True)
def sort_by_range(starts, pieces, spec, counts, order):
    """order (number of pieces,) by range; one iteration owns one chunk of reads."""
    num_reads = np.uint64(starts.size) // spec.num_blocks
    for chunk in prange(counts.shape[0]):
        first, last = share(num_reads, chunk, counts.shape[0])
        place_pieces(starts, first, last, pieces, spec, counts, np.uint64(chunk), order)
