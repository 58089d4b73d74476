"""Embeddings of bags of ids: pooled reading, gradient and updates.

Bags are CSR and table-major, as FBGEMM and TorchRec have them. Shapes use batch (samples),
num_tables, d (embedding_dim), n (ids of all bags) and blocks (ceil(d / Z)).
"""

import numpy as np

from robe_numba.checks import arrays
from robe_numba.coefficients import hash_spec
from robe_numba.kernels.cpu import bags as cpu_bag
from robe_numba.kernels.cpu.bags_max import pool_max
from robe_numba.kernels.cpu.launch import launch, threads_for
from robe_numba.kernels.cpu.update.driver import Reads
from robe_numba.memory import scratch
from robe_numba.ops.devices import on_any_device
from robe_numba.ops.updating import (
    adagrad_step,
    check_grad_out,
    check_step,
    dense_gradient,
    read_starts,
    sgd_step,
)
from robe_numba.spec import Spec

MODES = {"sum": cpu_bag.SUM, "mean": cpu_bag.MEAN, "max": cpu_bag.MAX}


@on_any_device("bags")
def embedding_bag(
    array: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    out: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """Pool the embeddings of each bag of ids.

    Parameters
    ----------
    array : float32, float64, float16 or ml_dtypes' bfloat16 (array_size,)
    indices : int32, int64, uint32 or uint64 (n,)   Ids of all bags.
    offsets : int32, int64, uint32 or uint64 (num_tables * batch + 1,)   Table-major: bag
        t * batch + b, of table t and sample b, is indices[offsets[bag]:offsets[bag + 1]].
    spec : RobeSpec or TableSpec.
    mode : "sum", "mean" or "max".
    per_sample_weights : the result's dtype (n,), factor of each id; with "sum" alone.
    padding_idx : an id that is left out of every bag, and out of the count of "mean". It is
        compared as the id itself and may lie outside the tables, as -1 does.
    out : result's dtype (batch, num_tables, d), filled in and returned; None allocates it.
    starts : int64 (n, blocks), filled with the start of each block that an id read, -1 for
        padding, for the update of this batch.

    Returns
    -------
    dtype of `array`, but float32 for halves; (batch, num_tables, d). Empty bags are 0. Each
    element is added up in the order of the bag, in the result's dtype.

    Raises
    ------
    TypeError, ValueError : an argument of another type, shape, dtype or order, offsets that fall
        or do not span the indices, or an index outside its table.
    """
    arrays.check_spec(spec)
    stored = arrays.check_stored_array(array, spec)
    real = arrays.real_dtype(stored)
    bags = _check_bags(indices, offsets, spec, mode, per_sample_weights, padding_idx, real)
    read = {"array": array, "indices": indices, "offsets": offsets}
    if per_sample_weights is not None:
        read["per_sample_weights"] = per_sample_weights
    shape = (bags.batch, spec.num_tables, spec.embedding_dim)
    out = arrays.check_out("out", out, shape, real, read)
    places = (bags.indices.size, spec.num_blocks)
    flat, keep = arrays.check_kept_starts(starts, places, read | {"out": out})
    if not keep:
        flat = scratch("starts", places, np.uint64).reshape(-1)
    _pool(stored, bags, spec, flat, out)
    return out


@on_any_device("bags")
def embedding_bag_backward(
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    array: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """The dense gradient of the array under `embedding_bag`.

    Takes the arguments of `embedding_bag`; `array`, as it was in the forward pass, is needed with
    mode "max" alone, where the gradient of an element goes to the first id that gave the maximum.

    Parameters
    ----------
    grad_out : float32 or float64 (batch, num_tables, d)
    starts : int64 (n, blocks), as `embedding_bag` filled it for the same ids and spec; None
        hashes once more.

    Returns
    -------
    dtype of `grad_out` (array_size,)

    Raises
    ------
    TypeError, ValueError : as `embedding_bag`, or "max" without `array`.
    """
    arrays.check_spec(spec)
    arrays.check_mode(mode)
    if mode == "max" and array is None:
        raise ValueError(arrays.MAX_NEEDS_ARRAY)
    if array is not None:
        arrays.check_shared_array(array, spec)
    bags, grads = _check_step_bags(
        grad_out, indices, offsets, spec, mode, per_sample_weights, padding_idx, array
    )
    threads = threads_for(bags.indices.size * spec.embedding_dim)
    reads = _reads(bags, grads, array, spec, starts, threads)
    return dense_gradient(reads, spec, threads)


@on_any_device("bags")
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
    starts: np.ndarray | None = None,
) -> None:
    """`sgd_update` for what `embedding_bag` read; takes the arguments of both.

    Raises
    ------
    TypeError, ValueError : as `embedding_bag` and `sgd_update`. Nothing was written then.
    """
    read = {"grad_out": grad_out, "indices": indices, "offsets": offsets, "starts": starts}
    read["per_sample_weights"] = per_sample_weights
    lr = check_step(spec, lr, {"array": array}, read)
    bags, grads = _check_step_bags(
        grad_out, indices, offsets, spec, mode, per_sample_weights, padding_idx, array
    )
    threads = threads_for(bags.indices.size * spec.embedding_dim)
    reads = _reads(bags, grads, array, spec, starts, threads)
    sgd_step(array, reads, spec, lr, threads)


@on_any_device("bags")
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
    starts: np.ndarray | None = None,
    state_block: int = 1,
) -> None:
    """`adagrad_update` for what `embedding_bag` read; takes the arguments of both.

    Raises
    ------
    TypeError, ValueError : as `embedding_bag` and `adagrad_update`. Nothing was written then.
    """
    written = {"array": array, "state_sum": state_sum}
    read = {"grad_out": grad_out, "indices": indices, "offsets": offsets, "starts": starts}
    read["per_sample_weights"] = per_sample_weights
    lr = check_step(spec, lr, written, read, state_block)
    eps = arrays.check_scalar("eps", eps, 0, array.dtype)
    bags, grads = _check_step_bags(
        grad_out, indices, offsets, spec, mode, per_sample_weights, padding_idx, array
    )
    threads = threads_for(bags.indices.size * spec.embedding_dim)
    reads = _reads(bags, grads, array, spec, starts, threads)
    adagrad_step(array, state_sum, reads, spec, lr, eps, threads, state_block)


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
    offsets = arrays.check_offsets(offsets, spec)
    num_indices = arrays.check_bag_shape(indices)
    weights = arrays.check_pooling(mode, per_sample_weights, num_indices, dtype)
    padding = arrays.check_padding(padding_idx)
    return cpu_bag.Bags(
        indices=arrays.check_bag_indices(indices, offsets, spec, padding),
        offsets=offsets,
        weights=weights,
        batch=(offsets.size - 1) // spec.num_tables,
        mode=MODES[mode],
        padded=padding is not None,
        padding_idx=np.uint64(0) if padding is None else padding,
    )


def _check_step_bags(
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str,
    per_sample_weights: np.ndarray | None,
    padding_idx: int | None,
    array: np.ndarray | None,
) -> tuple[cpu_bag.Bags, np.ndarray]:
    """The bags of a backward pass and the flat gradient, checked."""
    dtypes = arrays.ARRAY_DTYPES if array is None else (array.dtype,)
    batch = (arrays.check_offsets(offsets, spec).size - 1) // spec.num_tables
    grads = check_grad_out(grad_out, batch, spec, dtypes)
    bags = _check_bags(indices, offsets, spec, mode, per_sample_weights, padding_idx, grads.dtype)
    return bags, grads


def _pool(
    stored: np.ndarray, bags: cpu_bag.Bags, spec: Spec, starts: np.ndarray, out: np.ndarray
) -> None:
    """Run the kernel of the mode; starts and out are filled."""
    flat, constants = out.reshape(-1), hash_spec(spec)
    threads = threads_for(max(bags.indices.size * spec.embedding_dim, out.size))
    if bags.mode == cpu_bag.MAX:
        argmax = np.empty(out.size, dtype=np.int64)
        launch(threads, pool_max, stored, bags, constants, starts, flat, argmax, threads)
    else:
        launch(threads, cpu_bag.pool, stored, bags, constants, starts, flat, threads)


def _reads(
    bags: cpu_bag.Bags,
    grads: np.ndarray,
    array: np.ndarray | None,
    spec: Spec,
    starts: np.ndarray | None,
    threads: int,
) -> Reads:
    """The reads of an `embedding_bag`: their rows, factors and, for "max", the argmax."""
    constants = hash_spec(spec)

    def hash_into(flat: np.ndarray) -> None:
        launch(threads, cpu_bag.hash_bags, bags, constants, flat, threads)

    flat = read_starts(starts, (bags.indices.size, spec.num_blocks), spec, threads, hash_into)
    rows = scratch("rows", (bags.indices.size,), np.uint64)
    scales = bags.weights
    if bags.mode == cpu_bag.MEAN:
        scales = scratch("scales", (bags.indices.size,), grads.dtype)
    launch(threads, cpu_bag.expand, bags, constants, rows, scales, threads)
    argmax = np.empty(grads.size if bags.mode == cpu_bag.MAX else 0, dtype=np.int64)
    if bags.mode == cpu_bag.MAX:
        maxima = scratch("maxima", (grads.size,), grads.dtype)
        hashed = scratch("hashed", flat.shape, np.uint64)  # not into the caller's starts
        launch(threads, pool_max, array, bags, constants, hashed, maxima, argmax, threads)
    return Reads(
        indices=bags.indices,
        starts=flat,
        rows=rows,
        scales=scales,
        argmax=argmax,
        grad_out=grads,
    )
