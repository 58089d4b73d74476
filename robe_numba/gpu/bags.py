"""Embeddings of bags of ids on a GPU: what `robe_numba.ops.bags` does with NumPy arrays.

Arguments, results and errors are those of the functions there, and values are not looked at, as in
`robe_numba.gpu.rows`.
"""

from typing import Any

import numpy as np

from robe_numba import checks, update_rules
from robe_numba.gpu import device, pool, segments, state_blocks
from robe_numba.gpu.device import INT64, Work, as_seen, seen_flat
from robe_numba.spec import Spec

MODES = {"sum": pool.SUM, "mean": pool.MEAN, "max": pool.MAX}


def embedding_bag(
    array: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    out: Any = None,
    starts: Any = None,
) -> Any:
    """See `robe_numba.embedding_bag`."""
    checks.check_spec(spec)
    values = device.stored_view(array, spec)
    real = checks.real_dtype(values)
    read = {"array": values, "indices": indices, "offsets": offsets}
    read["per_sample_weights"] = per_sample_weights
    device.check_apart({"out": out, "starts": starts}, read)
    with device.work_on(array) as work:
        options = (mode, per_sample_weights, padding_idx)
        bags = _check_bags(work, indices, offsets, spec, *options, real)
        shape = (int(bags.batch), spec.num_tables, spec.embedding_dim)
        out = work.empty(shape, real) if out is None else out
        target = device.flat(device.view("out", out, shape, (real,), written=True))
        places = _starts(work, bags, spec, starts, written=True)
        pool.launch(work, pool.bag_starts, places.size, bags, spec, places)
        winners = as_seen(work.empty((target.size if bags.mode == pool.MAX else 0,), np.int64))
        pool.pool(work, values, bags, spec, places, target, winners)
    return out


def embedding_bag_backward(
    grad_out: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    array: Any = None,
    starts: Any = None,
) -> Any:
    """See `robe_numba.embedding_bag_backward`."""
    checks.check_spec(spec)
    checks.check_mode(mode)
    if mode == "max" and array is None:
        raise ValueError(checks.MAX_NEEDS_ARRAY)
    values, dtypes = None, checks.ARRAY_DTYPES
    if array is not None:
        values = device.view("array", array, (spec.array_size,), checks.ARRAY_DTYPES)
        dtypes = (values.dtype,)
    device.view("grad_out", grad_out, None, dtypes)
    with device.work_on(grad_out) as work:
        options = (mode, per_sample_weights, padding_idx)
        reads = _reads(work, grad_out, dtypes, indices, offsets, spec, options, values, starts)
        gradient = work.zeros((spec.array_size,), reads.grad_out.dtype)
        target = seen_flat(gradient)
        segments.update(work, update_rules.GRADIENT, reads, spec, target, target, 0, 0)
    return gradient


def embedding_bag_sgd_update(
    array: Any,
    grad_out: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
    starts: Any = None,
) -> None:
    """See `robe_numba.embedding_bag_sgd_update`; here an element moves once."""
    read = {"grad_out": grad_out, "indices": indices, "offsets": offsets, "starts": starts}
    read["per_sample_weights"] = per_sample_weights
    (values,), lr = device.check_step(spec, lr, {"array": array}, read)
    with device.work_on(array) as work:
        options = (mode, per_sample_weights, padding_idx)
        dtypes = (values.dtype,)
        reads = _reads(work, grad_out, dtypes, indices, offsets, spec, options, values, starts)
        segments.update(work, update_rules.SGD, reads, spec, values, values, lr, 0)


def embedding_bag_adagrad_update(
    array: Any,
    state_sum: Any,
    grad_out: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
    eps: float = 1e-10,
    starts: Any = None,
    state_block: int = 1,
) -> None:
    """See `robe_numba.embedding_bag_adagrad_update`."""
    written = {"array": array, "state_sum": state_sum}
    read = {"grad_out": grad_out, "indices": indices, "offsets": offsets, "starts": starts}
    read["per_sample_weights"] = per_sample_weights
    (values, sums), lr = device.check_step(spec, lr, written, read, state_block)
    eps = checks.check_scalar("eps", eps, 0, values.dtype)
    with device.work_on(array) as work:
        options = (mode, per_sample_weights, padding_idx)
        dtypes = (values.dtype,)
        reads = _reads(work, grad_out, dtypes, indices, offsets, spec, options, values, starts)
        state_blocks.update(work, reads, spec, values, sums, lr, eps, int(state_block))


def _check_bags(
    work: Work,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str,
    weights: Any,
    padding_idx: int | None,
    real: np.dtype,
) -> pool.Bags:
    """The bags of a call; `real` is the output's dtype."""
    bounds = device.view("offsets", offsets, None, checks.INDEX_DTYPES)
    checks.check_offsets_shape(bounds, spec)
    ids = device.view("indices", indices, None, checks.INDEX_DTYPES)
    checks.check_bag_ids_shape(ids)
    checks.check_weighted_mode(mode, weights is not None)
    padding = checks.check_padding(padding_idx)
    if weights is None:
        weights = as_seen(work.empty((0,), real))
    else:
        weights = device.view("per_sample_weights", weights, (ids.size,), (real,))
    return pool.Bags(
        indices=ids,
        offsets=bounds,
        weights=weights,
        batch=np.uint64((bounds.size - 1) // spec.num_tables),
        mode=MODES[mode],
        padded=padding is not None,
        padding_idx=np.uint64(0) if padding is None else padding,
    )


def _starts(work: Work, bags: pool.Bags, spec: Spec, given: Any, written: bool = False) -> Any:
    """Starts uint64 (n * num_blocks,): the caller's or new ones."""
    shape = (bags.indices.size, spec.num_blocks)
    if given is None:
        return seen_flat(work.empty(shape, np.int64), np.uint64)
    return device.flat(device.view("starts", given, shape, INT64, written), np.uint64)


def _reads(
    work: Work,
    grad_out: Any,
    dtypes: tuple[np.dtype, ...],
    indices: Any,
    offsets: Any,
    spec: Spec,
    options: tuple[str, Any, int | None],
    values: Any,
    starts: Any,
) -> segments.Reads:
    """The reads of an `embedding_bag`: their rows, factors and, for "max", the winners."""
    grads = device.view("grad_out", grad_out, None, dtypes)
    bags = _check_bags(work, indices, offsets, spec, *options, grads.dtype)
    shape = (int(bags.batch), spec.num_tables, spec.embedding_dim)
    grads = device.flat(device.view("grad_out", grad_out, shape, dtypes))
    places = _starts(work, bags, spec, starts)
    if starts is None:
        pool.launch(work, pool.bag_starts, places.size, bags, spec, places)
    num_reads = bags.indices.size
    rows = as_seen(work.zeros((num_reads,), np.int64))
    scales = bags.weights
    if bags.mode == pool.MEAN:
        scales = as_seen(work.zeros((num_reads,), grads.dtype))
    pool.launch(work, pool.expand, bags.offsets.size - 1, bags, spec, rows, scales)
    winners = as_seen(work.empty((grads.size if bags.mode == pool.MAX else 0,), np.int64))
    if bags.mode == pool.MAX:
        maxima = as_seen(work.empty((grads.size,), grads.dtype))
        hashed = _starts(work, bags, spec, None)  # what the caller's may be, nobody has looked
        pool.launch(work, pool.bag_starts, hashed.size, bags, spec, hashed)
        pool.pool(work, values, bags, spec, hashed, maxima, winners)
    return segments.sort(work, places, bags.indices, grads, spec, rows, scales, winners)
