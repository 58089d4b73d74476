"""What gradients and updates of rows and of bags share."""

from collections.abc import Callable

import numpy as np

from robe_numba.checks.arrays import check_apart, check_array, check_shared_array, check_written
from robe_numba.checks.ids import as_uint64
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.cpu.inspect import starts_inside
from robe_numba.kernels.cpu.launch import launch
from robe_numba.kernels.cpu.update import driver
from robe_numba.kernels.cpu.update.apply import make_step
from robe_numba.kernels.cpu.update.partition import Reads
from robe_numba.memory import scratch
from robe_numba.spec import Spec
from robe_numba.state_blocks import check_state_block, check_state_shape


def check_step(
    spec: Spec,
    lr: float,
    written: dict[str, np.ndarray],
    read: dict[str, np.ndarray | None],
    state_block: int = 1,
) -> float:
    """Check what an update writes and its learning rate, which is returned.

    `written` has the array, first, and for Adagrad its state_sum, one sum for every `state_block`
    elements. `read` has what the kernels read while they write; here only its overlap is checked.
    """
    check_spec(spec)
    check_state_block(state_block)
    array = check_shared_array(written["array"], spec)
    if "state_sum" in written:
        state_sum = check_array("state_sum", written["state_sum"], None, (array.dtype,))
        check_state_shape(state_sum, spec.array_size, state_block)
    check_written(**written)
    for name, target in written.items():
        for other_name, other in read.items():
            if isinstance(other, np.ndarray):
                check_apart(name, target, other_name, other)
    return check_scalar("lr", lr, 0, array.dtype)


def check_grad_out(
    grad_out: np.ndarray, batch: int, spec: Spec, dtypes: tuple[np.dtype, ...]
) -> np.ndarray:
    """The gradient of an output (batch, num_tables, d), flat."""
    shape = (batch, spec.num_tables, spec.embedding_dim)
    return check_array("grad_out", grad_out, shape, dtypes).reshape(-1)


def read_starts(
    given: np.ndarray | None,
    shape: tuple[int, ...],
    spec: Spec,
    num_workers: int,
    hash_into: Callable[[np.ndarray], None],
) -> np.ndarray:
    """The starts uint64 (n * num_blocks,) of a batch: the caller's, checked, or hashed here."""
    if given is None:
        starts = scratch("starts", shape, np.uint64).reshape(-1)
        hash_into(starts)
        return starts
    check_array("starts", given, shape, (np.dtype(np.int64),))
    starts = as_uint64(given).reshape(-1)
    if not launch(num_workers, starts_inside, starts, np.uint64(spec.array_size)):
        raise ValueError(
            f"starts has a value outside the array, which has {spec.array_size} elements; pass "
            f"what the forward pass of the same batch filled in, or None"
        )
    return starts


def dense_gradient(
    reads: Reads, spec: Spec, threads: int, out: np.ndarray | None = None
) -> np.ndarray:
    """The gradient of the whole array (array_size,), in `out` if that is given."""
    if out is None:
        out = np.zeros(spec.array_size, dtype=reads.grad_out.dtype)
    else:
        out[:] = 0
    driver.update(make_step(out), reads, hash_spec(spec), threads)
    return out
