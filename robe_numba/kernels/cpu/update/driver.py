"""Backward pass and updates: every contribution of a batch, exact and deterministic.

An element may be read from many places of a batch. Workers share out the array, not the batch: each
owns ranges of elements and goes through what touches them in the order of the batch. The order of
additions to an element is therefore the same for any number of workers and ranges, and so are the
bits.

SGD moves an element at each contribution. Adagrad must square the complete sum: a range's
contributions are first added up in a dense buffer that fits a core's cache, then applied.
"""

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import prefetch_block, prefetch_write_block
from robe_numba.kernels.cpu.launch import launch
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.cpu.update.apply import (
    Rates,
    Reads,
    adagrad_piece,
    adagrad_range,
    axpy_any,
    is_plain,
    prefetch_sums,
)
from robe_numba.kernels.cpu.update.partition import (
    LINE,
    Found,
    Partition,
    count_in_ranges,
    output_element,
    scan,
    sort_by_range,
)
from robe_numba.kernels.scalar import update_rules
from robe_numba.kernels.scalar.hashing import HashSpec
from robe_numba.kernels.scalar.unsigned import ONE, ZERO
from robe_numba.memory import scratch
from robe_numba.state_blocks import num_sums

GRADIENT, SGD, ADAGRAD = update_rules.GRADIENT, update_rules.SGD, update_rules.ADAGRAD


@inner
def axpy_scanned(target, base, low, size, reads, bias, spec, lr, found, ahead):
    """Move a range by the SGD rule with every piece that a scan finds; returns their number.

    Claims the target so many pieces `ahead`; 0 if it is in the cache.
    """
    total, read, num_reads = ZERO, ZERO, np.uint64(reads.indices.size)
    length, plain = min(spec.block_size, spec.embedding_dim), is_plain(reads, spec)
    while read < num_reads:
        count, read = scan(reads.starts, reads.rows, read, low, size, bias, spec, found)
        for k in range(count):
            if ahead:
                soon = found.places[min(k + ahead, count - ONE)]
                prefetch_write_block(target, base + soon - bias, length)
            piece = (found.reads[k], found.grads[k], found.places[k], size, bias)
            axpy_any(target, base, *piece, reads, spec, lr, plain, length)
        total += count
    return total


@inner
def adagrad_scanned(array, state_sum, low, size, sums, reads, bias, spec, rates, found):
    """Apply the sums of a range to what a scan finds touched."""
    read, num_reads = ZERO, np.uint64(reads.indices.size)
    while read < num_reads:
        count, read = scan(reads.starts, reads.rows, read, low, size, bias, spec, found)
        for k in range(count):
            piece = (found.grads[k], found.places[k], size, bias)
            adagrad_piece(array, state_sum, low, sums, *piece, spec, rates)


@inlined
def is_dense(count, size, spec):
    """Whether so many pieces touch most of a range: then it is not looked up where."""
    return count * min(spec.block_size, spec.embedding_dim) >= size >> ONE


@inlined
def owned_range(worker, num_workers, array_size, state_shift):
    """Where a worker's range begins and how long it is: an even share of whole state blocks."""
    blocks = (array_size + (ONE << state_shift) - ONE) >> state_shift
    first, last = share(blocks, worker, num_workers)
    low = first << state_shift
    return low, min(last << state_shift, array_size) - low


@jit(parallel=True)
def update_scanned(reads, bias, spec, array, state_sum, rates, sums, buffers, ahead):
    """Update with one range per worker, found by scanning; one iteration owns one range.

    sums (num_workers, longest range or 0) and buffers (num_workers, 3, capacity) are scratch.
    Adagrad where sums are not empty, else SGD. With `ahead` 0 a range is claimed as a whole.
    """
    num_workers = buffers.shape[0]
    for worker in prange(num_workers):
        low, size = owned_range(worker, num_workers, spec.array_size, rates.state_shift)
        total = sums[worker]
        found = Found(buffers[worker, 0], buffers[worker, 1], buffers[worker, 2])
        if total.size == 0:
            if ahead == ZERO:
                prefetch_write_block(array, low, size)
            axpy_scanned(array, low, low, size, reads, bias, spec, rates.lr, found, ahead)
        else:
            total[:] = 0
            minus = array.dtype.type(-1)
            count = axpy_scanned(total, ZERO, low, size, reads, bias, spec, minus, found, ZERO)
            if is_dense(count, size, spec):
                adagrad_range(array, state_sum, low, size, total, rates)
            else:
                adagrad_scanned(array, state_sum, low, size, total, reads, bias, spec, rates, found)


@inlined
def unpack(entry, reads, pieces, spec):
    """Read, first gradient and place of a sorted piece."""
    code = entry >> (pieces.shift + ONE)
    read, block = code >> pieces.block_bits, code & ((ONE << pieces.block_bits) - ONE)
    grad = output_element(read, block, reads.rows, spec)
    return read, grad, entry & ((ONE << (pieces.shift + ONE)) - ONE)


@inner
def axpy_sorted(target, base, order, first, last, size, reads, pieces, spec, lr, ahead):
    """Move a range by the SGD rule with its sorted pieces [first, last)."""
    length, plain = min(spec.block_size, spec.embedding_dim), is_plain(reads, spec)
    end = np.uint64(order.size) - ONE
    for k in range(first, last):
        _, soon, _ = unpack(order[min(k + ahead, end)], reads, pieces, spec)
        prefetch_block(reads.grad_out, soon, length)
        read, grad, place = unpack(order[k], reads, pieces, spec)
        piece = (read, grad, place, size, pieces.bias)
        axpy_any(target, base, *piece, reads, spec, lr, plain, length)


@inner
def adagrad_sorted(
    array, state_sum, low, order, first, last, size, sums, reads, pieces, spec, rates, ahead
):
    """Apply the sums of a range, where its sorted pieces [first, last) touch it."""
    if is_dense(last - first, size, spec):
        adagrad_range(array, state_sum, low, size, sums, rates)
        return
    length, end = min(spec.block_size, spec.embedding_dim), last - ONE
    for k in range(first, last):
        _, _, soon = unpack(order[min(k + ahead, end)], reads, pieces, spec)
        prefetch_sums(array, state_sum, low + soon - pieces.bias, length, rates)
        _, grad, place = unpack(order[k], reads, pieces, spec)
        piece = (grad, place, size, pieces.bias)
        adagrad_piece(array, state_sum, low, sums, *piece, spec, rates)


@jit(parallel=True)
def update_sorted(reads, pieces, spec, array, state_sum, rates, sums, order, bounds, ahead):
    """Update range by range of sorted pieces; one iteration owns a worker's ranges.

    sums (num_workers, elements of a range or 0) is scratch. Adagrad where it is not empty, else
    SGD.
    """
    num_workers, num_ranges = sums.shape[0], bounds.size - 1
    for worker in prange(num_workers):
        total = sums[worker]
        total[:] = 0
        for index in range(worker, num_ranges, num_workers):
            low = np.uint64(index) << pieces.shift
            size = min(ONE << pieces.shift, spec.array_size - low)
            first, last = np.uint64(bounds[index]), np.uint64(bounds[index + 1])
            part = (order, first, last, size)
            if total.size == 0:
                axpy_sorted(array, low, *part, reads, pieces, spec, rates.lr, ahead)
            else:
                minus = array.dtype.type(-1)
                axpy_sorted(total, ZERO, *part, reads, pieces, spec, minus, ahead)
                adagrad_sorted(
                    array, state_sum, low, *part, total, reads, pieces, spec, rates, ahead
                )


MAX_SHIFT = 16  # 2**16 float32 sums are 256 KB: they stay in a core's second-level cache
MIN_SHIFT = 8
RANGES_PER_WORKER = 8  # enough for an even share where ids are skewed
MAX_SCANS = 8  # workers that may each go through all starts
MAX_SCANNED_SUMS = 1 << 19  # elements of a worker's range, for Adagrad
SUMS_PER_OUTPUT = 1.0  # elements of all ranges per element of the output
SCAN_ROOM = 512  # pieces found at a time: 12 KB, which stay in the first-level cache
MAX_CLAIMED = 2 << 20  # bytes of a worker's range that may be claimed as a whole
AHEAD_BYTES, MAX_AHEAD = 4096, 64  # of gradients or array that are prefetched; pieces


def partition_for(spec: HashSpec, num_workers: int, state_shift: int) -> Partition:
    """Ranges of whole state blocks such that a block touches at most two neighbours, and the bits
    of a sorted piece.
    """
    shift = (int(spec.array_size) // (RANGES_PER_WORKER * num_workers)).bit_length()
    block = int(min(spec.block_size, spec.embedding_dim))
    shift = max(min(shift, MAX_SHIFT), MIN_SHIFT, (block - 1).bit_length(), state_shift)
    block_bits = (int(spec.num_blocks) - 1).bit_length()
    return Partition(np.uint64(1 << shift), np.uint64(shift), np.uint64(block_bits))


def update(
    rule: int,
    reads: Reads,
    spec: HashSpec,
    array: np.ndarray,
    state_sum: np.ndarray,
    lr: float,
    eps: float,
    num_workers: int,
    state_block: int = 1,
) -> None:
    """Apply a rule to `array` in place, given every read of the batch.

    `state_sum` (ceil(m / state_block),) is read and written by ADAGRAD alone; GRADIENT needs a
    zeroed `array`.
    """
    real, state_shift = array.dtype.type, state_block.bit_length() - 1
    rates = Rates(real(-1 if rule == GRADIENT else lr), real(eps), np.uint64(state_shift))
    block = int(min(spec.block_size, spec.embedding_dim))
    ahead = np.uint64(max(1, min(MAX_AHEAD, AHEAD_BYTES // (block * array.itemsize))))
    num_elements = reads.indices.size * int(spec.embedding_dim)
    range_size = -(-num_sums(int(spec.array_size), state_block) // num_workers) * state_block
    # Adagrad's sums of the whole array at once, but never more memory than the batch's output.
    fits = range_size <= min(MAX_SCANNED_SUMS, SUMS_PER_OUTPUT * reads.grad_out.size / num_workers)
    if num_workers <= MAX_SCANS and (rule != ADAGRAD or fits):
        sums = scratch("sums", (num_workers, range_size * (rule == ADAGRAD)), array.dtype)
        capacity = SCAN_ROOM + 2 * int(spec.num_blocks)
        buffers = scratch("pieces", (num_workers, 3, capacity), np.uint64)
        bias = np.uint64(block)
        if range_size * array.itemsize <= MAX_CLAIMED and num_elements >= spec.array_size:
            ahead = ZERO
        moved = (array, state_sum, rates, sums)
        launch(num_workers, update_scanned, reads, bias, spec, *moved, buffers, ahead)
        return
    pieces = partition_for(spec, num_workers, state_shift)
    num_ranges = -(-int(spec.array_size) >> int(pieces.shift))
    counts = scratch("counts", (num_workers, num_ranges + LINE), np.int64)
    bounds = scratch("bounds", (num_ranges + 1,), np.int64)
    launch(num_workers, count_in_ranges, reads.starts, pieces, spec, counts, bounds)
    order = scratch("order", (int(bounds[-1]),), np.uint64)
    launch(num_workers, sort_by_range, reads.starts, pieces, spec, counts, order)
    sums = scratch("sums", (num_workers, (1 << int(pieces.shift)) * (rule == ADAGRAD)), array.dtype)
    moved = (array, state_sum, rates, sums)
    launch(num_workers, update_sorted, reads, pieces, spec, *moved, order, bounds, ahead)
