"""Embeddings of bags of ids on a GPU: as `robe_numba.ops.bags`.

Arguments, results and errors are those of the functions there. But values are not checked, as in
`robe_numba.ops.gpu.rows`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, real_dtype
from robe_numba.checks.bags import (
    MAX_NEEDS_ARRAY,
    BagArguments,
    check_bag_ids_shape,
    check_modes,
    check_offsets_shape,
    check_padding,
)
from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import NO_RATE, DeviceArray
from robe_numba.kernels.gpu.bag_reads import expand_reads
from robe_numba.kernels.gpu.bags import pool, pool_max
from robe_numba.kernels.gpu.context import DeviceContext, modes_on
from robe_numba.kernels.gpu.update import driver, state_blocks
from robe_numba.kernels.gpu.update.partition import SortedReads, sort
from robe_numba.kernels.scalar import update_rules
from robe_numba.kernels.scalar.bags import EVERY_READ, MAX, Bags
from robe_numba.ops.gpu.device import stream_of
from robe_numba.ops.gpu.views import INT64, check_apart, check_step, stored_view, view
from robe_numba.spec import Spec


def embedding_bag(
    array: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    out: Any = None,
    starts: Any = None,
) -> Any:
    """As `robe_numba.embedding_bag`, of GPU arrays."""
    check_spec(spec)
    values = stored_view(array, spec)
    real = real_dtype(values)
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    check_apart({"out": out, "starts": starts}, {"array": values, **given.arrays()})
    with stream_of(array) as context:
        bags = _check_bags(context, given, spec, real)
        shape = (int(bags.batch), spec.num_tables, spec.embedding_dim)
        out = context.empty(shape, real) if out is None else out
        target = view("out", out, shape, (real,), written=True).flat()
        places = arrays.nothing(np.uint64)
        if starts is not None:
            places = _starts(bags, spec, starts, written=True)
        if not bags.all_max:
            pool(context, values, bags, spec, places, target)
        if bags.some_max:
            pool_max(context, values, bags, spec, places, target, arrays.nothing(np.int64))
    return out


def embedding_bag_backward(
    grad_out: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    array: Any = None,
    starts: Any = None,
    out: Any = None,
) -> Any:
    """As `robe_numba.embedding_bag_backward`, of GPU arrays."""
    check_spec(spec)
    if MAX in check_modes(mode, spec.num_tables) and array is None:
        raise ValueError(MAX_NEEDS_ARRAY)
    values = None
    if array is not None:
        values = view("array", array, (spec.array_size,), ARRAY_DTYPES)
    real = _check_grad_out(grad_out, values).dtype
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    read = {"grad_out": grad_out, "array": array, "starts": starts, **given.arrays()}
    check_apart({"out": out}, read)
    with stream_of(grad_out) as context:
        if out is not None:
            view("out", out, (spec.array_size,), (real,), written=True)
        reads = _reads(context, grad_out, given, spec, values, starts)
        if out is None:
            out = context.zeros((spec.array_size,), real)
        else:
            context.xp.asarray(out)[...] = 0
        target = view("out", out, None, (real,))
        driver.update(context, update_rules.GRADIENT, reads, spec, target, target, NO_RATE, 0)
    return out


def embedding_bag_sgd_update(
    array: Any,
    grad_out: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
    starts: Any = None,
) -> None:
    """As `robe_numba.embedding_bag_sgd_update`, of GPU arrays, but an element moves once."""
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    read = {"grad_out": grad_out, "starts": starts, **given.arrays()}
    (values,), rate = check_step(spec, lr, {"array": array}, read)
    with stream_of(array) as context:
        reads = _reads(context, grad_out, given, spec, values, starts)
        driver.update(context, update_rules.SGD, reads, spec, values, values, rate, 0)


def embedding_bag_adagrad_update(
    array: Any,
    state_sum: Any,
    grad_out: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str | Sequence[str] = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
    lr: float = 0.1,
    eps: float = 1e-10,
    starts: Any = None,
    state_block: int = 1,
) -> None:
    """As `robe_numba.embedding_bag_adagrad_update`, of GPU arrays."""
    written = {"array": array, "state_sum": state_sum}
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    read = {"grad_out": grad_out, "starts": starts, **given.arrays()}
    (values, sums), rate = check_step(spec, lr, written, read, state_block)
    eps = check_scalar("eps", eps, 0, values.dtype)
    with stream_of(array) as context:
        reads = _reads(context, grad_out, given, spec, values, starts)
        state_blocks.update(context, reads, spec, values, sums, rate, eps, int(state_block))


def _check_bags(context: DeviceContext, given: BagArguments, spec: Spec, real: np.dtype) -> Bags:
    """The bags of a call; `real` is the output's dtype."""
    offsets = view("offsets", given.offsets, None, INDEX_DTYPES)
    check_offsets_shape(offsets, spec.num_tables)
    indices = view("indices", given.indices, None, INDEX_DTYPES)
    check_bag_ids_shape(indices)
    weights = given.per_sample_weights
    modes = check_modes(given.mode, spec.num_tables, weights is not None)
    padding = check_padding(given.padding_idx)
    if weights is None:
        weights = arrays.nothing(real)
    else:
        weights = view("per_sample_weights", weights, (indices.size,), (real,))
    batch, known = np.uint64((offsets.size - 1) // spec.num_tables), modes_on(modes, context.device)
    padded, padding_idx = padding is not None, np.uint64(0) if padding is None else padding
    return Bags(indices, offsets, weights, batch, *known, padded, padding_idx)


def _starts(bags: Bags, spec: Spec, given: Any, written: bool = False) -> DeviceArray:
    """The caller's starts, as uint64 (n * num_blocks,)."""
    shape = (bags.indices.size, spec.num_blocks)
    return view("starts", given, shape, INT64, written).flat(np.uint64)


def _check_grad_out(grad_out: Any, values: DeviceArray | None) -> DeviceArray:
    """The gradient, of the dtype of the array if that is given."""
    dtypes = ARRAY_DTYPES if values is None else (values.dtype,)
    return view("grad_out", grad_out, None, dtypes)


def _reads(
    context: DeviceContext,
    grad_out: Any,
    given: BagArguments,
    spec: Spec,
    values: Any,
    starts: Any,
) -> SortedReads:
    """Sort the reads of an `embedding_bag`, with their rows, factors and, for "max", argmax."""
    grads = _check_grad_out(grad_out, values)
    bags = _check_bags(context, given, spec, grads.dtype)
    shape = (int(bags.batch), spec.num_tables, spec.embedding_dim)
    grads = view("grad_out", grad_out, shape, (grads.dtype,)).flat()
    places = None if starts is None else _starts(bags, spec, starts)
    known = expand_reads(context, bags, spec, grads.dtype, places)
    argmax, mixed = arrays.nothing(np.int64), bags.some_max and not bags.all_max
    if bags.some_max:
        maxima = context.scratch(grads.size, grads.dtype)
        argmax = context.scratch(grads.size, np.int64)
        if mixed:
            argmax = arrays.of(context.xp.full(grads.size, EVERY_READ, np.int64))
        # Not from the caller's starts, which are not checked.
        pool_max(context, values, bags, spec, arrays.nothing(np.uint64), maxima, argmax)
    starts, rows, scales = known
    return sort(context, starts, bags.indices, grads, spec, rows, scales, argmax, mixed)
