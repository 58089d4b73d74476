"""Backward pass and updates: every contribution of a batch, exact and deterministic.

An element may be read from many places of a batch. Workers share out the array, not the batch: each
owns ranges of elements and goes through what touches them in the order of the batch. The order of
additions to an element is therefore the same for any number of workers and ranges, and so are the
bits.

SGD moves an element at each contribution. Adagrad must square the complete sum: a range's
contributions are first added up in a dense buffer that fits a core's cache, then applied.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba import update_rules
from robe_numba._jit import jit
from robe_numba.cpu.blocks import (
    U3,
    U4,
    U15,
    U16,
    block_length,
    move_block,
    move_signed,
    prefetch_block,
    prefetch_block_to_write,
    sign_bits,
)
from robe_numba.cpu.pieces import LINE, Pieces, count_in_ranges, scan, sort_by_range
from robe_numba.cpu.starts import ONE, ZERO, share
from robe_numba.cpu.vector import flip, load1, load4, load16, store, where_moved, zero_like
from robe_numba.hashing import HashSpec, row_key
from robe_numba.memory import scratch

GRADIENT, SGD, ADAGRAD = update_rules.GRADIENT, update_rules.SGD, update_rules.ADAGRAD


class Reads(NamedTuple):
    """Every read of a batch and the gradient of what it went into."""

    indices: np.ndarray  # uint64 (n,)
    starts: np.ndarray  # uint64 (n * num_blocks,), NOWHERE where padded
    rows: np.ndarray  # uint64 (n,), row of grad_out; (0,) where read i is row i
    scales: np.ndarray  # (n,), factor of the read in its row; (0,) for 1
    winners: np.ndarray  # int64 (num_rows * d,), the read that gave each maximum, or (0,)
    grad_out: np.ndarray  # (num_rows * d,)


class Rates(NamedTuple):
    """What a rule is given, in the dtype of the array; an SGD rate of -1 adds the gradient."""

    lr: np.floating
    eps: np.floating


@jit
def clip(place, length, size, pieces):
    """The part of a piece within its range of `size` elements, still with the bias."""
    return max(place, pieces.bias), min(place + length, pieces.bias + size)


@jit
def move_winners(target, t, reads, read, g, length, lr, key, table, element, spec):
    """Move target[t:t + length] where the read gave the maximum."""
    for j in range(length):
        if reads.winners[g + j] == np.int64(read):
            grad = reads.grad_out[g + j]
            if spec.sign:
                grad = flip(grad, sign_bits(key, table, element + j, spec))
            target[t + j] = update_rules.sgd(target[t + j], grad, lr)


@jit
def move_piece(target, base, code, place, size, reads, pieces, spec, lr):
    """Move the elements of a piece by the SGD rule; the range begins at target[base]."""
    read, block = code >> pieces.block_bits, code & ((ONE << pieces.block_bits) - ONE)
    begin, end = clip(place, block_length(block, spec), size, pieces)
    row = reads.rows[read] if reads.rows.size else read
    element = block * spec.block_size + (begin - place)
    t, g = base + (begin - pieces.bias), row * spec.embedding_dim + element
    scale = reads.scales[read] if reads.scales.size else target.dtype.type(1)
    if spec.sign or reads.winners.size:
        key, table = row_key(reads.indices[read], spec), row % spec.num_tables
        signs = (key, table, element, spec)
        if reads.winners.size:
            move_winners(target, t, reads, read, g, end - begin, lr, *signs)
        else:
            move_signed(target, t, reads.grad_out, g, end - begin, scale, lr, *signs)
    else:
        move_block(target, t, reads.grad_out, g, end - begin, scale, lr)


@jit
def adagrad_block(array, state_sum, p, sums, s, length, rates):
    """Move array[p:p + length] by the sums from s on, which become 0.

    Where a sum is 0 nothing moves: it was applied before, or nothing was read.
    """
    j = ZERO
    while j + U16 <= length:
        grad, old, old_sum = load16(sums, s + j), load16(array, p + j), load16(state_sum, p + j)
        new, new_sum = update_rules.adagrad(old, old_sum, grad, rates.lr, rates.eps)
        store(array, p + j, where_moved(grad, new, old))
        store(state_sum, p + j, where_moved(grad, new_sum, old_sum))
        store(sums, s + j, zero_like(grad))
        j += U16
    while j + U4 <= length:
        grad, old, old_sum = load4(sums, s + j), load4(array, p + j), load4(state_sum, p + j)
        new, new_sum = update_rules.adagrad(old, old_sum, grad, rates.lr, rates.eps)
        store(array, p + j, where_moved(grad, new, old))
        store(state_sum, p + j, where_moved(grad, new_sum, old_sum))
        store(sums, s + j, zero_like(grad))
        j += U4
    while j < length:
        grad = sums[s + j]
        if grad != 0:
            array[p + j], state_sum[p + j] = update_rules.adagrad(
                array[p + j], state_sum[p + j], grad, rates.lr, rates.eps
            )
            sums[s + j] = 0
        j += ONE


@jit
def adagrad_piece(array, state_sum, low, sums, code, place, size, pieces, spec, rates):
    """Move the elements of a piece by their sums; the range begins at array[low]."""
    block = code & ((ONE << pieces.block_bits) - ONE)
    begin, end = clip(place, block_length(block, spec), size, pieces)
    s = begin - pieces.bias
    adagrad_block(array, state_sum, low + s, sums, s, end - begin, rates)


@jit
def move_scanned(
    target, base, low, size, reads, pieces, spec, lr, codes, places, ahead
):
    """Move a range by the SGD rule with every piece that a scan finds; returns their number."""
    total, read, num_reads = 0, ZERO, np.uint64(reads.indices.size)
    length = min(spec.block_size, spec.embedding_dim)
    while read < num_reads:
        count, read = scan(reads.starts, read, low, size, pieces, spec, codes, places)
        for k in range(count):
            soon = places[min(k + ahead, count - 1)]
            prefetch_block_to_write(target, base + soon - pieces.bias, length)
            move_piece(target, base, codes[k], places[k], size, reads, pieces, spec, lr)
        total += count
    return total


@jit
def adagrad_scanned(array, state_sum, low, size, sums, reads, pieces, spec, rates, codes, places):
    """Apply the sums of a range to what a scan finds touched."""
    read, num_reads = ZERO, np.uint64(reads.indices.size)
    while read < num_reads:
        count, read = scan(reads.starts, read, low, size, pieces, spec, codes, places)
        for k in range(count):
            code, place = codes[k], places[k]
            adagrad_piece(array, state_sum, low, sums, code, place, size, pieces, spec, rates)


@jit(parallel=True)
def update_scanned(reads, pieces, spec, array, state_sum, rates, sums, codes, places, ahead):
    """Update with one range per worker, found by scanning; one iteration owns one range.

    sums (num_workers, longest range or 0), codes and places (num_workers, room) are scratch.
    Adagrad where sums are not empty, else SGD.
    """
    num_workers = codes.shape[0]
    one = array.dtype.type(1)
    block = np.int64(min(spec.block_size, spec.embedding_dim))
    for worker in prange(num_workers):
        low, high = share(spec.array_size, worker, num_workers)
        size = high - low
        code, place = codes[worker], places[worker]
        if sums.size == 0:
            move_scanned(
                array, low, low, size, reads, pieces, spec, rates.lr, code, place, ahead
            )
        else:
            total = sums[worker]
            total[:] = 0
            count = move_scanned(
                total, ZERO, low, size, reads, pieces, spec, -one, code, place, ahead
            )
            if count * block >= np.int64(size) // 2:  # nearly everything: no need to look where
                adagrad_block(array, state_sum, low, total, ZERO, size, rates)
            else:
                adagrad_scanned(
                    array, state_sum, low, size, total, reads, pieces, spec, rates, code, place
                )


@jit
def unpack(entry, pieces):
    """Code and place of a sorted piece."""
    return entry >> (pieces.shift + ONE), entry & ((ONE << (pieces.shift + ONE)) - ONE)


@jit
def prefetch_gradient(entry, reads, pieces, spec):
    """Ask for the gradient that a sorted piece will add."""
    code, _ = unpack(entry, pieces)
    read, block = code >> pieces.block_bits, code & ((ONE << pieces.block_bits) - ONE)
    row = reads.rows[read] if reads.rows.size else read
    g = row * spec.embedding_dim + block * spec.block_size
    prefetch_block(reads.grad_out, g, block_length(block, spec))


@jit(parallel=True)
def update_sorted(reads, pieces, spec, array, state_sum, rates, sums, order, bounds, ahead):
    """Update range by range of sorted pieces; one iteration owns a worker's ranges.

    sums (num_workers, elements of a range or 0) is scratch. Adagrad where it is not empty, else
    SGD.
    """
    num_workers, num_ranges = sums.shape[0], bounds.size - 1
    one = array.dtype.type(1)
    for worker in prange(num_workers):
        total = sums[worker]
        total[:] = 0
        for index in range(worker, num_ranges, num_workers):
            low = np.uint64(index) << pieces.shift
            size = min(ONE << pieces.shift, spec.array_size - low)
            for k in range(bounds[index], bounds[index + 1]):
                entry = order[k]
                soon = order[min(k + ahead, bounds[num_ranges] - 1)]
                prefetch_gradient(soon, reads, pieces, spec)
                code, place = unpack(entry, pieces)
                if total.size == 0:
                    move_piece(array, low, code, place, size, reads, pieces, spec, rates.lr)
                else:
                    move_piece(total, ZERO, code, place, size, reads, pieces, spec, -one)
            if total.size:
                for k in range(bounds[index], bounds[index + 1]):
                    code, place = unpack(order[k], pieces)
                    adagrad_piece(
                        array, state_sum, low, total, code, place, size, pieces, spec, rates
                    )


MAX_SHIFT = 16  # 2**16 float32 sums are 256 KB: they stay in a core's second-level cache
MIN_SHIFT = 8
RANGES_PER_WORKER = 8  # enough for an even share where ids are skewed
MAX_SCANS = 8  # workers that may each go through all starts
MAX_SCANNED_SUMS = 1 << 19  # elements of a worker's range, for Adagrad
SCAN_ROOM = 1024  # pieces found at a time: 16 KB, which stay in the first-level cache
AHEAD_BYTES = 4096  # of gradients or array that are prefetched


def range_shift(spec: HashSpec, num_workers: int) -> int:
    """log2 of the elements of a sorted range, such that a block touches at most two neighbours."""
    shift = (int(spec.array_size) // (RANGES_PER_WORKER * num_workers)).bit_length()
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
    real = array.dtype.type
    rates = Rates(real(-1 if rule == GRADIENT else lr), real(eps))
    block_bits = np.uint64((int(spec.num_blocks) - 1).bit_length())
    block = int(min(spec.block_size, spec.embedding_dim))
    ahead = max(1, AHEAD_BYTES // (block * array.itemsize))
    range_size = -(-int(spec.array_size) // num_workers)
    scans = num_workers <= MAX_SCANS
    if rule == ADAGRAD:
        scans = scans and range_size <= MAX_SCANNED_SUMS
    if scans:
        pieces = Pieces(block_bits, bias=np.uint64(block), shift=np.uint64(0))
        room = SCAN_ROOM + 2 * int(spec.num_blocks)
        width = range_size if rule == ADAGRAD else 0
        sums = scratch("sums", (num_workers, width), array.dtype)
        codes, places = scratch("pieces", (2, num_workers, room), np.uint64)
        update_scanned(
            reads, pieces, spec, array, state_sum, rates, sums, codes, places, min(ahead, 64)
        )
        return
    shift = range_shift(spec, num_workers)
    pieces = Pieces(block_bits, bias=np.uint64(1 << shift), shift=np.uint64(shift))
    num_ranges = -(-int(spec.array_size) >> shift)
    counts = scratch("counts", (num_workers, num_ranges + LINE), np.int64)
    bounds = scratch("bounds", (num_ranges + 1,), np.int64)
    count_in_ranges(reads.starts, pieces, spec, counts, bounds)
    order = scratch("order", (int(bounds[-1]),), np.uint64)
    sort_by_range(reads.starts, pieces, spec, counts, order)
    width = 1 << shift if rule == ADAGRAD else 0
    sums = scratch("sums", (num_workers, width), array.dtype)
    update_sorted(reads, pieces, spec, array, state_sum, rates, sums, order, bounds, ahead)
