"""Pooling bags on the GPU.

A stretch is some neighbouring columns of one block of a bag's row of the output. A group of lanes
pools it; each lane owns a few columns and goes through all reads of the bag. First each lane hashes
one of the next reads into shared memory. Then all go through these, several at a time, so that a
thread waits for all their elements at once. Sums are added in the CPU's order, so they have the
same bits.
"""

from functools import cache

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.bag_stretches import (
    BLOCK,
    COUNT,
    TABLE,
    Lane,
    PoolVariant,
    Slots,
    clear,
    hash_read,
    most_reads,
    pool_window,
    stretch_of,
    write,
)
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, types
from robe_numba.kernels.gpu.context import DeviceContext, constants_on
from robe_numba.kernels.gpu.intrinsics import syncwarp
from robe_numba.kernels.gpu.launch import LANES, THREADS, Kernel
from robe_numba.kernels.gpu.lookup import in_vectors
from robe_numba.kernels.scalar.bags import MEAN, Bags
from robe_numba.spec import Spec


@cache
def pool_kernel(variant: PoolVariant) -> Kernel:
    """Make `pool_bags` for a variant.

    Its closure holds no device functions: Numba would not find the kernel in its cache again.
    """
    word, word_type = (np.uint32, types.uint32) if variant.narrow else (np.uint64, types.uint64)
    zero, lanes, window = word(0), word(variant.lanes), word(variant.window)
    columns, vectors = word(variant.columns), variant.vectors
    num_columns, num_values = variant.columns, variant.columns * variant.reads
    num_slots = THREADS // variant.lanes * variant.window
    num_windows, num_scales = num_slots if variant.sign else 1, num_slots if variant.weighted else 1
    num_best = variant.columns if variant.largest else 1

    def pool_bags(array, bags, spec, starts, out, argmax):
        """A group of lanes for each stretch of out (batch * num_tables * d,). The starts and, for
        maxima, argmax are written unless (0,).

        argmax is the first read of the largest element, -1 in an empty bag. A NaN is larger than
        any number.
        """
        begins = cuda.shared.array(num_slots, word_type)
        windows = cuda.shared.array(num_windows, types.uint64)
        scales = cuda.shared.array(num_scales, out.dtype)
        slots = Slots(begins, windows, scales)
        shared = cuda.shared.array((3, THREADS), word_type)
        values = cuda.local.array(num_values, out.dtype)
        totals = cuda.local.array(num_columns, out.dtype)
        best_reads = cuda.local.array(num_best, types.int64)
        places = cuda.local.array(num_columns, word_type)
        thread = word(cuda.threadIdx.x)
        number, slot = word(thread % lanes), word(thread // lanes * window)
        own = word(number * columns) if vectors else number
        group = word((np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + thread) // lanes)
        stretch, size = stretch_of(group, bags, spec, variant, word), word(spec.array_size)
        lane = Lane(own, places, values, totals, best_reads)
        clear(lane, stretch, variant, word)
        # Only hashing needs these; they leave the registers to the loads.
        shared[TABLE, thread], shared[BLOCK, thread] = stretch.table, stretch.block
        shared[COUNT, thread] = stretch.count
        syncwarp()
        most, kept, done = most_reads(thread, shared, variant, word), zero, zero
        while done < most:
            syncwarp()
            k = number
            table, block = np.uint64(shared[TABLE, thread]), np.uint64(shared[BLOCK, thread])
            while k < window:
                read, i = word(done + k), word(slot + k)
                hash_read(read, stretch, table, block, bags, spec, starts, slots, i, variant, word)
                k = word(k + lanes)
            syncwarp()
            count = zero
            if done < stretch.count:
                count = min(window, word(stretch.count - done))
            kept = pool_window(
                array, size, slots, slot, stretch.first + done, count, lane, kept, variant, word
            )
            done = word(done + window)
        count = kept if variant.padded else stretch.count
        table, mean = np.uint64(shared[TABLE, thread]), False
        if not variant.largest and bags.some_mean:
            mean = bags.modes[table] == MEAN
        write(lane, count, stretch, mean, out, argmax, variant, word)

    return Kernel(pool_bags)


def variant_of(
    array: DeviceArray, bags: Bags, spec: Spec, out: DeviceArray, largest: bool
) -> PoolVariant:
    """What the kernel of a call is compiled for."""
    length, vectors = min(spec.block_size, spec.embedding_dim), in_vectors(spec, array, out)
    if vectors:  # a window of signs has 64 columns
        lanes, columns = min(length // 4, 16 if spec.sign else LANES), 4
    else:
        lanes, columns = min(length, LANES), 2 if length > LANES else 1
    if SIMULATED:  # a lane is a thread of Python, which takes milliseconds
        lanes, columns = min(lanes, 4), 4
    highest = max(spec.array_size + length, bags.indices.size, 2 * out.size)
    lanes = 1 << (lanes - 1).bit_length()
    return PoolVariant(
        largest=largest,
        mixed=bags.some_max and not bags.all_max,
        vectors=vectors,
        sign=spec.sign,
        weighted=bags.weights.size > 0 and not largest,
        padded=bags.padded,
        narrow=highest < (1 << 32) - 2 * LANES,
        lanes=lanes,
        columns=columns,
        step=1 if vectors else lanes,
        reads=2 if SIMULATED else 4 if vectors else 8,
    )


def pool(
    context: DeviceContext,
    array: DeviceArray,
    bags: Bags,
    spec: Spec,
    starts: DeviceArray,
    out: DeviceArray,
) -> None:
    """Fill out (batch * num_tables * d,) where tables take the sum or the mean; and the starts of
    their reads, unless (0,).
    """
    _launch(context, array, bags, spec, starts, out, None)


def pool_max(
    context: DeviceContext,
    array: DeviceArray,
    bags: Bags,
    spec: Spec,
    starts: DeviceArray,
    out: DeviceArray,
    argmax: DeviceArray,
) -> None:
    """As `pool`, where tables take the maximum; and unless (0,) argmax (batch * num_tables * d,),
    the read that gave each element.
    """
    _launch(context, array, bags, spec, starts, out, argmax)


def _launch(
    context: DeviceContext,
    array: DeviceArray,
    bags: Bags,
    spec: Spec,
    starts: DeviceArray,
    out: DeviceArray,
    argmax: DeviceArray | None,
) -> None:
    """Pool the maxima if `argmax` is given, else the sums and means."""
    if out.size == 0:
        return
    variant = variant_of(array, bags, spec, out, argmax is not None)
    argmax = arrays.nothing(np.int64) if argmax is None else argmax
    per_block = -(-min(spec.block_size, spec.embedding_dim) // (variant.lanes * variant.columns))
    stretches = (bags.offsets.size - 1) * spec.num_blocks * per_block
    grid = -(-stretches * variant.lanes // THREADS)
    arguments = (array, bags, constants_on(spec, context.device), starts, out, argmax)
    pool_kernel(variant).launch(context, grid, THREADS, *arguments)
