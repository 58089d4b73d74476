"""An optimizer's step on a GPU by the gradient of a whole array: as `robe_numba.ops.dense`.

Arguments, results and errors are those of the functions there.
"""

from typing import Any

from robe_numba.checks.arrays import ARRAY_DTYPES
from robe_numba.checks.scalars import check_scalar
from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.update import dense
from robe_numba.ops.gpu.device import stream_of
from robe_numba.ops.gpu.views import check_apart, check_rate, view
from robe_numba.state_blocks import check_state_block, check_state_shape


def apply_gradient(
    array: Any, state_sum: Any, gradient: Any, lr: float, eps: float = 1e-10, state_block: int = 1
) -> None:
    """As `robe_numba.ops.dense.apply_gradient`, of GPU arrays."""
    check_state_block(state_block)
    values = view("array", array, None, ARRAY_DTYPES, written=True)
    dtypes, written = (values.dtype,), {"array": array}
    if state_sum is not None:
        sums = view("state_sum", state_sum, None, dtypes, written=True)
        check_state_shape(sums, values.size, state_block)
        written["state_sum"] = state_sum
    view("gradient", gradient, tuple(values.shape), dtypes)
    check_apart(written, {"gradient": gradient})
    eps = check_scalar("eps", eps, 0, values.dtype)
    dense_update(array, state_sum, gradient, lr, eps, int(state_block))


def dense_update(
    array: Any, state_sum: Any, gradient: Any, lr: Any, eps: float, state_block: int = 1
) -> None:
    """As `robe_numba.ops.dense.dense_update`, of GPU arrays."""
    with stream_of(array) as context:
        values, grads = arrays.of(array).flat(), arrays.of(gradient).flat()
        sums = None if state_sum is None else arrays.of(state_sum).flat()
        rate = check_rate(lr, values.dtype)
        dense.update(context, values, sums, grads, rate, eps, state_block)
