"""Backward pass and updates on the GPU: exact, and the same bits from run to run.

A segment of the array is WIDTH neighbouring elements. The blocks that a batch read are sorted by
the segment where they begin, and otherwise stay in the batch's order. A warp goes through the
blocks that may touch its segment, a lane for each element, and so has the complete sum of each
element's gradients before it moves the element, once. No sum is made by atomic additions, whose
order nobody knows.

Segments that many blocks touch, as a frequent id makes them, are heavy: their blocks are cut into
chunks, always in the same places. Warps add up the chunks, then one adds the sums of a segment's
chunks in their order.
"""

from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray, Rate
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, function
from robe_numba.kernels.gpu.device import Work, device_spec
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.gpu.update.segments import (
    HEAVY,
    SHIFT,
    THREADS,
    WIDTH,
    Form,
    first_from,
    kernels,
)
from robe_numba.kernels.scalar.unsigned import ONE, ZERO
from robe_numba.spec import Spec

HEAVY_GRID = 2 if SIMULATED else 1024  # thread blocks that share the heavy segments


class Reads(NamedTuple):
    """Every block that a batch read, sorted by the segment where it begins."""

    order: DeviceArray  # int64 (n * num_blocks,), numbers of the blocks
    starts: DeviceArray  # uint64 (n * num_blocks,), where they begin
    sources: DeviceArray  # uint64 (n * num_blocks,), place of their first gradient in grad_out
    indices: DeviceArray  # (n,), ids
    scales: DeviceArray  # (n,), factor of the read in its row; (0,) for 1
    winners: DeviceArray  # int64 (num_rows * d,), the read that gave each maximum, or (0,)
    grad_out: DeviceArray  # (num_rows * d,)


class Ranges(NamedTuple):
    """Which blocks may touch each segment that is gone through."""

    listed: DeviceArray  # uint64 (num_segments,); (0,) for all segments in order
    firsts: DeviceArray  # uint64 (num_segments,), the first block in the order of `Reads`
    lasts: DeviceArray  # uint64 (num_segments,), the one after the last
    skipped: np.uint64  # segments before the first of the array


class Heavy(NamedTuple):
    """The heavy segments of an update, and their chunks."""

    counts: DeviceArray  # int64 (2,), how many segments and how many chunks there are
    segments: DeviceArray  # uint64, by number in the order of `Ranges`
    chunks: DeviceArray  # uint64, the number of each segment's first chunk
    sizes: DeviceArray  # uint64, how many chunks it has
    owners: DeviceArray  # uint64, the segment of each chunk
    sums: DeviceArray  # (chunks * WIDTH,) of each chunk


@Kernel
def number_segments(starts, num_segments, numbers):
    """numbers (n,): the segments where blocks begin; num_segments for those that are nowhere."""
    i = cuda.grid(1)
    if i < starts.size:
        numbers[i] = min(starts[i] >> SHIFT, num_segments)


@Kernel
def arrange(order, starts, rows, spec, sorted_starts, sources):
    """sorted_starts and sources (n * num_blocks,) of the blocks in order; rows (n,) of the reads,
    or (0,) where read i is row i.
    """
    i = cuda.grid(1)
    if i < order.size:
        number = np.uint64(order[i])
        read, block = number // spec.num_blocks, number % spec.num_blocks
        row = np.uint64(rows[read]) if rows.size else read
        sources[i] = row * spec.embedding_dim + block * spec.block_size
        sorted_starts[i] = starts[number]


@function
def newly_reached(i, starts, reach, num_segments):
    """The segments [begin, end) that block i may touch and none before it. Blocks touch up to
    `reach` segments after the one where they begin; those up to `reach` are always listed.
    """
    segment, covered = starts[i] >> SHIFT, reach
    if segment >= num_segments:
        return ZERO, ZERO
    if i:
        covered = max(covered, (starts[i - ONE] >> SHIFT) + reach)
    begin, end = max(covered + ONE, segment), min(segment + reach + ONE, num_segments)
    return min(begin, end), end


@Kernel
def count_reached(starts, reach, num_segments, counts):
    """counts (n,): how many segments block i is the first to reach."""
    i = np.uint64(cuda.grid(1))
    if i < np.uint64(starts.size):
        begin, end = newly_reached(i, starts, reach, num_segments)
        counts[i] = end - begin


@Kernel
def list_reached(starts, reach, num_segments, ends, listed):
    """listed: the segments that blocks may touch, given the running sum of `count_reached`."""
    i = np.uint64(cuda.grid(1))
    if i <= reach:
        listed[i] = i
    if i < np.uint64(starts.size):
        begin, end = newly_reached(i, starts, reach, num_segments)
        for segment in range(begin, end):
            segment = np.uint64(segment)
            listed[reach + np.uint64(ends[i]) - (end - ONE - segment)] = segment


@Kernel
def fill_ranges(starts, reach, num_segments, ranges):
    """firsts and lasts of `ranges`: a thread searches for each segment."""
    i = np.uint64(cuda.grid(1))
    if i < np.uint64(ranges.firsts.size):
        segment = ranges.listed[i] if ranges.listed.size else ranges.skipped + i
        first = last = ZERO
        if segment < num_segments:  # the list may be longer than there is to list
            first = first_from(segment - min(reach, segment), starts)
            last = first_from(segment + ONE, starts)
        ranges.firsts[i], ranges.lasts[i] = first, last


def sort(
    work: Work,
    starts: DeviceArray,
    ids: DeviceArray,
    grads: DeviceArray,
    spec: Spec,
    rows: DeviceArray | None = None,
    scales: DeviceArray | None = None,
    winners: DeviceArray | None = None,
) -> Reads:
    """The reads of a batch, sorted, given starts uint64 (n * num_blocks,) of ids (n,)."""
    num_segments = -(-spec.array_size // WIDTH)
    dtype = number_dtype(num_segments)
    numbers = work.empty((starts.size,), dtype)
    by_threads(
        *(work, number_segments, starts.size),
        *(starts, np.uint64(num_segments), arrays.of(numbers)),
    )
    order = arrays.of(work.xp.argsort(numbers, kind="stable"))
    none = arrays.nothing(np.int64)
    placed, sources = (work.scratch(starts.size, np.uint64) for _ in range(2))
    by_threads(
        *(work, arrange, starts.size),
        *(order, starts, none if rows is None else rows, device_spec(spec, work), placed, sources),
    )
    return Reads(
        order=order,
        starts=placed,
        sources=sources,
        indices=ids,
        scales=arrays.nothing(grads.dtype) if scales is None else scales,
        winners=none if winners is None else winners,
        grad_out=grads,
    )


def number_dtype(num_segments: int) -> type:
    """For numbers of segments, and one more: half the bits are half the sorting."""
    return next(t for t in (np.uint16, np.uint32, np.uint64) if num_segments <= np.iinfo(t).max)


def by_threads(work: Work, kernel: Kernel, count: int, *arguments: Any) -> None:
    """Launch a kernel with a thread for each of `count`."""
    if count:
        kernel.launch(work, -(-count // THREADS), THREADS, *arguments)


def find_ranges(work: Work, reads: Reads, spec: Spec, size: int, skipped: int) -> Ranges:
    """The blocks that may touch each segment of `size` elements after the skipped segments.

    Where few of all segments can be touched, these alone are listed.
    """
    length = min(spec.block_size, spec.embedding_dim)
    reach = -(-(length - 1) // WIDTH)
    bounds = (np.uint64(reach), np.uint64(-(-spec.array_size // WIDTH)))
    num_segments, num_blocks = -(-size // WIDTH), reads.starts.size
    most, listed = (num_blocks + 1) * (reach + 1), arrays.nothing(np.uint64)
    if not skipped and most < num_segments:
        counts = work.empty((num_blocks,), np.int64)
        by_threads(work, count_reached, num_blocks, reads.starts, *bounds, arrays.of(counts))
        ends = arrays.of(work.xp.cumsum(counts))
        listed = arrays.of(work.xp.full(most, num_segments, np.uint64))
        count = max(num_blocks, reach + 1)
        by_threads(work, list_reached, count, reads.starts, *bounds, ends, listed)
        num_segments = most
    firsts, lasts = (work.scratch(num_segments, np.uint64) for _ in range(2))
    ranges = Ranges(listed, firsts, lasts, np.uint64(skipped))
    by_threads(work, fill_ranges, num_segments, reads.starts, *bounds, ranges)
    return ranges


def update(
    work: Work,
    rule: int,
    reads: Reads,
    spec: Spec,
    array: DeviceArray,
    state_sum: DeviceArray,
    lr: Rate,
    eps: float,
    skipped: int = 0,
) -> None:
    """Apply a rule to `array` in place; `state_sum` is used by ADAGRAD alone.

    `array` may be a part of the one that was read, from the segment after the skipped ones on.
    """
    if reads.grad_out.size == 0 or reads.starts.size == 0:
        return
    real = array.dtype.type
    ranges = find_ranges(work, reads, spec, array.size, skipped)
    num_ranges = ranges.firsts.size
    # A block counts in the segments that it may touch, and once more around the array's end.
    length = min(spec.block_size, spec.embedding_dim)
    counted = reads.starts.size * 2 * (-(-(length - 1) // WIDTH) + 1) // int(HEAVY) + 1
    most = min(num_ranges, counted)
    heavy = Heavy(
        counts=arrays.of(work.zeros((2,), np.int64)),
        segments=work.scratch(most, np.uint64),
        chunks=work.scratch(most, np.uint64),
        sizes=work.scratch(most, np.uint64),
        owners=work.scratch(most + counted, np.uint64),
        sums=work.scratch((most + counted) * WIDTH, array.dtype),
    )
    form = Form(
        sign=spec.sign,
        scaled=reads.scales.size > 0,
        chosen=reads.winners.size > 0,
        ragged=spec.embedding_dim % length > 0,
    )
    chosen = kernels(form)
    constants, moved = device_spec(spec, work), (array, state_sum, lr, real(eps))
    grid = -(-num_ranges * WIDTH // THREADS)
    light = (rule, reads, constants, ranges, heavy, *moved)
    chosen.update_light.launch(work, grid, THREADS, *light)
    chosen.add_chunks.launch(work, HEAVY_GRID, THREADS, reads, constants, ranges, heavy)
    chosen.move_heavy.launch(work, HEAVY_GRID, THREADS, rule, heavy, ranges, *moved)
