"""A model's layers on a GPU: what the functions of these names in `robe_numba.dlrm` do there.

Arguments, results and errors are those of the functions there, on CuPy arrays; values are not
looked at, as in `robe_numba.ops.gpu.rows`. Matrix products are cuBLAS's, in full float32 unless
`robe_numba.ops.gpu.products` is told otherwise.
"""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES
from robe_numba.kernels.gpu import arrays, device, layers
from robe_numba.kernels.gpu.device import Work
from robe_numba.kernels.gpu.interaction import backward as dot_backward
from robe_numba.kernels.gpu.interaction import forward
from robe_numba.ops.gpu import products


def linear(
    x: Any, weight: Any, bias: Any, *, relu: bool = False, out: Any = None
) -> tuple[Any, Any]:
    """See `robe_numba.dlrm.layers.linear`."""
    weights = arrays.view("weight", weight, None, ARRAY_DTYPES)
    if len(weights.shape) != 2:
        raise ValueError(f"weight has shape {weights.shape}; expected (fan_out, fan_in)")
    (fan_out, fan_in), real = weights.shape, weights.dtype
    biases = arrays.view("bias", bias, (fan_out,), (real,))
    shape = (len(x), fan_out)
    inputs = arrays.view("x", x, (len(x), fan_in), (real,))
    with device.work_on(x) as work:
        y = _given_or_new(work, "out", out, shape, real)
        outputs = arrays.of(y)
        products.multiply(work, inputs, weights, outputs, transposed=(False, True))
        layers.add_bias(work, outputs, biases, relu)

    def backward(
        grad_y: Any, out: Any = None, grad_x: Any = None, wanted: bool = True
    ) -> tuple[Any, tuple[Any, Any]]:
        grads = arrays.view("grad_y", grad_y, shape, (real,))
        with device.work_on(grad_y) as work:
            pair = (None, None) if out is None else out
            grad_weight = _given_or_new(work, "grad_weight", pair[0], weights.shape, real)
            grad_bias = _given_or_new(work, "grad_bias", pair[1], biases.shape, real)
            rectified = outputs if relu else grads
            layers.add_columns(work, grads, rectified, relu, arrays.of(grad_bias))
            target = arrays.of(grad_weight)
            products.multiply(work, grads, inputs, target, transposed=(True, False))
            if wanted:
                grad_x = _given_or_new(work, "grad_x", grad_x, inputs.shape, real)
                products.multiply(work, grads, weights, arrays.of(grad_x))
        return grad_x if wanted else None, (grad_weight, grad_bias)

    return y, backward


def dot_interaction(dense: Any, embeddings: Any, out: Any = None) -> tuple[Any, Any]:
    """See `robe_numba.dlrm.dot_interaction`."""
    vectors, features, (batch, num_tables, dim) = _check_inputs(dense, embeddings)
    real, shape = vectors.dtype, (batch, num_tables + 1, dim)
    with device.work_on(dense) as work:
        columns = dim + (num_tables + 1) * num_tables // 2
        out = _given_or_new(work, "out", out, (batch, columns), real)
        forward.forward(work, features, vectors, shape, arrays.of(out).flat())

    def backward(grad_out: Any, grad_embeddings: Any = None) -> tuple[Any, Any]:
        grads = arrays.view("grad_out", grad_out, (batch, columns), (real,)).flat()
        with device.work_on(grad_out) as work:
            grad_dense = work.empty((batch, dim), real)
            given = ("grad_embeddings", grad_embeddings, (batch, num_tables, dim), real)
            grad_embeddings = _given_or_new(work, *given)
            targets = arrays.of(grad_dense).flat(), arrays.of(grad_embeddings).flat()
            dot_backward.launch(work, (features, vectors, grads), shape, targets)
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
        arrays.view("grad_out", grad_out, shape, (real,))
        with device.work_on(grad_out) as work:
            grads = work.xp.asarray(grad_out)
            given = ("grad_embeddings", grad_embeddings, (batch, num_tables, dim), real)
            grad_embeddings = _given_or_new(work, *given)
            grad_embeddings[...] = grads[:, dim:].reshape(batch, num_tables, dim)
            return grads[:, :dim].copy(), grad_embeddings

    return out, backward


def bce_with_logits(logits: Any, labels: Any, count: int | None = None) -> tuple[Any, Any]:
    """See `robe_numba.dlrm.bce_with_logits`; the loss is an array () on the GPU."""
    values = arrays.view("logits", logits, (len(logits),), ARRAY_DTYPES)
    targets = arrays.view("labels", labels, (len(logits),), (values.dtype,))
    rows = max(len(logits) if count is None else count, 1)
    with device.work_on(logits) as work:
        losses, grads = (work.empty((len(logits),), values.dtype) for _ in range(2))
        scale = values.dtype.type(rows)
        written = arrays.of(losses), arrays.of(grads)
        arguments = (values, targets, scale, *written)
        layers.by_elements(work, layers.entropy, len(logits), *arguments)
        loss = work.xp.sum(losses, dtype=np.float64) / rows
    return loss, lambda: grads


def _given_or_new(
    work: Work, name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype
) -> Any:
    """An array that is written: the caller's, as the library's of `work`, or a new one."""
    if given is None:
        return work.empty(shape, dtype)
    arrays.view(name, given, shape, (dtype,), written=True)
    return work.xp.asarray(given)


def _check_inputs(dense: Any, embeddings: Any) -> tuple[Any, Any, tuple[int, int, int]]:
    """Both as flat views, embeddings first, and the shape of embeddings."""
    vectors = arrays.view("embeddings", embeddings, None, ARRAY_DTYPES)
    if len(vectors.shape) != 3:
        raise ValueError(
            f"embeddings has shape {tuple(vectors.shape)}; expected (batch, num_tables, d)"
        )
    batch, num_tables, dim = vectors.shape
    features = arrays.view("dense", dense, (batch, dim), (vectors.dtype,))
    return vectors.flat(), features.flat(), (batch, num_tables, dim)
