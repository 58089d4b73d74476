"""The affine layer and the rectifier: a forward that returns its own backward.

Every layer of this package has the same form: `output, backward = layer(input, ...)`, where
`backward(grad_output)` gives the gradient of the input, then those of the parameters.
"""

from collections.abc import Callable

import numpy as np

from robe_numba.checks import ARRAY_DTYPES, check_array

# Where a layer writes the gradients of its (weight, bias); None allocates them.
GradPair = tuple[np.ndarray, np.ndarray]
LinearBackward = Callable[..., tuple[np.ndarray, GradPair]]


def linear(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, LinearBackward]:
    """Affine layer: x @ weight.T + bias.

    Parameters
    ----------
    x : float32 or float64 (batch, fan_in)
    weight : (fan_out, fan_in), dtype of `x`
    bias : (fan_out,), dtype of `x`

    Returns
    -------
    y : (batch, fan_out), dtype of `x`
    backward : backward(grad_y, out=None) -> (grad_x, (grad_weight, grad_bias)); `out` is a pair
        of arrays that receives the gradients of the parameters.

    Raises
    ------
    TypeError, ValueError : shapes or dtypes do not fit each other.
    """
    check_array("weight", weight, None, ARRAY_DTYPES)
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {weight.shape}; expected (fan_out, fan_in)")
    fan_out, fan_in = weight.shape
    check_array("bias", bias, (fan_out,), (weight.dtype,))
    check_array("x", x, (len(x), fan_in), (weight.dtype,))
    y = x @ weight.T
    y += bias

    def backward(grad_y: np.ndarray, out: GradPair | None = None) -> tuple[np.ndarray, GradPair]:
        check_array("grad_y", grad_y, y.shape, (y.dtype,))
        grad_weight, grad_bias = (
            (np.empty_like(weight), np.empty_like(bias)) if out is None else out
        )
        np.matmul(grad_y.T, x, out=grad_weight)
        np.sum(grad_y, axis=0, out=grad_bias)
        return grad_y @ weight, (grad_weight, grad_bias)

    return y, backward


def relu(x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Rectifier max(x, 0), in place; its gradient at 0 is 0.

    Parameters
    ----------
    x : float32 or float64, any shape; overwritten by the output.

    Returns
    -------
    y : `x` itself
    backward : backward(grad_y) -> grad_x, which is `grad_y` itself, overwritten.
    """
    y = np.maximum(x, 0, out=x)

    def backward(grad_y: np.ndarray) -> np.ndarray:
        check_array("grad_y", grad_y, y.shape, (y.dtype,))
        return np.multiply(grad_y, y > 0, out=grad_y)

    return y, backward
