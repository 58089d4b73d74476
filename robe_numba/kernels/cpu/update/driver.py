"""Backward pass and updates: every contribution of a batch, exact and deterministic.

An element may be read from many places of a batch. Workers divide the array, not the batch: each
owns ranges of elements and goes through what touches them in the order of the batch. So the order
of additions to an element is the same for any number of workers and ranges, and so are the bits.

SGD moves an element at each contribution. Adagrad must square the complete sum: the contributions
to a range are first added up in a buffer that fits a core's cache, then applied.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import prefetch_block, prefetch_write_block
from robe_numba.kernels.cpu.launch import launch
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.cpu.update.apply import (
    UpdateStep,
    adagrad_piece,
    adagrad_range,
    axpy_any,
    plain_length,
    prefetch_state,
)
from robe_numba.kernels.cpu.update.partition import (
    LINE,
    Found,
    Partition,
    Piece,
    Range,
    Reads,
    count_in_ranges,
    scan,
    sort_by_range,
    unpack,
)
from robe_numba.kernels.scalar.hashing import HashSpec
from robe_numba.kernels.scalar.unsigned import ONE, ZERO
from robe_numba.memory import scratch
from robe_numba.state_blocks import num_sums

MAX_SHIFT = 16  # 2**16 float32 sums are 256 KB: they stay in a core's second-level cache
MIN_SHIFT = 8
RANGES_PER_WORKER = 8  # enough for an even share where ids are skewed
MAX_SCANS = 8  # workers that may each go through all starts
MAX_SCANNED_SUMS = 1 << 19  # elements of a worker's range, for Adagrad
SUMS_PER_OUTPUT = 1.0  # elements of all ranges per element of the output
SCAN_CAPACITY = 512  # pieces found at a time: 12 KB, which stay in the first-level cache
MAX_PREFETCHED = 2 << 20  # bytes of a worker's range that may be prefetched as a whole
AHEAD_BYTES, MAX_AHEAD = 4096, 64  # of gradients or array that are prefetched; pieces


class Entries(NamedTuple):
    """The sorted pieces of one range."""

    order: np.ndarray  # uint64 (number of all pieces,)
    first: np.uint64
    last: np.uint64


@inner
def axpy_scanned(target, base, owned, reads, spec, alpha, found, ahead):
    """target += alpha * gradient, with every piece of the range that a scan finds.

    Returns their number. Prefetches `ahead` pieces ahead, or nothing if that is 0.
    """
    total, read, num_reads = ZERO, ZERO, np.uint64(reads.indices.size)
    length, plain = min(spec.block_size, spec.embedding_dim), plain_length(reads, spec)
    while read < num_reads:
        count, read = scan(reads, read, owned, spec, found)
        for k in range(count):
            if ahead:
                soon = found.places[min(k + ahead, count - ONE)]
                prefetch_write_block(target, base + soon - owned.bias, length)
            piece = Piece(found.reads[k], found.grads[k], found.places[k])
            axpy_any(target, base, piece, owned, reads, spec, alpha, plain)
        total += count
    return total


@inner
def adagrad_scanned(step, owned, sums, reads, spec, found):
    """Apply the sums of a range to what a scan finds touched."""
    read, num_reads = ZERO, np.uint64(reads.indices.size)
    while read < num_reads:
        count, read = scan(reads, read, owned, spec, found)
        for k in range(count):
            piece = Piece(found.reads[k], found.grads[k], found.places[k])
            adagrad_piece(step, owned, piece, sums, spec)


@inlined
def is_dense(count, owned, spec):
    """Whether `count` pieces touch most of a range; if so, all of it is applied."""
    return count * min(spec.block_size, spec.embedding_dim) >= owned.size >> ONE


@inlined
def owned_range(worker, num_workers, array_size, state_shift, bias):
    """A worker's even share of whole state blocks."""
    blocks = (array_size + (ONE << state_shift) - ONE) >> state_shift
    first, last = share(blocks, worker, num_workers)
    low = first << state_shift
    return Range(low, min(last << state_shift, array_size) - low, bias)


@jit(parallel=True)
def update_scanned(step, reads, spec, sums, buffers, bias, ahead):
    """Update with one range per worker, found by scanning; one iteration owns one range.

    sums (num_workers, longest range or 0) and buffers (num_workers, 3, capacity) are scratch.
    Adagrad where sums are not empty, else SGD. With `ahead` 0 a range is prefetched as a whole.
    """
    num_workers = buffers.shape[0]
    for worker in prange(num_workers):
        owned = owned_range(worker, num_workers, spec.array_size, step.state_shift, bias)
        total = sums[worker]
        found = Found(buffers[worker, 0], buffers[worker, 1], buffers[worker, 2])
        if total.size == 0:
            if ahead == ZERO:
                prefetch_write_block(step.array, owned.low, owned.size)
            axpy_scanned(step.array, owned.low, owned, reads, spec, step.alpha, found, ahead)
        else:
            total[:] = 0
            one = total.dtype.type(1)
            count = axpy_scanned(total, ZERO, owned, reads, spec, one, found, ZERO)
            if is_dense(count, owned, spec):
                adagrad_range(step, owned, total)
            else:
                adagrad_scanned(step, owned, total, reads, spec, found)


@inner
def axpy_sorted(target, base, owned, entries, reads, partition, spec, alpha, ahead):
    """target += alpha * gradient, with the sorted pieces of a range."""
    length, plain = min(spec.block_size, spec.embedding_dim), plain_length(reads, spec)
    order, end = entries.order, np.uint64(entries.order.size) - ONE
    for k in range(entries.first, entries.last):
        soon = unpack(order[min(k + ahead, end)], reads, partition, spec)
        prefetch_block(reads.grad_out, soon.grad, length)
        piece = unpack(order[k], reads, partition, spec)
        axpy_any(target, base, piece, owned, reads, spec, alpha, plain)


@inner
def adagrad_sorted(step, owned, entries, sums, reads, partition, spec, ahead):
    """Apply the sums of a range where its sorted pieces touch it."""
    if is_dense(entries.last - entries.first, owned, spec):
        adagrad_range(step, owned, sums)
        return
    length = min(spec.block_size, spec.embedding_dim)
    order, end = entries.order, entries.last - ONE
    for k in range(entries.first, entries.last):
        soon = unpack(order[min(k + ahead, end)], reads, partition, spec)
        prefetch_state(step, owned.low + soon.place - owned.bias, length)
        adagrad_piece(step, owned, unpack(order[k], reads, partition, spec), sums, spec)


@jit(parallel=True)
def update_sorted(step, reads, spec, sums, partition, order, bounds, ahead):
    """Update range by range with sorted pieces; one iteration owns a worker's ranges.

    sums (num_workers, elements of a range or 0) is scratch. Adagrad where it is not empty, else
    SGD.
    """
    num_workers, num_ranges = sums.shape[0], bounds.size - 1
    for worker in prange(num_workers):
        total = sums[worker]
        total[:] = 0
        for index in range(worker, num_ranges, num_workers):
            low = np.uint64(index) << partition.shift
            size = min(ONE << partition.shift, spec.array_size - low)
            owned = Range(low, size, partition.bias)
            entries = Entries(order, np.uint64(bounds[index]), np.uint64(bounds[index + 1]))
            if total.size == 0:
                alpha = step.alpha
                axpy_sorted(step.array, low, owned, entries, reads, partition, spec, alpha, ahead)
            else:
                one = total.dtype.type(1)
                axpy_sorted(total, ZERO, owned, entries, reads, partition, spec, one, ahead)
                adagrad_sorted(step, owned, entries, total, reads, partition, spec, ahead)


def partition_for(spec: HashSpec, num_workers: int, state_shift: int) -> Partition:
    """Ranges of whole state blocks of which no block touches more than two neighbours."""
    shift = (int(spec.array_size) // (RANGES_PER_WORKER * num_workers)).bit_length()
    block = int(min(spec.block_size, spec.embedding_dim))
    shift = max(min(shift, MAX_SHIFT), MIN_SHIFT, (block - 1).bit_length(), state_shift)
    block_bits = (int(spec.num_blocks) - 1).bit_length()
    return Partition(np.uint64(1 << shift), np.uint64(shift), np.uint64(block_bits))


def update(step: UpdateStep, reads: Reads, spec: HashSpec, num_workers: int) -> None:
    """Make a step with every read of the batch; the bits do not depend on `num_workers`."""
    array, adagrad = step.array, step.state_sum.size > 0
    block = int(min(spec.block_size, spec.embedding_dim))
    ahead = np.uint64(max(1, min(MAX_AHEAD, AHEAD_BYTES // (block * array.itemsize))))
    state_block = 1 << int(step.state_shift)
    range_size = -(-num_sums(int(spec.array_size), state_block) // num_workers) * state_block
    # Adagrad's sums of the whole array at once, but never more memory than the batch's output.
    fits = range_size <= min(MAX_SCANNED_SUMS, SUMS_PER_OUTPUT * reads.grad_out.size / num_workers)
    if num_workers <= MAX_SCANS and (not adagrad or fits):
        if range_size * array.itemsize <= MAX_PREFETCHED and (
            reads.indices.size * int(spec.embedding_dim) >= spec.array_size
        ):
            ahead = ZERO
        sums = scratch("sums", (num_workers, range_size * adagrad), array.dtype)
        capacity = SCAN_CAPACITY + 2 * int(spec.num_blocks)
        buffers = scratch("pieces", (num_workers, 3, capacity), np.uint64)
        bias = np.uint64(block)
        launch(num_workers, update_scanned, step, reads, spec, sums, buffers, bias, ahead)
        return
    partition = partition_for(spec, num_workers, int(step.state_shift))
    shift = int(partition.shift)
    num_ranges = -(-int(spec.array_size) >> shift)
    counts = scratch("counts", (num_workers, num_ranges + LINE), np.int64)
    bounds = scratch("bounds", (num_ranges + 1,), np.int64)
    launch(num_workers, count_in_ranges, reads.starts, partition, spec, counts, bounds)
    order = scratch("order", (int(bounds[-1]),), np.uint64)
    launch(num_workers, sort_by_range, reads.starts, partition, spec, counts, order)
    sums = scratch("sums", (num_workers, (adagrad << shift)), array.dtype)
    launch(num_workers, update_sorted, step, reads, spec, sums, partition, order, bounds, ahead)
