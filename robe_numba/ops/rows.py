"""Embeddings of one id per table: read, gradient and updates.

Shapes use batch (samples), num_tables, d (embedding_dim) and blocks (ceil(d / Z)). Symbols and
formulas are in docs/design.md.
"""

import numpy as np

from robe_numba import checks, update_rules
from robe_numba.coefficients import hash_spec
from robe_numba.cpu import lookup as cpu_lookup
from robe_numba.cpu.launch import threads_for
from robe_numba.cpu.update import Reads
from robe_numba.ops.updating import apply_rule, check_grad_out, check_step, dense_gradient
from robe_numba.spec import Spec


def block_starts(indices: np.ndarray, spec: Spec) -> np.ndarray:
    """Where each block of each row begins in the array.

    Parameters
    ----------
    indices : int32, int64, uint32 or uint64 (batch, num_tables)   Row of each table.
    spec : RobeSpec or TableSpec.

    Returns
    -------
    int64 (batch, num_tables, blocks), each in [0, array_size). Element i of a row is at
    (start of block i // Z + i % Z) mod array_size.

    Raises
    ------
    TypeError, ValueError : indices of another type, shape, order, or outside their table.
    """
    checks.check_spec(spec)
    ids = checks.check_indices(indices, spec)
    starts = np.empty((ids.size, spec.num_blocks), dtype=np.uint64)
    with threads_for(starts.size):
        cpu_lookup.block_starts(ids, hash_spec(spec), starts)
    return starts.view(np.int64).reshape(-1, spec.num_tables, spec.num_blocks)


def lookup(array: np.ndarray, indices: np.ndarray, spec: Spec) -> np.ndarray:
    """The embedding of one id per table.

    Parameters
    ----------
    array : float32 or float64 (array_size,)
    indices : int32, int64, uint32 or uint64 (batch, num_tables)
    spec : RobeSpec or TableSpec.

    Returns
    -------
    dtype of `array` (batch, num_tables, d)

    Raises
    ------
    TypeError, ValueError : an argument of another type, shape, dtype or order, or an index
        outside its table.

    Source: Desai, Chou, Shrivastava, ROBE, MLSys 2022.
    """
    checks.check_spec(spec)
    checks.check_shared_array(array, spec)
    ids = checks.check_indices(indices, spec)
    out = np.empty((ids.size, spec.embedding_dim), dtype=array.dtype)
    with threads_for(out.size):
        cpu_lookup.lookup(array, ids, hash_spec(spec), out)
    return out.reshape(-1, spec.num_tables, spec.embedding_dim)


def lookup_backward(grad_out: np.ndarray, indices: np.ndarray, spec: Spec) -> np.ndarray:
    """The dense gradient of the array under `lookup`, for an optimizer of your own.

    Parameters
    ----------
    grad_out : float32 or float64 (batch, num_tables, d)   Gradient of the output of `lookup`.
    indices : int32, int64, uint32 or uint64 (batch, num_tables)
    spec : RobeSpec or TableSpec.

    Returns
    -------
    dtype of `grad_out` (array_size,): the sum over every place that read an element, 0 where
    nothing did; the same bits for any number of threads.

    Raises
    ------
    TypeError, ValueError : an argument of another type, shape, dtype or order, or an index
        outside its table.
    """
    checks.check_spec(spec)
    reads = _reads(grad_out, indices, spec, checks.ARRAY_DTYPES)
    return dense_gradient(reads, spec)


def sgd_update(
    array: np.ndarray, grad_out: np.ndarray, indices: np.ndarray, spec: Spec, lr: float = 0.1
) -> None:
    """array -= lr * gradient, in place, touching only what `lookup` read.

    Values are not looked at: a NaN in the gradient reaches the elements that it belongs to.

    Equals `torch.optim.SGD` on the dense gradient; the same bits for any number of threads.

    Parameters
    ----------
    array : float32 or float64 (array_size,), writeable.
    grad_out : dtype of `array` (batch, num_tables, d)
    indices : int32, int64, uint32 or uint64 (batch, num_tables)
    spec : RobeSpec or TableSpec.
    lr : learning rate, finite and not negative.

    Raises
    ------
    TypeError, ValueError : an argument of another type, shape, dtype or order, an index outside
        its table, a read-only array, or arrays that share memory. Nothing was written then.
    """
    read = {"grad_out": grad_out, "indices": indices}
    lr = check_step(spec, lr, {"array": array}, read)
    reads = _reads(grad_out, indices, spec, (array.dtype,))
    apply_rule(update_rules.SGD, reads, spec, array, lr=lr)


def adagrad_update(
    array: np.ndarray,
    state_sum: np.ndarray,
    grad_out: np.ndarray,
    indices: np.ndarray,
    spec: Spec,
    lr: float = 0.1,
    eps: float = 1e-10,
) -> None:
    """state_sum += gradient**2; array -= lr * gradient / (sqrt(state_sum) + eps), in place.

    The gradient of an element is complete before it is squared, so this equals
    `torch.optim.Adagrad` on the dense gradient; the same bits for any number of threads.

    Parameters
    ----------
    array : float32 or float64 (array_size,), writeable.
    state_sum : dtype of `array` (array_size,), writeable; zeros at the start.
    grad_out : dtype of `array` (batch, num_tables, d)
    indices : int32, int64, uint32 or uint64 (batch, num_tables)
    spec : RobeSpec or TableSpec.
    lr, eps : learning rate and the term that keeps the divisor from 0; finite, not negative.

    Raises
    ------
    TypeError, ValueError : as `sgd_update`. Nothing was written then.
    """
    written = {"array": array, "state_sum": state_sum}
    read = {"grad_out": grad_out, "indices": indices}
    lr = check_step(spec, lr, written, read)
    eps = checks.check_scalar("eps", eps, 0, array.dtype)
    reads = _reads(grad_out, indices, spec, (array.dtype,))
    apply_rule(update_rules.ADAGRAD, reads, spec, array, state_sum, lr, eps)


def _reads(
    grad_out: np.ndarray, indices: np.ndarray, spec: Spec, dtypes: tuple[np.dtype, ...]
) -> Reads:
    """Checked reads of a `lookup`: row i of the output was read by id i, once."""
    ids = checks.check_indices(indices, spec)
    grads = check_grad_out(grad_out, indices.shape[0], spec, dtypes)
    return Reads(
        indices=ids,
        rows=np.arange(ids.size, dtype=np.uint64),
        scales=np.ones(ids.size, dtype=grads.dtype),
        winners=np.empty((0, 0), dtype=np.int64),
        grad_out=grads,
    )
