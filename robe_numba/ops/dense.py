"""An optimizer's step by the dense gradient of a whole array."""

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, check_apart, check_array, check_written
from robe_numba.checks.scalars import check_scalar
from robe_numba.kernels.cpu.launch import threads_for
from robe_numba.kernels.cpu.update import dense as cpu_dense
from robe_numba.kernels.cpu.update.apply import make_step
from robe_numba.ops.devices import on_any_device
from robe_numba.state_blocks import check_state_block, check_state_shape


@on_any_device("dense")
def apply_gradient(
    array: np.ndarray,
    state_sum: np.ndarray | None,
    gradient: np.ndarray,
    lr: float,
    eps: float = 1e-10,
    state_block: int = 1,
) -> None:
    """Move an array in place by its dense gradient: by Adagrad with a `state_sum`, else by SGD.

    The rules are those of `adagrad_update` and `sgd_update`, for a gradient that was added up
    elsewhere: over several batches, or over processes. Elements without gradient do not move, and a
    NaN reaches what it reaches there. Where each element was read once, the bits are the same as
    there. They are the same for any number of threads.

    Parameters
    ----------
    array : ndarray, (array_size,) float32 or float64, writeable
        Or of any shape, in C order.
    state_sum : ndarray, (ceil(array_size / state_block),) of the dtype of `array`, or None
        The sums of squares, writeable; zeros at the start. None for SGD.
    gradient : ndarray of the dtype and shape of `array`
        As `lookup_backward` gives it; only read.
    lr : float
        Learning rate, finite and not negative.
    eps, state_block : float, int
        As `adagrad_update` takes them.

    Raises
    ------
    TypeError, ValueError
        An argument of another type, shape, dtype or order, a read-only array, or arrays that share
        memory. Nothing has been written then.
    """
    check_state_block(state_block)
    check_array("array", array, None, ARRAY_DTYPES)
    written = {"array": array}
    if state_sum is not None:
        check_array("state_sum", state_sum, None, (array.dtype,))
        check_state_shape(state_sum, array.size, state_block)
        written["state_sum"] = state_sum
    check_written(**written)
    check_array("gradient", gradient, array.shape, (array.dtype,))
    for name, target in written.items():
        check_apart(name, target, "gradient", gradient)
    lr = check_scalar("lr", lr, 0, array.dtype)
    eps = check_scalar("eps", eps, 0, array.dtype)
    dense_update(array, state_sum, gradient, lr, eps, int(state_block))


@on_any_device("dense")
def dense_update(
    array: np.ndarray,
    state_sum: np.ndarray | None,
    gradient: np.ndarray,
    lr: float,
    eps: float,
    state_block: int = 1,
) -> None:
    """As `apply_gradient`, of checked arguments; `state_sum` too may have any shape."""
    sums = None if state_sum is None else state_sum.reshape(-1)
    step = make_step(array.reshape(-1), sums, lr, eps, state_block)
    cpu_dense.update(step, gradient.reshape(-1), threads_for(array.size))
