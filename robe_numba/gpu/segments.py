"""Backward pass and updates on the GPU: exact, and the same bits from run to run.

The blocks that a batch read are sorted by where they begin in the array. A segment of the array is
WIDTH neighbouring elements, a lane for each. A warp goes through the blocks that may touch its
segment, in sorted order, and so has the complete sum of each element's gradients before it moves
the element, once. Segments that many blocks touch, as a frequent id makes them, are left to whole
thread blocks. No sum is made by atomic additions, whose order nobody knows.

A warp waits for memory, not for arithmetic: it looks at UNROLL blocks at a time, without branches,
so that their reads are under way together.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from robe_numba import update_rules
from robe_numba.gpu.device import SIMULATED, as_seen, device_spec
from robe_numba.gpu.gather import signed
from robe_numba.hashing import NOWHERE, row_key
from robe_numba.spec import Spec
from robe_numba.unsigned import ONE, ZERO

WIDTH = 32  # elements of a segment, and lanes of a warp
SHIFT = np.uint64(5)
UNROLL = 4  # blocks that a thread looks at together
THREADS = 64 if SIMULATED else 256  # of a thread block
WARPS = THREADS // WIDTH
# Segments that more blocks may touch take a thread block.
HEAVY = 8 if SIMULATED else 256
HEAVY_GRID = 2 if SIMULATED else 1024  # thread blocks that share the heavy segments
ADAGRAD, SGD = update_rules.ADAGRAD, update_rules.SGD


class Reads(NamedTuple):
    """Every block that a batch read, and the gradient of what it went into."""

    order: Any  # int64 (n * num_blocks,), numbers of blocks in the order of where they begin
    starts: Any  # (n * num_blocks,), where they begin, in that order; NOWHERE is last
    sources: Any  # uint64 (n * num_blocks,), place of their first gradient in grad_out, likewise
    lengths: Any  # uint32 (n * num_blocks,), elements that they have, likewise
    bounds: Any  # int64 (num_segments + 1,), the first block that begins in a segment or later
    indices: Any  # (n,), ids
    scales: Any  # (n,), factor of the read in its row; (0,) for 1
    winners: Any  # int64 (num_rows * d,), the read that gave each maximum, or (0,)
    grad_out: Any  # (num_rows * d,)


@cuda.jit
def fill_sources(order, rows, spec, sources, lengths):
    """sources and lengths (n * num_blocks,) of the blocks in order; rows (n,) of the reads, or (0,)
    where read i is row i.
    """
    i = cuda.grid(1)
    if i < order.size:
        number = np.uint64(order[i])
        read, block = number // spec.num_blocks, number % spec.num_blocks
        row = np.uint64(rows[read]) if rows.size else read
        element = block * spec.block_size
        sources[i] = row * spec.embedding_dim + element
        lengths[i] = min(spec.block_size, spec.embedding_dim - element)


@cuda.jit
def fill_bounds(starts, bounds):
    """bounds (num_segments + 1,) of sorted starts (n,): a thread searches for each."""
    segment = cuda.grid(1)
    if segment < bounds.size:
        low, high, wanted = 0, starts.size, np.uint64(segment) << SHIFT
        while low < high:
            middle = (low + high) // 2
            if np.uint64(starts[middle]) < wanted:
                low = middle + 1
            else:
                high = middle
        bounds[segment] = low


@cuda.jit(device=True)
def place_of(i, element, wrap, reads):
    """Where in grad_out the i-th block in order has its gradient of an element, or NOWHERE; `wrap`
    is m for a block that wraps around.
    """
    offset = np.uint64(element) + wrap - np.uint64(reads.starts[i])  # huge if it begins later
    return reads.sources[i] + offset if offset < np.uint64(reads.lengths[i]) else NOWHERE


@cuda.jit(device=True)
def gradient_at(place, reads):
    """The gradient at a place, or anything if that is NOWHERE: no branch keeps reads apart."""
    return reads.grad_out[ZERO if place == NOWHERE else place]


@cuda.jit(device=True)
def counted(grad, i, place, reads, spec):
    """How a gradient counts by the sign, the factor and the winner of the i-th block's read."""
    if place != NOWHERE:
        read = np.uint64(reads.order[i]) // spec.num_blocks
        if reads.winners.size and reads.winners[place] != np.int64(read):
            return reads.grad_out.dtype.type(0)
        row, column = place // spec.embedding_dim, place % spec.embedding_dim
        key = row_key(np.uint64(reads.indices[read]), spec)
        grad = signed(grad, key, row % spec.num_tables, column, spec)
        if reads.scales.size:
            grad = grad * reads.scales[read]
    return grad


@cuda.jit(device=True)
def touching(segment, reads, spec):
    """Ranges of blocks that may touch a segment: [first, last), and [wrapping, end) around."""
    length = min(spec.block_size, spec.embedding_dim)
    low = np.uint64(segment) << SHIFT
    first = reads.bounds[(low - min(length - ONE, low)) >> SHIFT]
    last, end = reads.bounds[segment + 1], reads.bounds[reads.bounds.size - 1]
    wrapping = end
    if low + ONE < length:
        wrapping = reads.bounds[(low + spec.array_size - length + ONE) >> SHIFT]
    return first, last, wrapping, end


@cuda.jit(device=True)
def add_range(total, begin, last, step, element, wrap, reads, spec):
    """Add what every `step`-th of the blocks [begin, last) adds, in their order."""
    zero, end = reads.grad_out.dtype.type(0), last - 1
    plain = not (spec.sign or reads.scales.size or reads.winners.size)
    for i_0 in range(begin, last, UNROLL * step):
        i_1, i_2, i_3 = i_0 + step, i_0 + 2 * step, i_0 + 3 * step
        p_0 = place_of(i_0, element, wrap, reads)
        p_1 = place_of(min(i_1, end), element, wrap, reads)
        p_2 = place_of(min(i_2, end), element, wrap, reads)
        p_3 = place_of(min(i_3, end), element, wrap, reads)
        p_1, p_2 = p_1 if i_1 < last else NOWHERE, p_2 if i_2 < last else NOWHERE
        p_3 = p_3 if i_3 < last else NOWHERE
        g_0, g_1 = gradient_at(p_0, reads), gradient_at(p_1, reads)
        g_2, g_3 = gradient_at(p_2, reads), gradient_at(p_3, reads)
        if not plain:
            g_0, g_1 = counted(g_0, i_0, p_0, reads, spec), counted(g_1, i_1, p_1, reads, spec)
            g_2, g_3 = counted(g_2, i_2, p_2, reads, spec), counted(g_3, i_3, p_3, reads, spec)
        total += zero if p_0 == NOWHERE else g_0
        total += zero if p_1 == NOWHERE else g_1
        total += zero if p_2 == NOWHERE else g_2
        total += zero if p_3 == NOWHERE else g_3
    return total


@cuda.jit(device=True)
def add_up(element, begin, step, ranges, reads, spec):
    """Sum of what every `step`-th of the blocks that may touch a segment adds to an element."""
    first, last, wrapping, end = ranges
    total = reads.grad_out.dtype.type(0)
    total = add_range(total, first + begin, last, step, element, ZERO, reads, spec)
    return add_range(total, wrapping + begin, end, step, element, spec.array_size, reads, spec)


@cuda.jit(device=True)
def move(rule, element, total, array, state_sum, lr, eps):
    """Apply a rule to an element, given the sum of its gradients."""
    if rule == ADAGRAD:
        array[element], state_sum[element] = update_rules.adagrad(
            array[element], state_sum[element], total, lr, eps
        )
    elif rule == SGD:
        array[element] = update_rules.sgd(array[element], total, lr)
    else:
        array[element] = total


@cuda.jit
def update_light(rule, reads, spec, array, state_sum, lr, eps, heavy, num_heavy, skipped):
    """A warp for each segment of `array`, which begins after so many skipped ones; those that are
    heavy are listed and left.
    """
    thread = cuda.grid(1)
    segment, element = skipped + thread // WIDTH, skipped * WIDTH + thread
    if thread // WIDTH * WIDTH < array.size:
        ranges = touching(segment, reads, spec)
        first, last, wrapping, end = ranges
        if last - first + end - wrapping > HEAVY:
            if thread % WIDTH == 0:
                heavy[cuda.atomic.add(num_heavy, 0, 1)] = segment
        elif last - first + end - wrapping > 0 and thread < array.size:
            total = add_up(element, 0, 1, ranges, reads, spec)
            if total != 0:
                move(rule, thread, total, array, state_sum, lr, eps)


@cuda.jit
def update_heavy(rule, reads, spec, array, state_sum, lr, eps, heavy, num_heavy, skipped):
    """A thread block for each listed segment: its warps share the blocks, the first adds up.

    Shared memory: THREADS elements of the array's dtype.
    """
    sums = cuda.shared.array(0, array.dtype)
    warp, lane = cuda.threadIdx.x // WIDTH, cuda.threadIdx.x % WIDTH
    for k in range(cuda.blockIdx.x, num_heavy[0], cuda.gridDim.x):
        segment = heavy[k]
        element = segment * WIDTH + lane
        ranges = touching(segment, reads, spec)
        sums[cuda.threadIdx.x] = add_up(element, warp, WARPS, ranges, reads, spec)
        cuda.syncthreads()
        place = element - skipped * WIDTH
        if warp == 0 and place < array.size:
            total = sums[lane]
            for other in range(1, WARPS):
                total += sums[other * WIDTH + lane]
            if total != 0:
                move(rule, place, total, array, state_sum, lr, eps)
        cuda.syncthreads()


def key_dtype(array_size: int) -> type:
    """By what starts are sorted: half the bits are half the work.

    NOWHERE, cut to as many bits, must stay beyond the last segment, which may go on beyond the
    array.
    """
    return np.uint32 if array_size <= 2**32 - WIDTH else np.uint64


def sort(
    work: Any,
    starts: Any,
    ids: Any,
    grads: Any,
    spec: Spec,
    rows: Any = None,
    scales: Any = None,
    winners: Any = None,
) -> Reads:
    """The reads of a batch, sorted, given starts uint64 (n * num_blocks,) of ids (n,)."""
    order, placed = work.order(starts, key_dtype(spec.array_size))
    num_segments = -(-spec.array_size // WIDTH)
    bounds = as_seen(work.empty((num_segments + 1,), np.int64))
    sources = as_seen(work.empty((starts.size,), np.uint64))
    lengths = as_seen(work.empty((starts.size,), np.uint32))
    none = as_seen(work.empty((0,), np.int64))
    fill_bounds[-(-bounds.size // THREADS), THREADS, work.stream](placed, bounds)
    if starts.size:
        constants = order, none if rows is None else rows, device_spec(spec)
        grid = -(-starts.size // THREADS)
        fill_sources[grid, THREADS, work.stream](*constants, sources, lengths)
    return Reads(
        order=order,
        starts=placed,
        sources=sources,
        lengths=lengths,
        bounds=bounds,
        indices=ids,
        scales=as_seen(work.empty((0,), grads.dtype)) if scales is None else scales,
        winners=none if winners is None else winners,
        grad_out=grads,
    )


def update(
    work: Any,
    rule: int,
    reads: Reads,
    spec: Spec,
    array: Any,
    state_sum: Any,
    lr: float,
    eps: float,
    skipped: int = 0,
) -> None:
    """Apply a rule to `array` in place; `state_sum` is used by ADAGRAD alone.

    `array` may be a part of the one that was read, from the segment after the skipped ones on.
    """
    if reads.grad_out.size == 0:
        return
    real = array.dtype.type
    num_segments = -(-array.size // WIDTH)
    length = min(spec.block_size, spec.embedding_dim)
    counted = 2 * ((length + WIDTH - 2) // WIDTH + 1)  # segments that a block may count in
    most = min(num_segments, reads.starts.size * counted // HEAVY + 1)
    heavy = as_seen(work.empty((most,), np.int64))
    num_heavy = as_seen(work.zeros((1,), np.int64))
    constants = (rule, reads, device_spec(spec), array, state_sum, real(lr), real(eps))
    listed = (heavy, num_heavy, np.int64(skipped))
    grid = -(-num_segments * WIDTH // THREADS)
    update_light[grid, THREADS, work.stream](*constants, *listed)
    shared = THREADS * array.dtype.itemsize
    update_heavy[HEAVY_GRID, THREADS, work.stream, shared](*constants, *listed)
