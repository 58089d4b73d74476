"""Backward pass and updates: the complete gradient of each element, exact and deterministic.

An element may be read from many places of a batch, and Adagrad must square their sum. The array
is cut into segments that fit a core's cache. All (read, block) entries are sorted by the segment
they touch, stably, so that each segment sees its entries in the order of the batch. One worker
then adds up a segment in a dense buffer and applies the rule to what was touched. The order of
additions to an element is the order of the batch, whatever the number of workers and segments,
so the bits are too.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba import update_rules
from robe_numba._jit import jit
from robe_numba.cpu.bag import SKIPPED
from robe_numba.cpu.runs import apply_sign, block_bounds, next_run
from robe_numba.hashing import HashSpec, block_start, row_key

GRADIENT, SGD, ADAGRAD = update_rules.GRADIENT, update_rules.SGD, update_rules.ADAGRAD
ZERO = np.uint64(0)
ONE = np.uint64(1)
LINE = 8  # int64 in a cache line of 64 bytes


class Reads(NamedTuple):
    """Every read of a batch and the gradient of what it went into."""

    indices: np.ndarray  # uint64 (n,)
    rows: np.ndarray  # uint64 (n,), row of grad_out, or SKIPPED
    scales: np.ndarray  # (n,), factor of the read in its row
    winners: np.ndarray  # int64 (num_rows, d), the read that gave each maximum, or (0, 0)
    grad_out: np.ndarray  # (num_rows, d)


@jit(parallel=True)
def read_starts(reads, spec, starts):
    """starts (n, num_blocks) of every read; one iteration owns one read."""
    for i in prange(reads.indices.size):
        if reads.rows[i] != SKIPPED:
            key = row_key(reads.indices[i], spec)
            table = reads.rows[i] % spec.num_tables
            for block in range(spec.num_blocks):
                starts[i, block] = block_start(key, table, block, spec)


@jit
def touched_segments(start, block, spec, shift):
    """First and last segment of a block, and whether it wraps into segment 0 besides."""
    first_element, last_element = block_bounds(block, spec)
    end = start + (last_element - first_element) - ONE
    wraps = end >= spec.array_size
    first = start >> shift
    last = (min(end, spec.array_size - ONE)) >> shift
    return first, last, wraps and first != ZERO


@jit(parallel=True)
def sort_entries(starts, rows, spec, block_bits, shift, num_chunks, num_segments):
    """Entries (read << block_bits | block) sorted stably by segment, and where segments begin.

    Returns order uint64 (num_entries,) and bounds int64 (num_segments + 1,). A block that
    crosses into another segment is listed in both. One iteration owns one chunk of reads.
    """
    num_reads = rows.size
    # A row per chunk, apart by a cache line, or threads would wait for each other's counts.
    places = np.zeros((num_chunks, num_segments + LINE), dtype=np.int64)
    for chunk in prange(num_chunks):
        for i in range(num_reads * chunk // num_chunks, num_reads * (chunk + 1) // num_chunks):
            if rows[i] != SKIPPED:
                for block in range(spec.num_blocks):
                    first, last, wraps = touched_segments(starts[i, block], block, spec, shift)
                    places[chunk, first] += 1
                    if last != first:
                        places[chunk, last] += 1
                    if wraps:
                        places[chunk, ZERO] += 1
    bounds = np.empty(num_segments + 1, dtype=np.int64)
    total = 0
    for segment in range(num_segments):
        bounds[segment] = total
        for chunk in range(num_chunks):
            count = places[chunk, segment]
            places[chunk, segment] = total
            total += count
    bounds[num_segments] = total
    order = np.empty(total, dtype=np.uint64)
    for chunk in prange(num_chunks):
        for i in range(num_reads * chunk // num_chunks, num_reads * (chunk + 1) // num_chunks):
            if rows[i] != SKIPPED:
                for block in range(spec.num_blocks):
                    first, last, wraps = touched_segments(starts[i, block], block, spec, shift)
                    entry = np.uint64(i) << block_bits | block
                    order[places[chunk, first]] = entry
                    places[chunk, first] += 1
                    if last != first:
                        order[places[chunk, last]] = entry
                        places[chunk, last] += 1
                    if wraps:
                        order[places[chunk, ZERO]] = entry
                        places[chunk, ZERO] += 1
    return order, bounds


@jit
def add_entry(i, block, reads, starts, spec, low, high, sums):
    """Add the gradient of a read's block to sums (high - low,), where it lies in [low, high)."""
    row = reads.rows[i]
    table = row % spec.num_tables
    key = row_key(reads.indices[i], spec) if spec.sign else ZERO
    first, last = block_bounds(block, spec)
    scale = reads.scales[i]
    element = first
    while element < last:
        position, length, signs = next_run(starts[i, block], first, element, last, key, table, spec)
        begin, end = max(position, low), min(position + length, high)
        if begin < end:
            shift = element - position  # wraps around 2**64 and back
            if reads.winners.size:
                for p in range(begin, end):
                    if reads.winners[row, p + shift] == np.int64(i):
                        value = reads.grad_out[row, p + shift]
                        sums[p - low] += apply_sign(value, signs, p + shift)
            elif spec.sign:
                for p in range(begin, end):
                    sums[p - low] += scale * apply_sign(
                        reads.grad_out[row, p + shift], signs, p + shift
                    )
            else:
                for p in range(begin, end):
                    sums[p - low] += scale * reads.grad_out[row, p + shift]
        element += length


@jit
def apply_entry(i, block, starts, spec, low, high, sums, rule, array, state_sum, lr, eps):
    """Move the elements of a read's block within [low, high) by their sums, which become 0.

    An element that several entries touch moves at the first of them and finds 0 at the others.
    """
    first, last = block_bounds(block, spec)
    position = starts[i, block]
    remaining = last - first
    while remaining > ZERO:
        length = min(remaining, spec.array_size - position)
        begin, end = max(position, low), min(position + length, high)
        for p in range(begin, end):
            grad = sums[p - low]
            if grad != 0:
                sums[p - low] = 0
                if rule == SGD:
                    array[p] = update_rules.sgd(array[p], grad, lr)
                elif rule == ADAGRAD:
                    array[p], state_sum[p] = update_rules.adagrad(
                        array[p], state_sum[p], grad, lr, eps
                    )
                else:
                    array[p] = grad
        position = ZERO
        remaining -= length


@jit(parallel=True)
def update_segments(
    reads,
    starts,
    order,
    bounds,
    spec,
    block_bits,
    shift,
    num_workers,
    rule,
    array,
    state_sum,
    lr,
    eps,
):
    """Sum and apply the gradients of all segments; one iteration owns a worker's segments."""
    scratch = np.zeros((num_workers, np.int64(ONE << shift)), dtype=array.dtype)
    block_mask = (ONE << block_bits) - ONE
    num_segments = bounds.size - 1
    for worker in prange(num_workers):
        sums = scratch[worker]
        for segment in range(worker, num_segments, num_workers):
            low = np.uint64(segment) << shift
            high = min(low + (ONE << shift), spec.array_size)
            for entry in order[bounds[segment] : bounds[segment + 1]]:
                i, block = entry >> block_bits, entry & block_mask
                add_entry(i, block, reads, starts, spec, low, high, sums)
            for entry in order[bounds[segment] : bounds[segment + 1]]:
                i, block = entry >> block_bits, entry & block_mask
                apply_entry(
                    i, block, starts, spec, low, high, sums, rule, array, state_sum, lr, eps
                )


MAX_SHIFT = 16  # 2**16 float32 sums are 256 KB: they stay in a core's second-level cache
MIN_SHIFT = 8
SEGMENTS_PER_WORKER = 8  # enough for an even share where ids are skewed


def segment_shift(spec: HashSpec, num_workers: int) -> int:
    """log2 of the elements per segment, such that a block touches at most two neighbours."""
    shift = (int(spec.array_size) // (SEGMENTS_PER_WORKER * num_workers)).bit_length()
    block = int(min(spec.block_size, spec.embedding_dim))
    return max(min(shift, MAX_SHIFT), MIN_SHIFT, (block - 1).bit_length())


def update(
    rule: int,
    reads: Reads,
    spec: HashSpec,
    array: np.ndarray,
    state_sum: np.ndarray,
    lr: float,
    eps: float,
    num_workers: int,
) -> None:
    """Apply a rule to `array` in place, given every read of the batch.

    `state_sum` is read and written by ADAGRAD alone; GRADIENT needs a zeroed `array`.
    """
    bits = segment_shift(spec, num_workers)
    num_segments = -(-int(spec.array_size) >> bits)
    shift = np.uint64(bits)
    starts = np.empty((reads.indices.size, int(spec.num_blocks)), dtype=np.uint64)
    read_starts(reads, spec, starts)
    # Shifts and masks take an entry apart; a division would cost more than a short block.
    block_bits = np.uint64((int(spec.num_blocks) - 1).bit_length())
    order, bounds = sort_entries(
        starts, reads.rows, spec, block_bits, shift, num_workers, num_segments
    )
    lr, eps = array.dtype.type(lr), array.dtype.type(eps)
    segments = (order, bounds, spec, block_bits, shift, num_workers)
    update_segments(reads, starts, *segments, rule, array, state_sum, lr, eps)
