"""Embeddings of one id per table: read, gradient and updates.

Shapes use batch (samples), num_tables, d (embedding_dim) and blocks (ceil(d / Z)). Symbols and
formulas are in docs/design.md.
"""

import numpy as np

from robe_numba.checks.arrays import (
    ARRAY_DTYPES,
    StoredArray,
    check_kept_starts,
    check_out,
    check_stored_array,
    parts_of,
    real_dtype,
)
from robe_numba.checks.ids import check_indices
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.cpu import lookup as cpu_lookup
from robe_numba.kernels.cpu import starts as cpu_starts
from robe_numba.kernels.cpu.launch import launch, threads_for
from robe_numba.kernels.cpu.update import driver
from robe_numba.kernels.cpu.update.apply import make_step
from robe_numba.kernels.cpu.update.partition import Reads
from robe_numba.memory import scratch
from robe_numba.ops.devices import on_any_device
from robe_numba.ops.updating import (
    check_grad_out,
    check_step,
    dense_gradient,
    read_starts,
)
from robe_numba.spec import Spec


@on_any_device("rows")
def block_starts(indices: np.ndarray, spec: Spec) -> np.ndarray:
    """Where each block of each row begins in the array.

    Parameters
    ----------
    indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64
        The row of each table.
    spec : RobeSpec or TableSpec
        How rows are read.

    Returns
    -------
    ndarray, (batch, num_tables, blocks) int64
        Each in [0, array_size). Element i of a row is at (start of block i // Z + i % Z) mod
        array_size.

    Raises
    ------
    TypeError, ValueError
        Indices of another type, shape or order, or outside their table.
    """
    check_spec(spec)
    ids = check_indices(indices, spec)
    starts = np.empty((len(indices), spec.num_tables, spec.num_blocks), dtype=np.int64)
    flat, threads = starts.view(np.uint64).reshape(-1), threads_for(starts.size)
    launch(threads, cpu_starts.block_starts, ids, hash_spec(spec), flat, threads)
    return starts


@on_any_device("rows")
def lookup(
    array: StoredArray,
    indices: np.ndarray,
    spec: Spec,
    out: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """The embedding of one id per table.

    Parameters
    ----------
    array : ndarray, (array_size,) float32, float64, float16 or ml_dtypes' bfloat16
        The shared array; or a `QuantizedArray` of as many elements.
    indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64
        The row of each table.
    spec : RobeSpec or TableSpec
        How rows are read.
    out : ndarray, (batch, num_tables, d) of the result's dtype, optional
        Filled in and returned; None allocates it. Fastest where it begins a cache line, as arrays
        made here do.
    starts : ndarray, (batch, num_tables, blocks) int64, optional
        Filled with what `block_starts` gives, for the update of this batch.

    Returns
    -------
    ndarray, (batch, num_tables, d) of the dtype of `array`, or float32 for halves and int8
        The embeddings.

    Raises
    ------
    TypeError, ValueError
        An argument of another type, shape, dtype or order, an index outside its table, or `out` or
        `starts` read-only or in the memory of another argument.

    Notes
    -----
    Source: Desai, Chou, Shrivastava, ROBE, MLSys 2022.
    """
    check_spec(spec)
    stored = check_stored_array(array, spec)
    ids = check_indices(indices, spec)
    read = parts_of("array", array) | {"indices": indices}
    shape = (len(indices), spec.num_tables, spec.embedding_dim)
    out = check_out("out", out, shape, real_dtype(stored), read)
    shape = (len(indices), spec.num_tables, spec.num_blocks)
    flat, _ = check_kept_starts(starts, shape, read | {"out": out})
    read_rows(stored, ids, spec, flat, out)
    return out


def read_rows(
    stored: StoredArray, ids: np.ndarray, spec: Spec, starts: np.ndarray, out: np.ndarray
) -> None:
    """As `lookup`, of checked arguments; starts are flat uint64, (0,) where they are not kept."""
    keep = starts.size > 0
    tile = np.uint64(cpu_lookup.tile_rows(spec.embedding_dim * out.itemsize))
    threads = threads_for(out.size)
    if not keep:
        starts = scratch("tiles", (threads * 2 * int(tile) * spec.num_blocks,), np.uint64)
    constants, rows = hash_spec(spec), out.reshape(-1)
    launch(threads, cpu_lookup.lookup, stored, starts, constants, ids, keep, tile, rows, threads)


@on_any_device("rows")
def lookup_backward(
    grad_out: np.ndarray,
    indices: np.ndarray,
    spec: Spec,
    starts: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The dense gradient of the array under `lookup`, for an optimizer of your own.

    Parameters
    ----------
    grad_out : ndarray, (batch, num_tables, d) float32 or float64
        Gradient of the output of `lookup`.
    indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64
        The row of each table.
    spec : RobeSpec or TableSpec
        How rows are read.
    starts : ndarray, (batch, num_tables, blocks) int64, optional
        As `lookup` filled it for the same indices and spec; None hashes again.
    out : ndarray, (array_size,) of the dtype of `grad_out`, optional
        Filled in and returned; None allocates it.

    Returns
    -------
    ndarray, (array_size,) of the dtype of `grad_out`
        The sum over every place that read an element, 0 where nothing did; the same bits for any
        number of threads.

    Raises
    ------
    TypeError, ValueError
        An argument of another type, shape, dtype or order, an index outside its table, or `out`
        read-only or in the memory of another argument.
    """
    check_spec(spec)
    ids = check_indices(indices, spec)
    grads = check_grad_out(grad_out, len(indices), spec, ARRAY_DTYPES)
    if out is not None:
        read = {"grad_out": grad_out, "indices": indices}
        if isinstance(starts, np.ndarray):
            read["starts"] = starts
        check_out("out", out, (spec.array_size,), grads.dtype, read)
    reads, threads = reads_of_rows(ids, grads, spec, starts)
    return dense_gradient(reads, spec, threads, out)


@on_any_device("rows")
def sgd_update(
    array: np.ndarray,
    grad_out: np.ndarray,
    indices: np.ndarray,
    spec: Spec,
    lr: float = 0.1,
    starts: np.ndarray | None = None,
) -> None:
    """Move what `lookup` read, in place: array -= lr * gradient.

    Equals `torch.optim.SGD` on the dense gradient; an element that several rows read moves once for
    each, in the order of the batch. The bits are the same for any number of threads. Values are not
    checked: a NaN in the gradient reaches the elements that it belongs to.

    Parameters
    ----------
    array : ndarray, (array_size,) float32 or float64, writeable
        The shared array.
    grad_out : ndarray, (batch, num_tables, d) of the dtype of `array`
        Gradient of the output of `lookup`.
    indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64
        The row of each table.
    spec : RobeSpec or TableSpec
        How rows are read.
    lr : float
        Learning rate, finite and not negative.
    starts : ndarray, (batch, num_tables, blocks) int64, optional
        As `lookup_backward` takes it.

    Raises
    ------
    TypeError, ValueError
        An argument of another type, shape, dtype or order, an index outside its table, a read-only
        array, or arrays that share memory. Nothing has been written then.
    """
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    lr = check_step(spec, lr, {"array": array}, read)
    ids = check_indices(indices, spec)
    grads = check_grad_out(grad_out, len(indices), spec, (array.dtype,))
    reads, threads = reads_of_rows(ids, grads, spec, starts)
    driver.update(make_step(array, lr=lr), reads, hash_spec(spec), threads)


@on_any_device("rows")
def adagrad_update(
    array: np.ndarray,
    state_sum: np.ndarray,
    grad_out: np.ndarray,
    indices: np.ndarray,
    spec: Spec,
    lr: float = 0.1,
    eps: float = 1e-10,
    starts: np.ndarray | None = None,
    state_block: int = 1,
) -> None:
    """Move what `lookup` read, in place, by Adagrad.

    state_sum += gradient**2; array -= lr * gradient / (sqrt(state_sum) + eps). The gradient of an
    element is complete before it is squared, so this equals `torch.optim.Adagrad` on the dense
    gradient. The bits are the same for any number of threads.

    With `state_block` s, elements b * s to (b + 1) * s share sum b, to which the mean of their
    gradients' squares is added; the last sum may have fewer elements. Elements without gradient do
    not move. For a plain table and s = d this is row-wise Adagrad. A NaN in the gradient of an
    element reaches all elements of its block that have a gradient.

    Parameters
    ----------
    array : ndarray, (array_size,) float32 or float64, writeable
        The shared array.
    state_sum : ndarray, (ceil(array_size / state_block),) of the dtype of `array`, writeable
        The sums of squares; zeros at the start.
    grad_out : ndarray, (batch, num_tables, d) of the dtype of `array`
        Gradient of the output of `lookup`.
    indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64
        The row of each table.
    spec : RobeSpec or TableSpec
        How rows are read.
    lr, eps : float
        Learning rate, and the term that keeps the divisor from 0; finite and not negative.
    starts : ndarray, (batch, num_tables, blocks) int64, optional
        As `lookup_backward` takes it.
    state_block : int
        s, neighbouring elements that share a sum: a power of two, at most 4096, so that no worker's
        range of the array ends within a block and a block stays in the first-level cache.

    Raises
    ------
    TypeError, ValueError
        As `sgd_update`, or another `state_block`. Nothing has been written then.
    """
    written = {"array": array, "state_sum": state_sum}
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    lr = check_step(spec, lr, written, read, state_block)
    eps = check_scalar("eps", eps, 0, array.dtype)
    ids = check_indices(indices, spec)
    grads = check_grad_out(grad_out, len(indices), spec, (array.dtype,))
    reads, threads = reads_of_rows(ids, grads, spec, starts)
    step = make_step(array, state_sum, lr, eps, state_block)
    driver.update(step, reads, hash_spec(spec), threads)


def reads_of_rows(
    ids: np.ndarray, grads: np.ndarray, spec: Spec, starts: np.ndarray | None
) -> tuple[Reads, int]:
    """The reads of a `lookup`, id i once into row i of the output; and threads to update with."""
    threads = threads_for(grads.size)

    def hash_into(flat: np.ndarray) -> None:
        launch(threads, cpu_starts.block_starts, ids, hash_spec(spec), flat, threads)

    shape = (ids.size // spec.num_tables, spec.num_tables, spec.num_blocks)
    reads = Reads(
        indices=ids,
        starts=read_starts(starts, shape, spec, threads, hash_into),
        rows=np.empty(0, dtype=np.uint64),
        scales=np.empty(0, dtype=grads.dtype),
        argmax=np.empty(0, dtype=np.int64),
        grad_out=grads,
    )
    return reads, threads
