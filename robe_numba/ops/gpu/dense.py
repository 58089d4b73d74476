"""An optimizer's step on a GPU by the dense gradient of a whole array: what `robe_numba.ops.dense`
does with NumPy arrays.

Arguments, results and errors are those of the functions there.
"""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES
from robe_numba.checks.scalars import check_scalar
from robe_numba.kernels.gpu import arrays, device, layers
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import cuda
from robe_numba.kernels.gpu.device import Work
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.gpu.update import state_blocks
from robe_numba.kernels.gpu.update.segments import THREADS, move
from robe_numba.kernels.scalar import update_rules
from robe_numba.state_blocks import check_state_block, check_state_shape


def apply_gradient(
    array: Any, state_sum: Any, gradient: Any, lr: float, eps: float = 1e-10, state_block: int = 1
) -> None:
    """See `robe_numba.ops.dense.apply_gradient`."""
    check_state_block(state_block)
    values = arrays.view("array", array, None, ARRAY_DTYPES, written=True)
    dtypes, written = (values.dtype,), {"array": array}
    if state_sum is not None:
        sums = arrays.view("state_sum", state_sum, None, dtypes, written=True)
        check_state_shape(sums, values.size, state_block)
        written["state_sum"] = state_sum
    arrays.view("gradient", gradient, tuple(values.shape), dtypes)
    arrays.check_apart(written, {"gradient": gradient})
    eps = check_scalar("eps", eps, 0, values.dtype)
    dense_update(array, state_sum, gradient, lr, eps, int(state_block))


def dense_update(
    array: Any, state_sum: Any, gradient: Any, lr: Any, eps: float, state_block: int = 1
) -> None:
    """See `robe_numba.ops.dense.dense_update`."""
    with device.work_on(array) as work:
        values, grads = arrays.of(array).flat(), arrays.of(gradient).flat()
        sums = values if state_sum is None else arrays.of(state_sum).flat()
        rate = arrays.check_rate(lr, values.dtype)
        moved = (values, sums, rate, values.dtype.type(eps))
        if state_sum is not None and state_block > 1:
            move_blocks(work, work.xp.asarray(gradient), state_block, *moved)
            return
        rule = update_rules.SGD if state_sum is None else update_rules.ADAGRAD
        layers.by_elements(work, move_each, values.size, rule, grads, *moved)


@Kernel
def move_each(rule, gradient, array, state_sum, lr, eps):
    """Apply a rule to array (m,): a thread for each element, which moves if it has a gradient."""
    i = cuda.grid(1)
    if i < array.size:
        grad = gradient[i]
        if grad != 0:
            move(rule, i, grad, array, state_sum, lr, eps)


def move_blocks(
    work: Work,
    gradient: Any,
    state_block: int,
    array: DeviceArray,
    state_sum: DeviceArray,
    lr: Any,
    eps: Any,
) -> None:
    """Move array (m,) by Adagrad with sums of blocks, a part of it at a time.

    The kernel leaves zeros behind, so it is given copies of the gradient.
    """
    part, tile = max(state_blocks.PART, state_block), max(THREADS, state_block)
    room = work.empty((min(part, array.size),), array.dtype)
    shared = THREADS * array.dtype.itemsize
    for low in range(0, array.size, part):
        sums = room[: array.size - low]
        sums[...] = gradient.reshape(-1)[low : low + part]
        grid = -(-sums.size // tile)
        constants = (np.int64(low), np.int64(state_block), array, state_sum, lr, eps)
        kernel = state_blocks.move_state_blocks
        kernel.launch(work, grid, THREADS, arrays.of(sums), *constants, shared=shared)
