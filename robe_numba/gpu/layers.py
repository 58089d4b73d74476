"""A model's layers on a GPU: what the functions of these names in `robe_numba.dlrm` do there.

Arguments, results and errors are those of the functions there, on CuPy arrays; values are not
looked at, as in `robe_numba.gpu.rows`. Matrix products are CuPy's, in full float32.
"""

from typing import Any

import numpy as np

from robe_numba.checks import ARRAY_DTYPES
from robe_numba.gpu import device, dot, elementwise
from robe_numba.gpu.device import Work, as_seen


def linear(
    x: Any, weight: Any, bias: Any, *, relu: bool = False, out: Any = None
) -> tuple[Any, Any]:
    """See `robe_numba.dlrm.linear`."""
    seen = device.view("weight", weight, None, ARRAY_DTYPES)
    if len(seen.shape) != 2:
        raise ValueError(f"weight has shape {tuple(seen.shape)}; expected (fan_out, fan_in)")
    fan_out, fan_in = seen.shape
    dtypes = (seen.dtype,)
    device.view("bias", bias, (fan_out,), dtypes)
    shape = (len(x), fan_out)
    device.view("x", x, (len(x), fan_in), dtypes)
    with device.work_on(x) as work:
        xp = work.xp
        x, weight = xp.asarray(x), xp.asarray(weight)
        y = _given_or_new(work, "out", out, shape, seen.dtype)
        xp.matmul(x, weight.T, out=y)
        elementwise.by_rows(work, elementwise.add_bias, as_seen(y), as_seen(bias), relu)

    def backward(
        grad_y: Any, out: Any = None, grad_x: Any = None, wanted: bool = True
    ) -> tuple[Any, tuple[Any, Any]]:
        grads = device.view("grad_y", grad_y, shape, dtypes)
        with device.work_on(grad_y) as work:
            xp, grad_y = work.xp, work.xp.asarray(grad_y)
            pair = (None, None) if out is None else out
            grad_weight = _given_or_new(work, "grad_weight", pair[0], weight.shape, seen.dtype)
            grad_bias = _given_or_new(work, "grad_bias", pair[1], bias.shape, seen.dtype)
            if relu:
                values, outputs = device.flat(grads), device.seen_flat(y)
                elementwise.by_elements(work, elementwise.mask, values.size, values, outputs)
            xp.sum(grad_y, axis=0, out=grad_bias)
            xp.matmul(grad_y.T, x, out=grad_weight)
            if wanted:
                grad_x = _given_or_new(work, "grad_x", grad_x, x.shape, seen.dtype)
                xp.matmul(grad_y, weight, out=grad_x)
        return grad_x if wanted else None, (grad_weight, grad_bias)

    return y, backward


def dot_interaction(dense: Any, embeddings: Any, out: Any = None) -> tuple[Any, Any]:
    """See `robe_numba.dlrm.dot_interaction`."""
    vectors, features, (batch, num_tables, dim) = _check_inputs(dense, embeddings)
    real, shape = vectors.dtype, (batch, num_tables + 1, dim)
    with device.work_on(dense) as work:
        columns = dim + (num_tables + 1) * num_tables // 2
        out = _given_or_new(work, "out", out, (batch, columns), real)
        dot.forward(work, features, vectors, shape, device.seen_flat(out))

    def backward(grad_out: Any, grad_embeddings: Any = None) -> tuple[Any, Any]:
        grads = device.flat(device.view("grad_out", grad_out, (batch, columns), (real,)))
        with device.work_on(grad_out) as work:
            grad_dense = work.empty((batch, dim), real)
            given = ("grad_embeddings", grad_embeddings, (batch, num_tables, dim), real)
            grad_embeddings = _given_or_new(work, *given)
            targets = device.seen_flat(grad_dense), device.seen_flat(grad_embeddings)
            dot.backward(work, (features, vectors, grads), shape, targets)
        return grad_dense, grad_embeddings

    return out, backward


def cat_interaction(dense: Any, embeddings: Any, out: Any = None) -> tuple[Any, Any]:
    """See `robe_numba.dlrm.cat_interaction`."""
    vectors, _, (batch, num_tables, dim) = _check_inputs(dense, embeddings)
    real, shape = vectors.dtype, (batch, (num_tables + 1) * dim)
    with device.work_on(dense) as work:
        out = _given_or_new(work, "out", out, shape, real)
        out[:, :dim] = work.xp.asarray(dense)
        out[:, dim:] = work.xp.asarray(embeddings).reshape(batch, num_tables * dim)

    def backward(grad_out: Any, grad_embeddings: Any = None) -> tuple[Any, Any]:
        device.view("grad_out", grad_out, shape, (real,))
        with device.work_on(grad_out) as work:
            grads = work.xp.asarray(grad_out)
            given = ("grad_embeddings", grad_embeddings, (batch, num_tables, dim), real)
            grad_embeddings = _given_or_new(work, *given)
            grad_embeddings[...] = grads[:, dim:].reshape(batch, num_tables, dim)
            return grads[:, :dim].copy(), grad_embeddings

    return out, backward


def bce_with_logits(logits: Any, labels: Any, count: int | None = None) -> tuple[Any, Any]:
    """See `robe_numba.dlrm.bce_with_logits`; the loss is an array () on the GPU."""
    values = device.view("logits", logits, (len(logits),), ARRAY_DTYPES)
    targets = device.view("labels", labels, (len(logits),), (values.dtype,))
    rows = max(len(logits) if count is None else count, 1)
    with device.work_on(logits) as work:
        losses, grads = (work.empty((len(logits),), values.dtype) for _ in range(2))
        scale = values.dtype.type(rows)
        written = as_seen(losses), as_seen(grads)
        arguments = (values, targets, scale, *written)
        elementwise.by_elements(work, elementwise.entropy, len(logits), *arguments)
        loss = work.xp.sum(losses, dtype=np.float64) / rows
    return loss, lambda: grads


def _given_or_new(
    work: Work, name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype
) -> Any:
    """An array that is written: the caller's, as the library's of `work`, or a new one."""
    if given is None:
        return work.empty(shape, dtype)
    device.view(name, given, shape, (dtype,), written=True)
    return work.xp.asarray(given)


def _check_inputs(dense: Any, embeddings: Any) -> tuple[Any, Any, tuple[int, int, int]]:
    """Both as flat views, embeddings first, and the shape of embeddings."""
    vectors = device.view("embeddings", embeddings, None, ARRAY_DTYPES)
    if len(vectors.shape) != 3:
        raise ValueError(
            f"embeddings has shape {tuple(vectors.shape)}; expected (batch, num_tables, d)"
        )
    batch, num_tables, dim = vectors.shape
    features = device.view("dense", dense, (batch, dim), (vectors.dtype,))
    return device.flat(vectors), device.flat(features), (batch, num_tables, dim)
