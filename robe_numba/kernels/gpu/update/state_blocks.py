"""Adagrad on the GPU with one sum of squares for each block of neighbouring elements.

A block may span many segments, some light and some heavy. So the kernels of `segments.py` first
write the complete sums of gradients to memory, for a part of the array at a time. Then thread
blocks go through these sums, each through whole state blocks, and add their squares in an order
that depends on nothing else.
"""

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import NO_RATE, DeviceArray, Rate
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.kernels.gpu.launch import THREADS, Kernel
from robe_numba.kernels.gpu.update import driver
from robe_numba.kernels.gpu.update.partition import WIDTH, SortedReads
from robe_numba.kernels.scalar import update_rules
from robe_numba.spec import Spec

PART = 256 if SIMULATED else 1 << 24  # elements whose gradients are in memory at a time


@Kernel
def apply_state_blocks(sums, low, state_block, array, state_sum, lr, eps):
    """A thread block owns as many elements as it has threads, or one state block if that is longer.

    sums (n,) are the sums of gradients from array[low] on, and become 0. Shared memory: THREADS
    elements of the array's dtype.
    """
    squares = cuda.shared.array(0, array.dtype)
    thread, tile = cuda.threadIdx.x, max(THREADS, state_block)
    begin = cuda.blockIdx.x * tile
    end = min(begin + tile, sums.size)
    total, moved = array.dtype.type(0), 0
    for i in range(begin + thread, end, THREADS):
        total += sums[i] * sums[i]
        moved |= sums[i] != 0
    squares[thread] = total
    if not cuda.syncthreads_or(moved):
        return  # the same in all threads
    width, step = min(THREADS, state_block), 1  # threads that share a state block
    while step < width:
        if thread % (2 * step) == 0:
            squares[thread] += squares[thread + step]
        cuda.syncthreads()
        step *= 2
    first = begin + thread - thread % width
    block = (low + first) // state_block
    if thread % width == 0 and first < end:
        count = array.dtype.type(min(state_block, array.size - (low + first)))
        state_sum[block] = update_rules.add_mean(state_sum[block], squares[thread], count)
    cuda.syncthreads()
    for i in range(begin + thread, end, THREADS):
        if sums[i] != 0:
            rate = update_rules.adagrad_rate(state_sum[block], lr[0], eps)
            array[low + i] = update_rules.sgd(array[low + i], sums[i], rate)
            sums[i] = 0


def update(
    context: DeviceContext,
    reads: SortedReads,
    spec: Spec,
    array: DeviceArray,
    state_sum: DeviceArray,
    lr: Rate,
    eps: float,
    state_block: int,
) -> None:
    """Update `array` and `state_sum` (ceil(m / state_block),) in place by the Adagrad rule."""
    if state_block == 1:
        driver.update(context, update_rules.ADAGRAD, reads, spec, array, state_sum, lr, eps)
        return
    if reads.grad_out.size == 0:
        return
    real, part, tile = array.dtype.type, max(PART, state_block), max(THREADS, state_block)
    zeros = context.zeros((min(part, array.size),), array.dtype)
    shared = THREADS * array.dtype.itemsize
    for low in range(0, array.size, part):
        sums = arrays.of(zeros[: array.size - low])
        driver.update(
            context, update_rules.GRADIENT, reads, spec, sums, sums, NO_RATE, 0, low // WIDTH
        )
        grid = -(-sums.size // tile)
        constants = (np.int64(low), np.int64(state_block), array, state_sum, lr, real(eps))
        apply_state_blocks.launch(context, grid, THREADS, sums, *constants, shared=shared)
