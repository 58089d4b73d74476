"""An optimizer's step by the gradient of a whole array, each element of which is read once.

Workers divide the array. Elements without gradient are left alone.
"""

import numpy as np
from numba import prange

from robe_numba._jit import inlined, jit
from robe_numba.kernels.cpu.blocks import copy_block, prefetch_block
from robe_numba.kernels.cpu.launch import launch
from robe_numba.kernels.cpu.simd.reductions import any_moved
from robe_numba.kernels.cpu.simd.types import load_x16, store, where_moved
from robe_numba.kernels.cpu.update.apply import UpdateStep, adagrad_range
from robe_numba.kernels.cpu.update.driver import owned_range
from robe_numba.kernels.cpu.update.partition import Range
from robe_numba.kernels.cpu.update.state_blocks import has_moved
from robe_numba.kernels.scalar import update_rules
from robe_numba.kernels.scalar.unsigned import ONE, U16, ZERO
from robe_numba.memory import scratch

TILE = 512  # elements of whole state blocks that are applied together, or one longer block


@inlined
def sgd_each(step, gradient, owned):
    """Apply the gradient of a range by the SGD rule."""
    array, alpha = step.array, step.alpha
    i, end = owned.low, owned.low + owned.size
    while i + U16 <= end:
        grad = load_x16(gradient, i)
        if any_moved(grad):
            old = load_x16(array, i)
            store(array, i, where_moved(grad, update_rules.axpy(old, grad, alpha), old))
        i += U16
    while i < end:
        if gradient[i] != 0:
            array[i] = update_rules.axpy(array[i], gradient[i], alpha)
        i += ONE


@inlined
def adagrad_each(step, gradient, owned):
    """Apply the gradient of a range by Adagrad with a sum of squares for each element."""
    array, state_sum, lr, eps = step.array, step.state_sum, step.lr, step.eps
    i, end = owned.low, owned.low + owned.size
    while i + U16 <= end:
        grad = load_x16(gradient, i)
        if any_moved(grad):
            old, old_sum = load_x16(array, i), load_x16(state_sum, i)
            new, new_sum = update_rules.adagrad(old, old_sum, grad, lr, eps)
            store(array, i, where_moved(grad, new, old))
            store(state_sum, i, where_moved(grad, new_sum, old_sum))
        i += U16
    while i < end:
        if gradient[i] != 0:
            array[i], state_sum[i] = update_rules.adagrad(
                array[i], state_sum[i], gradient[i], lr, eps
            )
        i += ONE


@inlined
def adagrad_tiles(step, gradient, owned, tile):
    """Apply the gradient of a range by Adagrad with sums of blocks; `tile` is scratch for some.

    What is applied becomes 0, so it is copied first, into the first-level cache.
    """
    end, length = owned.low + owned.size, np.uint64(tile.size)
    for first in range(owned.low, end, length):
        part = min(length, end - first)
        if has_moved(gradient, first, part):
            copy_block(tile, ZERO, gradient, first, part)
            prefetch_block(gradient, first + length, length)
            adagrad_range(step, Range(first, part, ZERO), tile)


@jit(parallel=True)
def apply_all(step, gradient, tiles):
    """Apply a gradient (m,) to a whole array; one iteration owns a range of whole state blocks.

    tiles (num_workers, elements of whole state blocks, or 0) is scratch for blocks of several
    elements.
    """
    num_workers = tiles.shape[0]
    for worker in prange(num_workers):
        size = np.uint64(step.array.size)
        owned = owned_range(worker, num_workers, size, step.state_shift, ZERO)
        if step.state_sum.size == 0:
            sgd_each(step, gradient, owned)
        elif tiles.size == 0:
            adagrad_each(step, gradient, owned)
        else:
            adagrad_tiles(step, gradient, owned, tiles[worker])


def update(step: UpdateStep, gradient: np.ndarray, num_workers: int) -> None:
    """Make a step with the gradient (m,) of the whole array."""
    state_block = 1 << int(step.state_shift)
    tile = max(TILE, state_block) if state_block > 1 else 0
    tiles = scratch("tiles", (num_workers, tile), step.array.dtype)
    launch(num_workers, apply_all, step, gradient, tiles)
