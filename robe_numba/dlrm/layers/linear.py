"""The affine layer, with or without a rectifier.

Every layer of this package has the same form: `output, backward = layer(input, ...)`, where
`backward(grad_output)` returns the gradient of the input, then those of the parameters.
"""

from collections.abc import Callable

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, check_array
from robe_numba.kernels.cpu.layers import add_bias, sum_rectified
from robe_numba.ops.devices import on_any_device

# (weight, bias) of a layer, or their gradients.
GradPair = tuple[np.ndarray, np.ndarray]
LinearBackward = Callable[..., tuple[np.ndarray | None, GradPair]]


@on_any_device("layers")
def linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    relu: bool = False,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, LinearBackward]:
    """Affine layer: x @ weight.T + bias, or max(x @ weight.T + bias, 0).

    Parameters
    ----------
    x : ndarray, (batch, fan_in) float32 or float64
        Input.
    weight : ndarray, (fan_out, fan_in), dtype of `x`
        Weights.
    bias : ndarray, (fan_out,), dtype of `x`
        Biases.
    relu : bool
        Whether to rectify; the gradient at 0 is then 0.
    out : ndarray, (batch, fan_out), dtype of `x`, optional
        Receives the result and is returned.

    Returns
    -------
    y : ndarray, (batch, fan_out), dtype of `x`
        Output.
    backward : function
        backward(grad_y, out=None, grad_x=None, wanted=True) -> (grad_x, (grad_weight, grad_bias)).
        `out`, a pair of arrays, and `grad_x` receive the gradients if given. If `wanted` is False,
        grad_x is not computed and None is returned for it. With `relu`, `grad_y` is overwritten.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes do not fit each other.
    """
    check_array("weight", weight, None, ARRAY_DTYPES)
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {weight.shape}; expected (fan_out, fan_in)")
    fan_out, fan_in = weight.shape
    dtypes = (weight.dtype,)
    check_array("bias", bias, (fan_out,), dtypes)
    check_array("x", x, (len(x), fan_in), dtypes)
    y = np.empty((len(x), fan_out), weight.dtype) if out is None else out
    check_array("out", y, (len(x), fan_out), dtypes)
    np.matmul(x, weight.T, out=y)
    add_bias(y, bias, relu)

    def backward(
        grad_y: np.ndarray,
        out: GradPair | None = None,
        grad_x: np.ndarray | None = None,
        wanted: bool = True,
    ) -> tuple[np.ndarray | None, GradPair]:
        check_array("grad_y", grad_y, y.shape, dtypes)
        grad_weight, grad_bias = (
            (np.empty_like(weight), np.empty_like(bias)) if out is None else out
        )
        sum_rectified(grad_y, y, relu, grad_bias)
        np.matmul(grad_y.T, x, out=grad_weight)
        grad_x = np.matmul(grad_y, weight, out=grad_x) if wanted else None
        return grad_x, (grad_weight, grad_bias)

    return y, backward
