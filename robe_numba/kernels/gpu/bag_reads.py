"""The reads of bags on the GPU: which bag they belong to, and what the backward pass needs of them.

Offsets are not checked. Those that are out of place make bags read less, never other memory.
"""

from typing import NamedTuple

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import cuda, function, types
from robe_numba.kernels.gpu.context import DeviceContext, constants_on
from robe_numba.kernels.gpu.intrinsics import syncwarp
from robe_numba.kernels.gpu.launch import LANES, THREADS, Kernel
from robe_numba.kernels.scalar.bags import MEAN, Bags, is_padding
from robe_numba.kernels.scalar.hashing import NO_START, block_start, row_key
from robe_numba.kernels.scalar.unsigned import ONE, U32, ZERO
from robe_numba.spec import Spec


@function
def reads_of(bag, bags):
    """The first read of a bag, and the one after its last."""
    num_reads = np.uint64(bags.indices.size)
    first = min(np.uint64(bags.offsets[bag]), num_reads)
    return first, max(first, min(np.uint64(bags.offsets[bag + ONE]), num_reads))


@function
def hash_block(number, table, bags, spec):
    """Start of block number % num_blocks of a read; NO_START for padding."""
    read, block = number, ZERO
    if spec.num_blocks > ONE:
        read = number // spec.num_blocks
        block = number - read * spec.num_blocks
    index = np.uint64(bags.indices[read])
    if is_padding(index, bags):
        return NO_START
    return block_start(row_key(index, spec), table, block, spec)


@Kernel
def expand(bags, spec, starts, rows, scales):
    """A warp for each bag: starts (n * num_blocks,) and scales (n,) unless (0,), rows (n,).

    Every read gets a row, whatever the offsets are: reads outside all bags count to the first or
    the last.
    """
    counts = cuda.shared.array(THREADS, types.uint64)
    thread = np.uint64(cuda.threadIdx.x)
    lane = thread % U32
    bag = (np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + thread) // U32
    num_bags = np.uint64(bags.offsets.size) - ONE
    first = last = table = row = ZERO
    if bag < num_bags:
        first, last = reads_of(bag, bags)
        first = first if bag > ZERO else ZERO
        last = last if bag + ONE < num_bags else np.uint64(bags.indices.size)
        table = bag // bags.batch
        row = (bag - table * bags.batch) * spec.num_tables + table
    if starts.size:
        number = first * spec.num_blocks + lane
        while number < last * spec.num_blocks:
            starts[number] = hash_block(number, table, bags, spec)
            number += U32
    mean = scales.size and bag < num_bags and bags.modes[table] == MEAN
    count, read = ZERO, first + lane
    while read < last:
        rows[read] = row
        if mean and not is_padding(np.uint64(bags.indices[read]), bags):
            count += ONE
        if scales.size and not mean:
            scales[read] = bags.weights[read] if bags.weights.size else scales.dtype.type(1)
        read += U32
    if mean:  # the same in all lanes
        counts[thread] = count
        syncwarp()
        count, other = ZERO, thread - lane
        while other < thread - lane + U32:
            count += counts[other]
            other += ONE
        scale = scales.dtype.type(1) / scales.dtype.type(max(count, ONE))
        read = first + lane
        while read < last:
            scales[read] = scale
            read += U32


class ExpandedReads(NamedTuple):
    """What the backward pass needs of each read."""

    starts: DeviceArray  # uint64 (n * num_blocks,)
    rows: DeviceArray  # int64 (n,), of the flat output
    scales: DeviceArray  # (n,) of the output's dtype, the read's factor; (0,) for 1


def expand_reads(
    context: DeviceContext, bags: Bags, spec: Spec, real: np.dtype, starts: DeviceArray | None
) -> ExpandedReads:
    """Find what the backward pass needs of each read; starts are hashed unless given."""
    num_reads, num_bags = bags.indices.size, bags.offsets.size - 1
    hashed = arrays.nothing(np.uint64)
    if starts is None:
        hashed = starts = context.scratch(num_reads * spec.num_blocks, np.uint64)
    rows = context.scratch(num_reads, np.int64)
    scales = context.scratch(num_reads * bags.some_mean, real)
    if num_reads and num_bags:
        grid = -(-num_bags * LANES // THREADS)
        constants = constants_on(spec, context.device)
        expand.launch(context, grid, THREADS, bags, constants, hashed, rows, scales)
    return ExpandedReads(starts, rows, scales if bags.some_mean else bags.weights)
