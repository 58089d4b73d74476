"""Backward pass and updates on the GPU: exact, and the same bits from run to run.

The array is cut into segments, see `partition.py`. A warp goes through all blocks that may touch
its segment, with one lane for each element. So it has the complete sum of each element's gradients
before it updates the element, once. Nothing is summed by atomic additions, whose order varies.

Segments that many blocks touch, as a frequent id makes them, are heavy: their blocks are cut into
chunks, always at the same places. Warps sum the chunks; then one warp adds the sums of a segment's
chunks in their order.
"""

from typing import NamedTuple

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray, Rate
from robe_numba.kernels.gpu.compiler import SIMULATED
from robe_numba.kernels.gpu.context import DeviceContext, constants_on
from robe_numba.kernels.gpu.launch import THREADS
from robe_numba.kernels.gpu.update.partition import WIDTH, SortedReads, find_ranges
from robe_numba.kernels.gpu.update.segments import (
    HEAVY,
    UpdateVariant,
    apply_heavy,
    segment_kernels,
)
from robe_numba.spec import Spec

HEAVY_GRID = 2 if SIMULATED else 1024  # thread blocks that share the heavy segments


class Heavy(NamedTuple):
    """The heavy segments of an update, and their chunks."""

    counts: DeviceArray  # int64 (2,), the numbers of segments and of chunks
    segments: DeviceArray  # uint64, by number in the order of `Ranges`
    chunks: DeviceArray  # uint64, the number of each segment's first chunk
    sizes: DeviceArray  # uint64, its number of chunks
    owners: DeviceArray  # uint64, the segment of each chunk
    sums: DeviceArray  # (chunks * WIDTH,) of each chunk


def update(
    context: DeviceContext,
    rule: int,
    reads: SortedReads,
    spec: Spec,
    array: DeviceArray,
    state_sum: DeviceArray,
    lr: Rate,
    eps: float,
    skipped: int = 0,
) -> None:
    """Apply a rule to `array` in place; only ADAGRAD uses `state_sum`.

    `array` may be a part of the one that was read, which begins after the skipped segments.
    """
    if reads.grad_out.size == 0 or reads.starts.size == 0:
        return
    real = array.dtype.type
    ranges = find_ranges(context, reads, spec, array.size, skipped)
    num_ranges = ranges.firsts.size
    # A block counts in the segments that it may touch, and once more around the array's end.
    length = min(spec.block_size, spec.embedding_dim)
    counted = reads.starts.size * 2 * (-(-(length - 1) // WIDTH) + 1) // int(HEAVY) + 1
    most = min(num_ranges, counted)
    heavy = Heavy(
        counts=arrays.of(context.zeros((2,), np.int64)),
        segments=context.scratch(most, np.uint64),
        chunks=context.scratch(most, np.uint64),
        sizes=context.scratch(most, np.uint64),
        owners=context.scratch(most + counted, np.uint64),
        sums=context.scratch((most + counted) * WIDTH, array.dtype),
    )
    kernels = segment_kernels(
        UpdateVariant(
            sign=spec.sign,
            scaled=reads.scales.size > 0,
            argmax=reads.argmax.size > 0,
            mixed=reads.mixed,
            ragged=spec.embedding_dim % length > 0,
        )
    )
    constants, moved = constants_on(spec, context.device), (array, state_sum, lr, real(eps))
    grid = -(-num_ranges * WIDTH // THREADS)
    light = (rule, reads, constants, ranges, heavy, *moved)
    kernels.update_light.launch(context, grid, THREADS, *light)
    kernels.add_chunks.launch(context, HEAVY_GRID, THREADS, reads, constants, ranges, heavy)
    apply_heavy.launch(context, HEAVY_GRID, THREADS, rule, heavy, ranges, *moved)
