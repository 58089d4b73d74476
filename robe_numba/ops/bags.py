"""Embeddings of bags of ids: pooled reading, gradient and updates.

Bags are CSR and table-major, as FBGEMM and TorchRec have them. Shapes use batch (samples),
num_tables, d (embedding_dim), n (ids of all bags) and blocks (ceil(d / Z)).
"""

from collections.abc import Sequence

import numpy as np

from robe_numba.checks.arrays import (
    ARRAY_DTYPES,
    StoredArray,
    check_array,
    check_kept_starts,
    check_out,
    check_shared_array,
    check_stored_array,
    parts_of,
    real_dtype,
)
from robe_numba.checks.bags import MAX_NEEDS_ARRAY, BagArguments, check_bags, check_modes
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.cpu import bags as kernels
from robe_numba.kernels.cpu.bags_max import Maxima, pool_max
from robe_numba.kernels.cpu.launch import launch, threads_for
from robe_numba.kernels.cpu.update import driver
from robe_numba.kernels.cpu.update.apply import make_step
from robe_numba.kernels.cpu.update.partition import Reads
from robe_numba.kernels.scalar.bags import MAX, Bags
from robe_numba.memory import scratch
from robe_numba.ops.devices import on_any_device
from robe_numba.ops.updating import (
    check_grad_out,
    check_step,
    dense_gradient,
    read_starts,
)
from robe_numba.spec import Spec


@on_any_device("bags")
def embedding_bag(
    array: StoredArray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    out: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """Pool the embeddings of each bag of ids.

    Parameters
    ----------
    array : ndarray, (array_size,) float32, float64, float16 or ml_dtypes' bfloat16
        The shared array; or a `QuantizedArray` of as many elements.
    indices : ndarray, (n,) int32, int64, uint32 or uint64
        Ids of all bags.
    offsets : ndarray, (num_tables * batch + 1,) int32, int64, uint32 or uint64
        Table-major: bag t * batch + b, of table t and sample b, is
        indices[offsets[bag]:offsets[bag + 1]].
    spec : RobeSpec or TableSpec
        How rows are read.
    mode : {"sum", "mean", "max"}, or a sequence of num_tables of them
        How embeddings are pooled, in all tables or in each.
    per_sample_weights : ndarray, (n,) of the result's dtype, optional
        Factor of each id; only with "sum". With a mode for each table, ids of tables with "mean" or
        "max" need a factor of 1.
    padding_idx : int, optional
        An id that is left out of every bag, and out of the count of "mean". It is compared as the
        id itself and may lie outside the tables, as -1 does.
    out : ndarray, (batch, num_tables, d) of the result's dtype, optional
        Filled in and returned; None allocates it.
    starts : ndarray, (n, blocks) int64, optional
        Filled with the start of each block that an id read, -1 for padding, for the update of this
        batch.

    Returns
    -------
    ndarray, (batch, num_tables, d) of the dtype of `array`, or float32 for halves and int8
        Empty bags are 0. Each element is added up in the order of the bag, in the result's dtype.

    Raises
    ------
    TypeError, ValueError
        An argument of another type, shape, dtype or order, offsets that fall or do not span the
        indices, or an index outside its table.
    """
    check_spec(spec)
    stored = check_stored_array(array, spec)
    real = real_dtype(stored)
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    bags = check_bags(given, spec, real)
    read = parts_of("array", array) | given.arrays()
    shape = (bags.batch, spec.num_tables, spec.embedding_dim)
    out = check_out("out", out, shape, real, read)
    places = (bags.indices.size, spec.num_blocks)
    flat, _ = check_kept_starts(starts, places, read | {"out": out})
    pool_bags(stored, bags, spec, flat, out)
    return out


def pool_bags(
    stored: StoredArray, bags: Bags, spec: Spec, starts: np.ndarray, out: np.ndarray
) -> None:
    """As `embedding_bag`, of checked arguments; starts are flat uint64, (0,) if not kept."""
    if not starts.size:
        starts = scratch("starts", (bags.indices.size * spec.num_blocks,), np.uint64)
    constants, flat = hash_spec(spec), out.reshape(-1)
    threads = threads_for(max(bags.indices.size * spec.embedding_dim, out.size))
    if not bags.all_max:  # first, as it alone fills in all starts if there are several modes
        launch(threads, kernels.pool, stored, starts, constants, bags, flat, threads)
    if bags.some_max:
        maxima = Maxima(flat, np.empty(out.size, dtype=np.int64))
        launch(threads, pool_max, stored, starts, constants, bags, maxima, threads)


@on_any_device("bags")
def embedding_bag_backward(
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    array: np.ndarray | None = None,
    starts: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The dense gradient of the array under `embedding_bag`.

    Parameters
    ----------
    grad_out : ndarray, (batch, num_tables, d) float32 or float64
        Gradient of the output of `embedding_bag`.
    indices, offsets, spec, mode, per_sample_weights, padding_idx
        As `embedding_bag` takes them.
    array : ndarray, (array_size,) of the dtype of `grad_out`, optional
        The array as it was in the forward pass; needed with "max" alone, where the gradient of an
        element goes to the first id that gave the maximum.
    starts : ndarray, (n, blocks) int64, optional
        As `embedding_bag` filled it for the same ids and spec; None hashes again.
    out : ndarray, (array_size,) of the dtype of `grad_out`, optional
        Filled in and returned; None allocates it.

    Returns
    -------
    ndarray, (array_size,) of the dtype of `grad_out`
        The sum over every place that read an element.

    Raises
    ------
    TypeError, ValueError
        As `embedding_bag`, or "max" without `array`, or `out` read-only or in the memory of another
        argument.
    """
    check_spec(spec)
    if MAX in check_modes(mode, spec.num_tables) and array is None:
        raise ValueError(MAX_NEEDS_ARRAY)
    if array is not None:
        check_shared_array(array, spec)
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    if out is not None:
        others = {"grad_out": grad_out, "array": array, "starts": starts, **given.arrays()}
        read = {name: other for name, other in others.items() if isinstance(other, np.ndarray)}
        dtype = check_array("grad_out", grad_out, None, ARRAY_DTYPES).dtype
        check_out("out", out, (spec.array_size,), dtype, read)
    reads, threads = reads_of_bags(grad_out, given, array, spec, starts)
    return dense_gradient(reads, spec, threads, out)


@on_any_device("bags")
def embedding_bag_sgd_update(
    array: np.ndarray,
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
    starts: np.ndarray | None = None,
) -> None:
    """Move what `embedding_bag` read, in place, as `sgd_update` does.

    Parameters
    ----------
    array, grad_out, lr
        As `sgd_update` takes them.
    indices, offsets, spec, mode, per_sample_weights, padding_idx
        As `embedding_bag` takes them.
    starts : ndarray, (n, blocks) int64, optional
        As `embedding_bag_backward` takes it.

    Raises
    ------
    TypeError, ValueError
        As `embedding_bag` and `sgd_update`. Nothing has been written then.
    """
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    read = {"grad_out": grad_out, "starts": starts, **given.arrays()}
    lr = check_step(spec, lr, {"array": array}, read)
    reads, threads = reads_of_bags(grad_out, given, array, spec, starts)
    driver.update(make_step(array, lr=lr), reads, hash_spec(spec), threads)


@on_any_device("bags")
def embedding_bag_adagrad_update(
    array: np.ndarray,
    state_sum: np.ndarray,
    grad_out: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: np.ndarray | None = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
    eps: float = 1e-10,
    starts: np.ndarray | None = None,
    state_block: int = 1,
) -> None:
    """Move what `embedding_bag` read, in place, as `adagrad_update` does.

    Parameters
    ----------
    array, state_sum, grad_out, lr, eps, state_block
        As `adagrad_update` takes them.
    indices, offsets, spec, mode, per_sample_weights, padding_idx
        As `embedding_bag` takes them.
    starts : ndarray, (n, blocks) int64, optional
        As `embedding_bag_backward` takes it.

    Raises
    ------
    TypeError, ValueError
        As `embedding_bag` and `adagrad_update`. Nothing has been written then.
    """
    written = {"array": array, "state_sum": state_sum}
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    read = {"grad_out": grad_out, "starts": starts, **given.arrays()}
    lr = check_step(spec, lr, written, read, state_block)
    eps = check_scalar("eps", eps, 0, array.dtype)
    reads, threads = reads_of_bags(grad_out, given, array, spec, starts)
    step = make_step(array, state_sum, lr, eps, state_block)
    driver.update(step, reads, hash_spec(spec), threads)


def reads_of_bags(
    grad_out: np.ndarray,
    given: BagArguments,
    array: np.ndarray | None,
    spec: Spec,
    starts: np.ndarray | None,
) -> tuple[Reads, int]:
    """The reads of an `embedding_bag`, for "max" with the argmax; and threads to update with."""
    dtypes = ARRAY_DTYPES if array is None else (array.dtype,)
    dtype = check_array("grad_out", grad_out, None, dtypes).dtype
    bags, constants = check_bags(given, spec, dtype), hash_spec(spec)
    grads = check_grad_out(grad_out, bags.batch, spec, dtypes)
    num_indices = bags.indices.size
    threads = threads_for(num_indices * spec.embedding_dim)

    def hash_into(flat: np.ndarray) -> None:
        launch(threads, kernels.hash_bags, bags, constants, flat, threads)

    flat = read_starts(starts, (num_indices, spec.num_blocks), spec, threads, hash_into)
    rows = scratch("rows", (num_indices,), np.uint64)
    scales = scratch("scales", (num_indices * bags.some_mean,), dtype)
    launch(threads, kernels.expand, bags, constants, rows, scales, threads)
    argmax = np.empty(grads.size if bags.some_max else 0, dtype=np.int64)
    if bags.some_max:
        assert array is not None  # which the callers check
        maxima = Maxima(scratch("maxima", (grads.size,), dtype), argmax)
        hashed = scratch("hashed", flat.shape, np.uint64)  # not into the caller's starts
        launch(threads, pool_max, array, hashed, constants, bags, maxima, threads)
    factors = scales if bags.some_mean else bags.weights
    return Reads(bags.indices, flat, rows, factors, argmax, grads), threads
