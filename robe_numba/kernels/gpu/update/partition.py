"""Which blocks of a batch touch which segments of the array, on the GPU.

A segment is WIDTH neighbouring elements. The blocks that a batch read are sorted by the segment
where they begin, and otherwise stay in the order of the batch. The blocks that may touch a segment
are then neighbours, but for those that wrap around the end of the array.
"""

from typing import NamedTuple

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import cuda, function
from robe_numba.kernels.gpu.context import DeviceContext, constants_on
from robe_numba.kernels.gpu.launch import LANES, Kernel
from robe_numba.kernels.scalar.unsigned import ONE, ZERO
from robe_numba.spec import Spec

WIDTH = LANES  # elements of a segment: a warp owns it, and each lane an element
SHIFT = np.uint64(5)  # 1 << SHIFT is WIDTH


class SortedReads(NamedTuple):
    """Every block that a batch read, sorted by the segment where it begins."""

    order: DeviceArray  # int64 (n * num_blocks,), numbers of the blocks
    starts: DeviceArray  # uint64 (n * num_blocks,), where they begin
    sources: DeviceArray  # uint64 (n * num_blocks,), where their gradients begin in grad_out
    indices: DeviceArray  # (n,), ids
    scales: DeviceArray  # (n,), factor of the read in its row; (0,) for 1
    argmax: DeviceArray  # int64 (num_rows * d,), the read that gave each maximum, or (0,)
    mixed: bool  # whether argmax has `EVERY_READ`, in the rows where all reads count
    grad_out: DeviceArray  # (num_rows * d,)


class Ranges(NamedTuple):
    """The blocks that may touch each segment to be updated."""

    listed: DeviceArray  # uint64 (num_segments,); (0,) for all segments in order
    firsts: DeviceArray  # uint64 (num_segments,), the first of the sorted blocks
    lasts: DeviceArray  # uint64 (num_segments,), the one after the last
    skipped: np.uint64  # segments before the first of the array


@function
def lower_bound(segment, starts):
    """The first of the sorted blocks that begins in a segment or after it."""
    low, high = ZERO, np.uint64(starts.size)
    while low < high:
        middle = (low + high) >> ONE
        if starts[middle] >> SHIFT < segment:
            low = middle + ONE
        else:
            high = middle
    return low


@Kernel
def number_segments(starts, num_segments, numbers):
    """numbers (n,) = the segments where blocks begin; num_segments for padding."""
    i = cuda.grid(1)
    if i < starts.size:
        numbers[i] = min(starts[i] >> SHIFT, num_segments)


@Kernel
def arrange(order, starts, rows, spec, sorted_starts, sources):
    """sorted_starts and sources (n * num_blocks,) of the blocks in order, given the rows (n,) of
    the reads; (0,) if read i is row i.
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
    """The segments [begin, end) that block i may touch and no block before it.

    Blocks touch up to `reach` segments after the one where they begin. Segments up to `reach` are
    always listed.
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
    """counts (n,) = the number of segments that block i is the first to reach."""
    i = np.uint64(cuda.grid(1))
    if i < np.uint64(starts.size):
        begin, end = newly_reached(i, starts, reach, num_segments)
        counts[i] = end - begin


@Kernel
def list_reached(starts, reach, num_segments, ends, listed):
    """listed = the segments that blocks may touch, given the running sum of `count_reached`."""
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
    """Fill firsts and lasts of `ranges`; a thread searches for each segment."""
    i = np.uint64(cuda.grid(1))
    if i < np.uint64(ranges.firsts.size):
        segment = ranges.listed[i] if ranges.listed.size else ranges.skipped + i
        first = last = ZERO
        if segment < num_segments:  # the list may have unused places
            first = lower_bound(segment - min(reach, segment), starts)
            last = lower_bound(segment + ONE, starts)
        ranges.firsts[i], ranges.lasts[i] = first, last


def sort(
    context: DeviceContext,
    starts: DeviceArray,
    ids: DeviceArray,
    grads: DeviceArray,
    spec: Spec,
    rows: DeviceArray | None = None,
    scales: DeviceArray | None = None,
    argmax: DeviceArray | None = None,
    mixed: bool = False,
) -> SortedReads:
    """Sort the reads of a batch, given starts uint64 (n * num_blocks,) of ids (n,)."""
    num_segments = -(-spec.array_size // WIDTH)
    dtype = number_dtype(num_segments)
    numbers = context.empty((starts.size,), dtype)
    segments = np.uint64(num_segments)
    number_segments.launch_each(context, starts.size, starts, segments, arrays.of(numbers))
    order = arrays.of(context.xp.argsort(numbers, kind="stable"))
    none = arrays.nothing(np.int64)
    placed, sources = (context.scratch(starts.size, np.uint64) for _ in range(2))
    rows, constants = none if rows is None else rows, constants_on(spec, context.device)
    arrange.launch_each(context, starts.size, order, starts, rows, constants, placed, sources)
    return SortedReads(
        order=order,
        starts=placed,
        sources=sources,
        indices=ids,
        scales=arrays.nothing(grads.dtype) if scales is None else scales,
        argmax=none if argmax is None else argmax,
        mixed=mixed,
        grad_out=grads,
    )


def number_dtype(num_segments: int) -> type:
    """The smallest dtype for numbers up to num_segments: half the bits are half the sorting."""
    return next(t for t in (np.uint16, np.uint32, np.uint64) if num_segments <= np.iinfo(t).max)


def find_ranges(
    context: DeviceContext, reads: SortedReads, spec: Spec, size: int, skipped: int
) -> Ranges:
    """Find the blocks that may touch each segment of `size` elements after the skipped segments.

    If blocks can touch only few of all segments, only these are listed.
    """
    length = min(spec.block_size, spec.embedding_dim)
    reach = -(-(length - 1) // WIDTH)
    bounds = (np.uint64(reach), np.uint64(-(-spec.array_size // WIDTH)))
    num_segments, num_blocks = -(-size // WIDTH), reads.starts.size
    most, listed = (num_blocks + 1) * (reach + 1), arrays.nothing(np.uint64)
    if not skipped and most < num_segments:
        counts = context.empty((num_blocks,), np.int64)
        count_reached.launch_each(context, num_blocks, reads.starts, *bounds, arrays.of(counts))
        ends = arrays.of(context.xp.cumsum(counts))
        listed = arrays.of(context.xp.full(most, num_segments, np.uint64))
        count = max(num_blocks, reach + 1)
        list_reached.launch_each(context, count, reads.starts, *bounds, ends, listed)
        num_segments = most
    firsts, lasts = (context.scratch(num_segments, np.uint64) for _ in range(2))
    ranges = Ranges(listed, firsts, lasts, np.uint64(skipped))
    fill_ranges.launch_each(context, num_segments, reads.starts, *bounds, ranges)
    return ranges
