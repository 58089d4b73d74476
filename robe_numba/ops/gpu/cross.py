"""The cross network on a GPU: as `robe_numba.dlrm.layers.cross`.

Arguments, results and errors are those of the functions there, on CuPy arrays. But values are not
checked, as in `robe_numba.ops.gpu.rows`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES
from robe_numba.kernels.gpu import arrays, layers
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.ops.gpu.device import stream_of
from robe_numba.ops.gpu.products import multiply
from robe_numba.ops.gpu.views import given_or_new, view


class _Layer(NamedTuple):
    """A layer's weights, and what it read and computed."""

    v: DeviceArray  # (rank, n)
    u: DeviceArray  # (n, rank)
    bias: DeviceArray  # (n,)
    before: DeviceArray  # (batch, n), its input
    hidden: DeviceArray  # (batch, rank)
    product: DeviceArray  # (batch, n)


def cross_network(x: Any, crossing: Sequence[Any] = (), *, outs: Any = None) -> tuple[Any, Any]:
    """As `robe_numba.dlrm.layers.cross.cross_network`, of GPU arrays."""
    first = view("x", x, None, ARRAY_DTYPES)
    if len(first.shape) != 2:
        raise ValueError(f"x has shape {tuple(first.shape)}; expected (batch, n)")
    kept: list[_Layer] = []
    y = x
    with stream_of(x) as context:
        for number, weights in enumerate(crossing):
            memory = (None,) * 3 if outs is None else outs[number]
            y, layer = _forward(context, number, first, weights, arrays.of(y), memory)
            kept.append(layer)

    def backward(grad_y: Any, out: Any = None) -> tuple[Any, Any]:
        grads = view("grad_y", grad_y, first.shape, (first.dtype,), written=True)
        if not kept:
            return grad_y, []
        with stream_of(grad_y) as context:
            grad, grad_x = (context.zeros(first.shape, first.dtype) for _ in range(2))
            terms = grads, arrays.of(grad), arrays.of(grad_x)
            gradients = []
            for number in reversed(range(len(kept))):
                memory = (None,) * 3 if out is None else out[number]
                gradients.append(_backward(context, first, kept[number], terms, memory))
            grad_x += context.xp.asarray(grad_y)
            grad_x += grad
        return grad_x, gradients[::-1]

    return y, backward


def _forward(
    context: DeviceContext,
    number: int,
    x: DeviceArray,
    weights: Sequence[Any],
    before: DeviceArray,
    memory: Sequence[Any],
) -> tuple[Any, _Layer]:
    """The output of a layer, and what its backward pass needs."""
    (batch, width), real = x.shape, x.dtype
    rank = len(weights[0])
    shapes = (rank, width), (width, rank), (width,)
    v, u, bias = (
        view(f"{name} of layer {number}", array, shape, (real,))
        for name, array, shape in zip(("v", "u", "bias"), weights, shapes, strict=True)
    )
    hidden, product, out = (
        given_or_new(context, f"outs[{number}]", array, (batch, columns), real)
        for array, columns in zip(memory, (rank, width, width), strict=True)
    )
    layer = _Layer(v, u, bias, before, arrays.of(hidden), arrays.of(product))
    multiply(context, before, v, layer.hidden, transposed=(False, True))
    multiply(context, layer.hidden, u, layer.product, transposed=(False, True))
    flat = (array.flat() for array in (x, layer.product, before, arrays.of(out)))
    layers.add_cross.launch_each(context, x.size, *flat, bias, np.uint64(width))
    return out, layer


def _backward(
    context: DeviceContext,
    x: DeviceArray,
    layer: _Layer,
    terms: tuple[DeviceArray, DeviceArray, DeviceArray],
    memory: Sequence[Any],
) -> tuple[Any, ...]:
    """The gradients of a layer's weights; the terms become those of the layer before it.

    The terms are the gradient of the output, what has to be added to it, and that of x.
    """
    shapes = layer.v.shape, layer.u.shape, layer.bias.shape
    own = tuple(
        given_or_new(context, "out", array, shape, x.dtype)
        for array, shape in zip(memory, shapes, strict=True)
    )
    grad_v, grad_u, grad_bias = map(arrays.of, own)
    _, grad, _ = terms
    grad_hidden = arrays.of(context.empty(layer.hidden.shape, x.dtype))
    flat = (array.flat() for array in (x, layer.product, *terms))
    layers.cross_gradient.launch_each(context, x.size, *flat, layer.bias, np.uint64(x.shape[1]))
    layers.sum_rectified(context, grad, grad, False, grad_bias)
    multiply(context, grad, layer.hidden, grad_u, transposed=(True, False))
    multiply(context, grad, layer.u, grad_hidden)
    multiply(context, grad_hidden, layer.before, grad_v, transposed=(True, False))
    multiply(context, grad_hidden, layer.v, grad)
    return own
