"""A model's layers on a GPU: as the functions of these names in `robe_numba.dlrm`.

Arguments, results and errors are those of the functions there, on CuPy arrays. But values are not
checked, as in `robe_numba.ops.gpu.rows`. Matrix products are computed by cuBLAS, in full float32
unless `robe_numba.ops.gpu.products.tf32` is set.
"""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES
from robe_numba.kernels.gpu import arrays, layers
from robe_numba.kernels.gpu.interaction.backward import dot_backward
from robe_numba.kernels.gpu.interaction.forward import given_dot
from robe_numba.ops.gpu import products
from robe_numba.ops.gpu.device import stream_of
from robe_numba.ops.gpu.views import given_or_new, view


def linear(
    x: Any, weight: Any, bias: Any, *, relu: bool = False, out: Any = None
) -> tuple[Any, Any]:
    """As `robe_numba.dlrm.layers.linear`, of GPU arrays."""
    weights = view("weight", weight, None, ARRAY_DTYPES)
    if len(weights.shape) != 2:
        raise ValueError(f"weight has shape {weights.shape}; expected (fan_out, fan_in)")
    (fan_out, fan_in), real = weights.shape, weights.dtype
    biases = view("bias", bias, (fan_out,), (real,))
    shape = (len(x), fan_out)
    inputs = view("x", x, (len(x), fan_in), (real,))
    with stream_of(x) as context:
        y = given_or_new(context, "out", out, shape, real)
        outputs = arrays.of(y)
        products.multiply(context, inputs, weights, outputs, transposed=(False, True))
        layers.add_bias(context, outputs, biases, relu)

    def backward(
        grad_y: Any, out: Any = None, grad_x: Any = None, wanted: bool = True
    ) -> tuple[Any, tuple[Any, Any]]:
        grads = view("grad_y", grad_y, shape, (real,))
        with stream_of(grad_y) as context:
            pair = (None, None) if out is None else out
            grad_weight = given_or_new(context, "grad_weight", pair[0], weights.shape, real)
            grad_bias = given_or_new(context, "grad_bias", pair[1], biases.shape, real)
            rectified = outputs if relu else grads
            layers.sum_rectified(context, grads, rectified, relu, arrays.of(grad_bias))
            target = arrays.of(grad_weight)
            products.multiply(context, grads, inputs, target, transposed=(True, False))
            if wanted:
                grad_x = given_or_new(context, "grad_x", grad_x, inputs.shape, real)
                products.multiply(context, grads, weights, arrays.of(grad_x))
        return grad_x if wanted else None, (grad_weight, grad_bias)

    return y, backward


def dot_interaction(dense: Any, embeddings: Any, out: Any = None) -> tuple[Any, Any]:
    """As `robe_numba.dlrm.dot_interaction`, of GPU arrays."""
    vectors, features, (batch, num_tables, dim) = _check_inputs(dense, embeddings)
    real, shape = vectors.dtype, (batch, num_tables + 1, dim)
    with stream_of(dense) as context:
        columns = dim + (num_tables + 1) * num_tables // 2
        out = given_or_new(context, "out", out, (batch, columns), real)
        given_dot(context, features, vectors, shape, arrays.of(out).flat())

    def backward(grad_out: Any, grad_embeddings: Any = None) -> tuple[Any, Any]:
        grads = view("grad_out", grad_out, (batch, columns), (real,)).flat()
        with stream_of(grad_out) as context:
            grad_dense = context.empty((batch, dim), real)
            given = ("grad_embeddings", grad_embeddings, (batch, num_tables, dim), real)
            grad_embeddings = given_or_new(context, *given)
            targets = arrays.of(grad_dense).flat(), arrays.of(grad_embeddings).flat()
            dot_backward(context, (features, vectors, grads), shape, targets)
        return grad_dense, grad_embeddings

    return out, backward


def cat_interaction(dense: Any, embeddings: Any, out: Any = None) -> tuple[Any, Any]:
    """As `robe_numba.dlrm.cat_interaction`, of GPU arrays."""
    vectors, _, (batch, num_tables, dim) = _check_inputs(dense, embeddings)
    real, shape = vectors.dtype, (batch, (num_tables + 1) * dim)
    with stream_of(dense) as context:
        out = given_or_new(context, "out", out, shape, real)
        out[:, :dim] = context.xp.asarray(dense)
        out[:, dim:] = context.xp.asarray(embeddings).reshape(batch, num_tables * dim)

    def backward(grad_out: Any, grad_embeddings: Any = None) -> tuple[Any, Any]:
        view("grad_out", grad_out, shape, (real,))
        with stream_of(grad_out) as context:
            grads = context.xp.asarray(grad_out)
            given = ("grad_embeddings", grad_embeddings, (batch, num_tables, dim), real)
            grad_embeddings = given_or_new(context, *given)
            grad_embeddings[...] = grads[:, dim:].reshape(batch, num_tables, dim)
            return grads[:, :dim].copy(), grad_embeddings

    return out, backward


def bce_with_logits(logits: Any, labels: Any, count: int | None = None) -> tuple[Any, Any]:
    """As `robe_numba.dlrm.bce_with_logits`, of GPU arrays; the loss is an array () there."""
    values = view("logits", logits, (len(logits),), ARRAY_DTYPES)
    targets = view("labels", labels, (len(logits),), (values.dtype,))
    rows = max(len(logits) if count is None else count, 1)
    with stream_of(logits) as context:
        losses, grads = (context.empty((len(logits),), values.dtype) for _ in range(2))
        scale = values.dtype.type(rows)
        written = arrays.of(losses), arrays.of(grads)
        arguments = (values, targets, scale, *written)
        layers.bce_with_logits.launch_each(context, len(logits), *arguments)
        loss = context.xp.sum(losses, dtype=np.float64) / rows
    return loss, lambda: grads


def _check_inputs(dense: Any, embeddings: Any) -> tuple[Any, Any, tuple[int, int, int]]:
    """Flat views of the embeddings and of dense, and the shape of the embeddings."""
    vectors = view("embeddings", embeddings, None, ARRAY_DTYPES)
    if len(vectors.shape) != 3:
        raise ValueError(
            f"embeddings has shape {tuple(vectors.shape)}; expected (batch, num_tables, d)"
        )
    batch, num_tables, dim = vectors.shape
    features = view("dense", dense, (batch, dim), (vectors.dtype,))
    return vectors.flat(), features.flat(), (batch, num_tables, dim)
