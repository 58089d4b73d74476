"""An optimizer's step by the gradient of a whole array, each element of which is read once.

Workers share the array out. What has no gradient is left alone.
"""

import numpy as np
from numba import prange

from robe_numba._jit import inlined, jit
from robe_numba.kernels.cpu.blocks import copy_block, prefetch_block
from robe_numba.kernels.cpu.launch import launch
from robe_numba.kernels.cpu.simd.reductions import any_moved
from robe_numba.kernels.cpu.simd.types import load_x16, store, where_moved
from robe_numba.kernels.cpu.update.apply import Rates, adagrad_range
from robe_numba.kernels.cpu.update.driver import owned_range
from robe_numba.kernels.cpu.update.state_blocks import has_moved
from robe_numba.kernels.scalar import update_rules
from robe_numba.kernels.scalar.unsigned import ONE, U16, ZERO
from robe_numba.memory import scratch

TILE = 512  # elements of whole state blocks that are moved together, or one longer block


@inlined
def sgd_each(array, gradient, low, size, lr):
    """Move array[low:low + size] by the SGD rule."""
    i, end = low, low + size
    while i + U16 <= end:
        grad = load_x16(gradient, i)
        if any_moved(grad):
            old = load_x16(array, i)
            store(array, i, where_moved(grad, update_rules.sgd(old, grad, lr), old))
        i += U16
    while i < end:
        if gradient[i] != 0:
            array[i] = update_rules.sgd(array[i], gradient[i], lr)
        i += ONE


@inlined
def adagrad_each(array, state_sum, gradient, low, size, rates):
    """Move array[low:low + size] by Adagrad with a sum of squares for each element."""
    i, end = low, low + size
    while i + U16 <= end:
        grad = load_x16(gradient, i)
        if any_moved(grad):
            old, old_sum = load_x16(array, i), load_x16(state_sum, i)
            new, new_sum = update_rules.adagrad(old, old_sum, grad, rates.lr, rates.eps)
            store(array, i, where_moved(grad, new, old))
            store(state_sum, i, where_moved(grad, new_sum, old_sum))
        i += U16
    while i < end:
        if gradient[i] != 0:
            array[i], state_sum[i] = update_rules.adagrad(
                array[i], state_sum[i], gradient[i], rates.lr, rates.eps
            )
        i += ONE


@inlined
def adagrad_tiles(array, state_sum, gradient, low, size, rates, tile):
    """Move array[low:low + size] by Adagrad with sums of blocks; `tile` is scratch for some.

    What is applied becomes 0, so it is a copy, in the first-level cache.
    """
    end, length = low + size, np.uint64(tile.size)
    for first in range(low, end, length):
        part = min(length, end - first)
        if has_moved(gradient, first, part):
            copy_block(tile, ZERO, gradient, first, part)
            prefetch_block(gradient, first + length, length)
            adagrad_range(array, state_sum, first, part, tile, rates)


@jit(parallel=True)
def apply_all(array, state_sum, gradient, rates, tiles):
    """Move array (m,) by its gradient (m,); one iteration owns a range of whole state blocks.

    tiles (num_workers, elements of whole state blocks, or 0) is scratch for blocks of several
    elements. SGD where state_sum is empty, else Adagrad.
    """
    num_workers = tiles.shape[0]
    for worker in prange(num_workers):
        low, size = owned_range(worker, num_workers, np.uint64(array.size), rates.state_shift)
        if state_sum.size == 0:
            sgd_each(array, gradient, low, size, rates.lr)
        elif tiles.size == 0:
            adagrad_each(array, state_sum, gradient, low, size, rates)
        else:
            adagrad_tiles(array, state_sum, gradient, low, size, rates, tiles[worker])


def update(
    array: np.ndarray,
    state_sum: np.ndarray | None,
    gradient: np.ndarray,
    lr: float,
    eps: float,
    num_workers: int,
    state_block: int = 1,
) -> None:
    """Move array (m,) in place by its gradient (m,).

    By Adagrad with `state_sum` (ceil(m / state_block),), by SGD if that is None.
    """
    real = array.dtype.type
    if state_sum is None:
        state_sum, state_block = array[:0], 1
    rates = Rates(real(lr), real(eps), np.uint64(state_block.bit_length() - 1))
    tile = max(TILE, state_block) if state_block > 1 else 0
    tiles = scratch("tiles", (num_workers, tile), array.dtype)
    launch(num_workers, apply_all, array, state_sum, gradient, rates, tiles)
