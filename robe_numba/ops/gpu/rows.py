"""Embeddings of one id per table on a GPU: what `robe_numba.ops.rows` does with NumPy arrays.

Arguments, results and errors are those of the functions there. Values are not looked at: that
would wait for the device. An id outside its table reads another row, never other memory.
"""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, real_dtype
from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.kernels.gpu import arrays, device
from robe_numba.kernels.gpu import lookup as gather
from robe_numba.kernels.gpu import starts as gpu_starts
from robe_numba.kernels.gpu.arrays import INT64, NO_RATE
from robe_numba.kernels.gpu.update import driver, state_blocks
from robe_numba.kernels.scalar import update_rules
from robe_numba.spec import Spec


def block_starts(indices: Any, spec: Spec) -> Any:
    """See `robe_numba.block_starts`."""
    check_spec(spec)
    ids = check_ids(indices, spec)
    with device.work_on(indices) as work:
        starts = work.empty((ids.shape[0], spec.num_tables, spec.num_blocks), np.int64)
        gpu_starts.launch(work, ids.flat(), spec, arrays.of(starts).flat(np.uint64))
    return starts


def lookup(array: Any, indices: Any, spec: Spec, out: Any = None, starts: Any = None) -> Any:
    """See `robe_numba.lookup`."""
    check_spec(spec)
    values = arrays.stored_view(array, spec)
    ids = check_ids(indices, spec)
    batch, real = ids.shape[0], real_dtype(values)
    shape = (batch, spec.num_tables, spec.embedding_dim)
    target = None if out is None else arrays.view("out", out, shape, (real,), written=True)
    kept = None
    if starts is not None:
        places = (batch, spec.num_tables, spec.num_blocks)
        kept = arrays.view("starts", starts, places, INT64, written=True).flat(np.uint64)
    arrays.check_apart({"out": target, "starts": kept}, {"array": values, "indices": ids})
    with device.work_on(array) as work:
        if target is None:
            out = work.empty(shape, real)
            target = arrays.of(out)
        gather.launch(work, values, ids.flat(), spec, kept, target.flat())
    return out


def lookup_backward(
    grad_out: Any, indices: Any, spec: Spec, starts: Any = None, out: Any = None
) -> Any:
    """See `robe_numba.lookup_backward`."""
    check_spec(spec)
    real = arrays.view("grad_out", grad_out, None, ARRAY_DTYPES).dtype
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    arrays.check_apart({"out": out}, read)
    with device.work_on(grad_out) as work:
        if out is not None:
            arrays.view("out", out, (spec.array_size,), (real,), written=True)
        reads = _reads(work, grad_out, ARRAY_DTYPES, indices, spec, starts)
        if out is None:
            out = work.zeros((spec.array_size,), real)
        else:
            work.xp.asarray(out)[...] = 0
        target = arrays.view("out", out, None, (real,))
        driver.update(work, update_rules.GRADIENT, reads, spec, target, target, NO_RATE, 0)
    return out


def sgd_update(
    array: Any, grad_out: Any, indices: Any, spec: Spec, lr: float = 0.1, starts: Any = None
) -> None:
    """See `robe_numba.sgd_update`; here an element moves once, by the sum of its gradients."""
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    (values,), rate = arrays.check_step(spec, lr, {"array": array}, read)
    with device.work_on(array) as work:
        reads = _reads(work, grad_out, (values.dtype,), indices, spec, starts)
        driver.update(work, update_rules.SGD, reads, spec, values, values, rate, 0)


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
    """See `robe_numba.adagrad_update`."""
    written = {"array": array, "state_sum": state_sum}
    read = {"grad_out": grad_out, "indices": indices, "starts": starts}
    (values, sums), rate = arrays.check_step(spec, lr, written, read, state_block)
    eps = check_scalar("eps", eps, 0, values.dtype)
    with device.work_on(array) as work:
        reads = _reads(work, grad_out, (values.dtype,), indices, spec, starts)
        state_blocks.update(work, reads, spec, values, sums, rate, eps, int(state_block))


def check_ids(indices: Any, spec: Spec) -> Any:
    """Ids (batch, num_tables) of an integer dtype."""
    ids = arrays.view("indices", indices, None, INDEX_DTYPES)
    if len(ids.shape) != 2 or ids.shape[1] != spec.num_tables:
        raise ValueError(
            f"indices has shape {tuple(ids.shape)}; expected (batch, num_tables) with "
            f"num_tables = {spec.num_tables}"
        )
    return ids


def _reads(
    work: device.Work, grad_out: Any, dtypes: Any, indices: Any, spec: Spec, starts: Any
) -> driver.Reads:
    """The reads of a `lookup`: row i of the output was read by id i, once."""
    ids = check_ids(indices, spec)
    batch = ids.shape[0]
    shape = (batch, spec.num_tables, spec.embedding_dim)
    grads = arrays.view("grad_out", grad_out, shape, dtypes).flat()
    shape = (batch, spec.num_tables, spec.num_blocks)
    if starts is None:
        places = work.scratch(ids.size * spec.num_blocks, np.uint64)
        gpu_starts.launch(work, ids.flat(), spec, places)
    else:
        places = arrays.view("starts", starts, shape, INT64).flat(np.uint64)
    return driver.sort(work, places, ids.flat(), grads, spec)
