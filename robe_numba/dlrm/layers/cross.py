"""The cross network of DCN v2, with weights of low rank.

Source: Wang et al., DCN V2: Improved Deep & Cross Network, WWW 2021, arXiv 2008.13535.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, check_array
from robe_numba.kernels.cpu.layers import add_cross, cross_gradient
from robe_numba.memory import scratch
from robe_numba.ops.devices import on_any_device

# (v, u, bias) of a layer, or their gradients.
CrossLayer = tuple[np.ndarray, np.ndarray, np.ndarray]
CrossOutputs = tuple[np.ndarray, np.ndarray, np.ndarray]  # (rows, rank), (rows, n), (rows, n)
CrossBackward = Callable[..., tuple[np.ndarray, list[CrossLayer]]]


def check_cross_layers(
    layers: Sequence[CrossLayer], width: int, dtype: np.dtype, check: Callable[..., Any]
) -> None:
    """Require the shapes and the dtype of each layer, by `check` of their device."""
    for number, (v, u, bias) in enumerate(layers):
        rank = len(v)
        check(f"v of layer {number}", v, (rank, width), (dtype,))
        check(f"u of layer {number}", u, (width, rank), (dtype,))
        check(f"bias of layer {number}", bias, (width,), (dtype,))


@on_any_device("cross")
def cross_network(
    x: np.ndarray,
    layers: Sequence[CrossLayer] = (),
    *,
    outs: Sequence[CrossOutputs] | None = None,
) -> tuple[np.ndarray, CrossBackward]:
    """Layers x_(l+1) = x_0 * (x_l @ v.T @ u.T + bias) + x_l, with * elementwise.

    Parameters
    ----------
    x : ndarray, (batch, n) float32 or float64
        x_0. Without layers it is the output.
    layers : sequence of (v, u, bias)
        Of each layer: (rank, n), (n, rank) and (n,), of the dtype of `x`. Ranks may differ.
    outs : sequence of three ndarray, (batch, rank), (batch, n), (batch, n), optional
        Memory for each layer; the last of the three receives its output. For scoring alone all
        layers may have the same.

    Returns
    -------
    y : ndarray, (batch, n), dtype of `x`
        The last layer's output.
    backward : function
        backward(grad_y, out=None) -> (grad_x, [(grad_v, grad_u, grad_bias), ...]), in the order of
        `layers`. `out`, of the form of that list, receives the gradients. `grad_y` is overwritten.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes do not fit each other.
    """
    check_array("x", x, None, ARRAY_DTYPES)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; expected (batch, n)")
    check_cross_layers(layers, x.shape[1], x.dtype, check_array)
    kept: list[tuple[np.ndarray, ...]] = []
    y = x
    for number, (v, u, bias) in enumerate(layers):
        shapes = ((len(x), len(v)), x.shape, x.shape)
        given = (np.empty(shape, x.dtype) for shape in shapes) if outs is None else outs[number]
        hidden, product, out = (
            check_array(f"outs[{number}]", array, shape, (x.dtype,))
            for array, shape in zip(given, shapes, strict=True)
        )
        np.matmul(y, v.T, out=hidden)
        np.matmul(hidden, u.T, out=product)
        kept.append((y, hidden, product))
        add_cross(x, product, bias, y, out)
        y = out

    def backward(
        grad_y: np.ndarray, out: Sequence[CrossLayer] | None = None
    ) -> tuple[np.ndarray, list[CrossLayer]]:
        check_array("grad_y", grad_y, x.shape, (x.dtype,))
        if not layers:
            return grad_y, []
        if out is None:
            out = [(np.empty_like(v), np.empty_like(u), np.empty_like(b)) for v, u, b in layers]
        return _backward(x, layers, kept, grad_y, out), list(out)

    return y, backward


def _backward(
    x: np.ndarray,
    layers: Sequence[CrossLayer],
    kept: Sequence[tuple[np.ndarray, ...]],
    grad_y: np.ndarray,
    out: Sequence[CrossLayer],
) -> np.ndarray:
    """The gradient of x, given that of the output, which is overwritten; `out` gets the others.

    `kept` has the input, x @ v.T and x @ v.T @ u.T of each layer.
    """
    # `grad` is that of a layer's product, and then what the layer adds to grad_y.
    grad, grad_x = (scratch(f"cross_{name}", x.shape, x.dtype) for name in ("grad", "grad_x"))
    grad[...] = grad_x[...] = 0
    for number in reversed(range(len(layers))):
        (v, u, bias), (before, hidden, product) = layers[number], kept[number]
        grad_v, grad_u, grad_bias = out[number]
        cross_gradient(x, product, bias, grad_y, grad, grad_x, grad_bias)
        np.matmul(grad.T, hidden, out=grad_u)
        grad_hidden = grad @ u
        np.matmul(grad_hidden.T, before, out=grad_v)
        np.matmul(grad_hidden, v, out=grad)
    grad_x += grad_y
    grad_x += grad
    return grad_x
