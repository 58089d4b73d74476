"""Embeddings of one id per table on a GPU: as `robe_numba.ops.rows`.

Arguments, results and errors are those of the functions there. But values are not checked, which
would wait for the device: an id outside its table reads another row, never other memory.
"""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, real_dtype
from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import NO_RATE
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.kernels.gpu.lookup import lookup_rows
from robe_numba.kernels.gpu.starts import hash_starts
from robe_numba.kernels.gpu.update import driver, state_blocks
from robe_numba.kernels.gpu.update.partition import SortedReads, sort
from robe_numba.kernels.scalar import update_rules
from robe_numba.ops.gpu.device import stream_of
from robe_numba.ops.gpu.views import INT64, check_apart, check_step, stored_view, view
from robe_numba.spec import Spec


def block_starts(indices: Any, spec: Spec) -> Any:
    """As `robe_numba.block_starts`, of GPU arrays."""
    check_spec(spec)
    ids = check_ids(indices, spec)
    with stream_of(indices) as context:
        starts = context.empty((ids.shape[0], spec.num_tables, spec.num_blocks), np.int64)
        hash_starts(context, ids.flat(), spec, arrays.of(starts).flat(np.uint64))
    return starts


def lookup(array: Any, indices: Any, spec: Spec, out: Any = None, starts: Any = None) -> Any:
    """As `robe_numba.lookup`, of GPU arrays."""
    check_spec(spec)
    values = stored_view(array, spec)
    ids = check_ids(indices, spec)
    batch, real = ids.shape[0], real_dtype(values)
    shape = (batch, spec.num_tables, spec.embedding_dim)
    target = None if out is None else view("out", out, shape, (real,), written=True)
    kept = None
    if starts is not None:
        places = (batch, spec.num_tables, spec.num_blocks)
        kept = view("starts", starts, places, INT64, written=True).flat(np.uint64)
    check_apart({"out": target, "starts": kept}, {"array": values, "indices": ids})
    with stream_of(array) as context:
        if target is None:
            out = context.empty(shape, real)
            target = arrays.of(out)
        lookup_rows(context, values, ids.flat(), spec, kept, target.flat())
    return out


def lookup_backward(
    grad_out: Any, indices: Any, spec: Spec, starts: Any = None, out: Any = None
) -> Any:
    """As `robe_numba.lookup_backward`, of GPU arrays."""
    check_spec(spec)
    real = view("grad_out", grad_out, None, ARRAY_DTYPES).dtype
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    check_apart({"out": out}, read)
    with stream_of(grad_out) as context:
        if out is not None:
            view("out", out, (spec.array_size,), (real,), written=True)
        reads = _reads(context, grad_out, ARRAY_DTYPES, indices, spec, starts)
        if out is None:
            out = context.zeros((spec.array_size,), real)
        else:
            context.xp.asarray(out)[...] = 0
        target = view("out", out, None, (real,))
        driver.update(context, update_rules.GRADIENT, reads, spec, target, target, NO_RATE, 0)
    return out


def sgd_update(
    array: Any, grad_out: Any, indices: Any, spec: Spec, lr: float = 0.1, starts: Any = None
) -> None:
    """As `robe_numba.sgd_update`, of GPU arrays, but each element moves only once."""
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    (values,), rate = check_step(spec, lr, {"array": array}, read)
    with stream_of(array) as context:
        reads = _reads(context, grad_out, (values.dtype,), indices, spec, starts)
        driver.update(context, update_rules.SGD, reads, spec, values, values, rate, 0)


def adagrad_update(
    array: Any,
    state_sum: Any,
    grad_out: Any,
    indices: Any,
    spec: Spec,
    lr: float = 0.1,
    eps: float = 1e-10,
    starts: Any = None,
    state_block: int = 1,
) -> None:
    """As `robe_numba.adagrad_update`, of GPU arrays."""
    written = {"array": array, "state_sum": state_sum}
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    (values, sums), rate = check_step(spec, lr, written, read, state_block)
    eps = check_scalar("eps", eps, 0, values.dtype)
    with stream_of(array) as context:
        reads = _reads(context, grad_out, (values.dtype,), indices, spec, starts)
        state_blocks.update(context, reads, spec, values, sums, rate, eps, int(state_block))


def check_ids(indices: Any, spec: Spec) -> Any:
    """Require ids (batch, num_tables) of an integer dtype."""
    ids = view("indices", indices, None, INDEX_DTYPES)
    if len(ids.shape) != 2 or ids.shape[1] != spec.num_tables:
        raise ValueError(
            f"indices has shape {tuple(ids.shape)}; expected (batch, num_tables) with "
            f"num_tables = {spec.num_tables}"
        )
    return ids


def _reads(
    context: DeviceContext, grad_out: Any, dtypes: Any, indices: Any, spec: Spec, starts: Any
) -> SortedReads:
    """Sort the reads of a `lookup`: id i was read once, into row i of the output."""
    ids = check_ids(indices, spec)
    batch = ids.shape[0]
    shape = (batch, spec.num_tables, spec.embedding_dim)
    grads = view("grad_out", grad_out, shape, dtypes).flat()
    shape = (batch, spec.num_tables, spec.num_blocks)
    if starts is None:
        places = context.scratch(ids.size * spec.num_blocks, np.uint64)
        hash_starts(context, ids.flat(), spec, places)
    else:
        places = view("starts", starts, shape, INT64).flat(np.uint64)
    return sort(context, places, ids.flat(), grads, spec)
