"""An optimizer's step on the GPU by the gradient of a whole array.

What has no gradient is left alone.
"""

from typing import Any

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray, Rate
from robe_numba.kernels.gpu.compiler import cuda
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.kernels.gpu.launch import THREADS, Kernel
from robe_numba.kernels.gpu.update.segments import apply_rule
from robe_numba.kernels.gpu.update.state_blocks import PART, apply_state_blocks
from robe_numba.kernels.scalar import update_rules


@Kernel
def apply_each(rule, gradient, array, state_sum, lr, eps):
    """Apply a rule to array (m,): a thread for each element, which moves if it has a gradient."""
    i = cuda.grid(1)
    if i < array.size:
        grad = gradient[i]
        if grad != 0:
            apply_rule(rule, i, grad, array, state_sum, lr, eps)


def update(
    context: DeviceContext,
    array: DeviceArray,
    state_sum: DeviceArray | None,
    gradient: DeviceArray,
    lr: Rate,
    eps: float,
    state_block: int,
) -> None:
    """Update array (m,) in place by gradient (m,): by SGD, or by Adagrad given a `state_sum`."""
    moved = (array, array if state_sum is None else state_sum, lr, array.dtype.type(eps))
    if state_sum is not None and state_block > 1:
        _update_by_blocks(context, gradient, state_block, *moved)
        return
    rule = update_rules.SGD if state_sum is None else update_rules.ADAGRAD
    apply_each.launch_each(context, array.size, rule, gradient, *moved)


def _update_by_blocks(
    context: DeviceContext,
    gradient: DeviceArray,
    state_block: int,
    array: DeviceArray,
    state_sum: DeviceArray,
    lr: Rate,
    eps: Any,
) -> None:
    """Adagrad with sums of blocks, a part of the array at a time.

    The kernel leaves zeros behind, so it is given copies of the gradient.
    """
    part, tile = max(PART, state_block), max(THREADS, state_block)
    given = context.xp.asarray(gradient.owner).reshape(-1)
    scratch = context.empty((min(part, array.size),), array.dtype)
    shared = THREADS * array.dtype.itemsize
    for low in range(0, array.size, part):
        sums = scratch[: array.size - low]
        sums[...] = given[low : low + part]
        grid = -(-sums.size // tile)
        constants = (np.int64(low), np.int64(state_block), array, state_sum, lr, eps)
        apply_state_blocks.launch(
            context, grid, THREADS, arrays.of(sums), *constants, shared=shared
        )
