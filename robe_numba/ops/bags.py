"""Embeddings of bags of ids: pooled reading, gradient and updates.

Bags are CSR and table-major, as FBGEMM and TorchRec have them. Shapes use batch (samples),
num_tables, d (embedding_dim) and n (ids of all bags).
"""

import numpy as np

from robe_numba import checks, update_rules
from robe_numba.coefficients import hash_spec
from robe_numba.cpu import bag as cpu_bag
from robe_numba.cpu.launch import threads_for
from robe_numba.cpu.update import Reads
from robe_numba.ops.updating import apply_rule, check_grad_out, check_step, dense_gradient
from robe_numba.spec import Spec

MODES = {"sum": cpu_bag.SUM, "mean": cpu_bag.MEAN, "max": cpu_bag.MAX}


def embedding_bag(
    array: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
) -> np.ndarray:
    """Pool the embeddings of each bag of ids.

    Parameters
    ----------
    array : float32 or float64 (array_size,)
    indices : int32, int64, uint32 or uint64 (n,)   Ids of all bags.
    offsets : int32, int64, uint32 or uint64 (num_tables * batch + 1,)   Table-major: bag
        t * batch + b, of table t and sample b, is indices[offsets[bag]:offsets[bag + 1]].
    spec : RobeSpec or TableSpec.
    mode : "sum", "mean" or "max".
    per_sample_weights : dtype of `array` (n,), factor of each id; with "sum" alone.
    padding_idx : an id that is left out of every bag, and out of the count of "mean". It is
        compared as the id itself and may lie outside the tables, as -1 does.

    Returns
    -------
    dtype of `array` (batch, num_tables, d); empty bags are 0. Each element is added up in the
    order of the bag, in the dtype of `array`.

    Raises
    ------
    TypeError, ValueError : an argument of another type, shape, dtype or order, offsets that fall
        or do not span the indices, or an index outside its table.
    """
    checks.check_spec(spec)
    checks.check_shared_array(array, spec)
    bags = _check_bags(indices, offsets, spec, mode, per_sample_weights, padding_idx, array.dtype)
    out = np.empty((bags.batch * spec.num_tables, spec.embedding_dim), dtype=array.dtype)
    with threads_for(max(bags.indices.size * spec.embedding_dim, out.size)):
        if mode == "max":
            winners = np.empty(out.shape, dtype=np.int64)
            cpu_bag.pool_max(array, bags, hash_spec(spec), out, winners)
        else:
            cpu_bag.pool(array, bags, hash_spec(spec), out)
    return out.reshape(-1, spec.num_tables, spec.embedding_dim)


def embedding_bag_backward(
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    array: np.ndarray | None = None,
) -> np.ndarray:
    """The dense gradient of the array under `embedding_bag`.

    Takes the arguments of `embedding_bag`; `array`, as it was in the forward pass, is needed with
    mode "max" alone, where the gradient of an element goes to the first id that gave the maximum.

    Parameters
    ----------
    grad_out : float32 or float64 (batch, num_tables, d)

    Returns
    -------
    dtype of `grad_out` (array_size,)

    Raises
    ------
    TypeError, ValueError : as `embedding_bag`, or "max" without `array`.
    """
    checks.check_spec(spec)
    checks.check_mode(mode)
    if mode == "max" and array is None:
        raise ValueError(
            "mode 'max' finds the largest element in the array; pass array= as it was "
            "in the forward pass"
        )
    if array is not None:
        checks.check_shared_array(array, spec)
    reads = _reads(grad_out, indices, offsets, spec, mode, per_sample_weights, padding_idx, array)
    return dense_gradient(reads, spec)


def embedding_bag_sgd_update(
    array: np.ndarray,
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
) -> None:
    """`sgd_update` for what `embedding_bag` read; takes the arguments of both.

    Raises
    ------
    TypeError, ValueError : as `embedding_bag` and `sgd_update`. Nothing was written then.
    """
    read = {"grad_out": grad_out, "indices": indices}
    lr = check_step(spec, lr, {"array": array}, read)
    reads = _reads(grad_out, indices, offsets, spec, mode, per_sample_weights, padding_idx, array)
    apply_rule(update_rules.SGD, reads, spec, array, lr=lr)


def embedding_bag_adagrad_update(
    array: np.ndarray,
    state_sum: np.ndarray,
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
    eps: float = 1e-10,
) -> None:
    """`adagrad_update` for what `embedding_bag` read; takes the arguments of both.

    Raises
    ------
    TypeError, ValueError : as `embedding_bag` and `adagrad_update`. Nothing was written then.
    """
    written = {"array": array, "state_sum": state_sum}
    read = {"grad_out": grad_out, "indices": indices}
    lr = check_step(spec, lr, written, read)
    eps = checks.check_scalar("eps", eps, 0, array.dtype)
    reads = _reads(grad_out, indices, offsets, spec, mode, per_sample_weights, padding_idx, array)
    apply_rule(update_rules.ADAGRAD, reads, spec, array, state_sum, lr, eps)


def _check_bags(
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str,
    per_sample_weights: np.ndarray | None,
    padding_idx: int | None,
    dtype: np.dtype,
) -> cpu_bag.Bags:
    """The bags of a call, checked; `dtype` is the array's."""
    offsets = checks.check_offsets(offsets, spec)
    num_indices = checks.check_bag_shape(indices)
    weights = checks.check_pooling(mode, per_sample_weights, num_indices, dtype)
    padding = checks.check_padding(padding_idx)
    return cpu_bag.Bags(
        indices=checks.check_bag_indices(indices, offsets, spec, padding),
        offsets=offsets,
        weights=weights,
        batch=(offsets.size - 1) // spec.num_tables,
        mode=MODES[mode],
        padded=padding is not None,
        padding_idx=np.uint64(0) if padding is None else padding,
    )


def _reads(
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str,
    per_sample_weights: np.ndarray | None,
    padding_idx: int | None,
    array: np.ndarray | None,
) -> Reads:
    """Checked reads of an `embedding_bag`: its rows, factors and, for "max", its winners."""
    dtypes = checks.ARRAY_DTYPES if array is None else (array.dtype,)
    offsets_checked = checks.check_offsets(offsets, spec)
    batch = (offsets_checked.size - 1) // spec.num_tables
    grads = check_grad_out(grad_out, batch, spec, dtypes)
    bags = _check_bags(indices, offsets, spec, mode, per_sample_weights, padding_idx, grads.dtype)
    rows = np.empty(bags.indices.size, dtype=np.uint64)
    scales = np.empty(bags.indices.size, dtype=grads.dtype)
    winners = np.empty(grads.shape if mode == "max" else (0, 0), dtype=np.int64)
    with threads_for(rows.size):
        cpu_bag.expand(bags, hash_spec(spec), rows, scales)
    if mode == "max":
        with threads_for(rows.size * spec.embedding_dim):
            cpu_bag.pool_max(array, bags, hash_spec(spec), np.empty_like(grads), winners)
    return Reads(indices=bags.indices, rows=rows, scales=scales, winners=winners, grad_out=grads)
