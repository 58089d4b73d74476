"""Which parts of the array a batch touches, found range by range and in the order of the batch.

A piece is the part of one read's block that lies in one range of the array. A block that wraps
around the end of the array makes two pieces.

There are two ways to find them. Scanning: a worker goes through all starts and takes those that
touch its one range; the fastest way with few workers. Sorting: a counting sort, for many ranges.
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


class Reads(NamedTuple):
    """Every read of a batch, and the gradient of what it went into."""

    indices: np.ndarray  # uint64 (n,)
    starts: np.ndarray  # uint64 (n * num_blocks,), NO_START where padded
    rows: np.ndarray  # uint64 (n,), row of grad_out; (0,) where read i is row i
    scales: np.ndarray  # (n,), factor of the read in its row; (0,) for 1
    argmax: np.ndarray  # int64 (num_rows * d,), see `Maxima`, or (0,) where every read counts
    grad_out: np.ndarray  # (num_rows * d,)


class Range(NamedTuple):
    """Elements [low, low + size) of the array, which one worker updates."""

    low: np.uint64
    size: np.uint64
    bias: np.uint64  # added to places, at least the longest block, so that none is negative


class Piece(NamedTuple):
    """A block as one range sees it; it may begin before the range and end after it."""

    read: np.uint64
    grad: np.uint64  # the first element of the block in the flat gradient
    place: np.uint64  # where the block begins, relative to the range and with its bias


class Found(NamedTuple):
    """Buffers for the pieces that a scan finds, uint64 (capacity,) each."""

    reads: np.ndarray
    grads: np.ndarray
    places: np.ndarray


class Partition(NamedTuple):
    """Ranges of 2**shift elements, and how a sorted piece is packed into 64 bits.

    It is (read << block_bits | block) << (shift + 1) | place.
    """

    bias: np.uint64  # of all ranges
    shift: np.uint64
    block_bits: np.uint64


@inlined
def output_element(read, block, rows, spec):
    """Where the gradient of a read's block begins, flat."""
    row = rows[read] if rows.size else read
    return row * spec.embedding_dim + block * spec.block_size


@inlined
def append(found, count, read, grad, place):
    """Write a piece into the buffers, after `count` others."""
    found.reads[count], found.grads[count], found.places[count] = read, grad, place


@inner
def scan(reads, read, owned, spec, found):
    """Find the pieces of a range, from a read on, until the buffers might overflow.

    Returns their number, and the read to resume with.
    """
    starts, rows = reads.starts, reads.rows
    count, low, high, num_blocks = ZERO, owned.low, owned.low + owned.size, spec.num_blocks
    capacity = np.uint64(found.reads.size) - TWO * num_blocks
    num_reads = np.uint64(starts.size) // num_blocks
    while read < num_reads and count <= capacity:
        grad = output_element(read, ZERO, rows, spec)
        for block in range(num_blocks):
            start = starts[read * num_blocks + block]
            end = start + block_length(block, spec)  # for NO_START: less than any block's length
            # Written first, counted if it was one: a branch would be mispredicted half the time.
            append(found, count, read, grad, start + owned.bias - low)
            count += np.uint64((start < high) & (end > low))
            if end > spec.array_size + low:
                append(found, count, read, grad, start + owned.bias - low - spec.array_size)
                count += ONE
            grad += spec.block_size
        read += ONE
    return count, read


@inlined
def touched_ranges(start, block, partition, spec):
    """First and last sorted range of a block, and whether it wraps into range 0 besides."""
    end = start + block_length(block, spec)
    wraps = end > spec.array_size
    return start >> partition.shift, (min(end, spec.array_size) - ONE) >> partition.shift, wraps


@inlined
def pack(read, block, start, index, partition):
    """A piece of range `index` as one word."""
    place = start + partition.bias - (index << partition.shift)
    return (read << partition.block_bits | block) << (partition.shift + ONE) | place


@inlined
def unpack(entry, reads, partition, spec):
    """The piece of a word."""
    code = entry >> (partition.shift + ONE)
    read, block = code >> partition.block_bits, code & ((ONE << partition.block_bits) - ONE)
    grad = output_element(read, block, reads.rows, spec)
    return Piece(read, grad, entry & ((ONE << (partition.shift + ONE)) - ONE))


@inner
def count_pieces(starts, first, last, partition, spec, counts, chunk):
    """Add to counts[chunk] the pieces that reads [first, last) have in each range."""
    for read in range(first, last):
        for block in range(spec.num_blocks):
            start = starts[read * spec.num_blocks + block]
            if start != NO_START:
                low, high, wraps = touched_ranges(start, block, partition, spec)
                counts[chunk, low] += 1
                if high != low:
                    counts[chunk, high] += 1
                if wraps:
                    counts[chunk, ZERO] += 1


@inner
def place_pieces(starts, first, last, partition, spec, counts, chunk, order):
    """Write the entries of reads [first, last) to where counts[chunk] says, and advance it."""
    for read in range(first, last):
        for block in range(spec.num_blocks):
            start = starts[read * spec.num_blocks + block]
            if start != NO_START:
                low, high, wraps = touched_ranges(start, block, partition, spec)
                order[counts[chunk, low]] = pack(read, block, start, low, partition)
                counts[chunk, low] += 1
                if high != low:
                    order[counts[chunk, high]] = pack(read, block, start, high, partition)
                    counts[chunk, high] += 1
                if wraps:
                    start -= spec.array_size
                    order[counts[chunk, ZERO]] = pack(read, block, start, ZERO, partition)
                    counts[chunk, ZERO] += 1


@jit(parallel=True)
def count_in_ranges(starts, partition, spec, counts, bounds):
    """Where the entries of each chunk of reads begin in each range, and where ranges begin.

    counts int64 (num_chunks, num_ranges + LINE) apart by a cache line, or threads would wait for
    each other's counts; bounds int64 (num_ranges + 1,). One iteration owns one chunk of reads.
    """
    num_chunks, num_ranges = counts.shape[0], bounds.size - 1
    num_reads = np.uint64(starts.size) // spec.num_blocks
    for chunk in prange(num_chunks):
        first, last = share(num_reads, chunk, num_chunks)
        counts[chunk, :] = 0
        count_pieces(starts, first, last, partition, spec, counts, np.uint64(chunk))
    total = 0
    for index in range(num_ranges):
        bounds[index] = total
        for chunk in range(num_chunks):
            count = counts[chunk, index]
            counts[chunk, index] = total
            total += count
    bounds[num_ranges] = total


@jit(parallel=True)
def sort_by_range(starts, partition, spec, counts, order):
    """order (number of pieces,) by range; one iteration owns one chunk of reads."""
    num_reads = np.uint64(starts.size) // spec.num_blocks
    for chunk in prange(counts.shape[0]):
        first, last = share(num_reads, chunk, counts.shape[0])
        place_pieces(starts, first, last, partition, spec, counts, np.uint64(chunk), order)
