"""What gradients and updates of rows and of bags share."""

import numpy as np

from robe_numba import checks, update_rules
from robe_numba.coefficients import hash_spec
from robe_numba.cpu.launch import threads_for
from robe_numba.cpu.update import Reads, update
from robe_numba.spec import Spec


def check_step(
    spec: Spec,
    lr: float,
    written: dict[str, np.ndarray],
    read: dict[str, np.ndarray],
) -> float:
    """Check what an update writes and its learning rate, which is returned.

    `written` has the array, first, and for Adagrad its state_sum. `read` are the arrays that the
    kernels read while they write; their own checks come later.
    """
    checks.check_spec(spec)
    array = checks.check_shared_array(written["array"], spec)
    for name, target in written.items():
        checks.check_array(name, target, (spec.array_size,), (array.dtype,))
    checks.check_written(**written)
    for name, target in written.items():
        for other_name, other in read.items():
            if isinstance(other, np.ndarray):
                checks.check_apart(name, target, other_name, other)
    return checks.check_scalar("lr", lr, 0, array.dtype)


def check_grad_out(
    grad_out: np.ndarray, batch: int, spec: Spec, dtypes: tuple[np.dtype, ...]
) -> np.ndarray:
    """The gradient of an output (batch, num_tables, d), as rows (batch * num_tables, d)."""
    shape = (batch, spec.num_tables, spec.embedding_dim)
    return checks.check_array("grad_out", grad_out, shape, dtypes).reshape(-1, spec.embedding_dim)


def dense_gradient(reads: Reads, spec: Spec) -> np.ndarray:
    """The gradient of the whole array (array_size,)."""
    gradient = np.zeros(spec.array_size, dtype=reads.grad_out.dtype)
    apply_rule(update_rules.GRADIENT, reads, spec, gradient)
    return gradient


def apply_rule(
    rule: int,
    reads: Reads,
    spec: Spec,
    array: np.ndarray,
    state_sum: np.ndarray | None = None,
    lr: float = 0.0,
    eps: float = 0.0,
) -> None:
    """Run an update kernel in place on this process's Numba threads."""
    state = np.empty(0, dtype=array.dtype) if state_sum is None else state_sum
    with threads_for(reads.indices.size * spec.embedding_dim) as threads:
        update(rule, reads, hash_spec(spec), array, state, lr, eps, num_workers=threads)
