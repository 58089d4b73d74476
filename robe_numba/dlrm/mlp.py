"""A stack of affine layers with a rectifier between them."""

from collections.abc import Callable, Sequence

import numpy as np

from robe_numba.dlrm.linear import GradPair, linear, relu

MLPBackward = Callable[..., tuple[np.ndarray, list[GradPair]]]


def mlp(
    x: np.ndarray, layers: Sequence[GradPair], *, final_relu: bool
) -> tuple[np.ndarray, MLPBackward]:
    """Affine layers with ReLU between them, and after the last one if `final_relu`.

    Parameters
    ----------
    x : float32 or float64 (batch, fan_in of the first layer)
    layers : (weight, bias) of each layer, as `linear` takes them; at least one.
    final_relu : whether the last layer is rectified as well.

    Returns
    -------
    y : (batch, fan_out of the last layer), dtype of `x`
    backward : backward(grad_y, out=None) -> (grad_x, [(grad_weight, grad_bias), ...]), in the
        order of `layers`; `out` has the same form and receives the gradients. `grad_y` may be
        overwritten.

    Raises
    ------
    TypeError, ValueError : a layer's shapes or dtypes do not fit its input; no layers.
    """
    if not layers:
        raise ValueError("layers is empty; give at least one (weight, bias)")
    steps = []
    for position, (weight, bias) in enumerate(layers):
        x, backward_linear = linear(x, weight, bias)
        backward_relu = None
        if final_relu or position < len(layers) - 1:
            x, backward_relu = relu(x)
        steps.append((backward_linear, backward_relu))

    def backward(
        grad: np.ndarray, out: Sequence[GradPair] | None = None
    ) -> tuple[np.ndarray, list[GradPair]]:
        gradients: list[GradPair] = []
        for position in reversed(range(len(steps))):
            backward_linear, backward_relu = steps[position]
            if backward_relu is not None:
                grad = backward_relu(grad)
            grad, pair = backward_linear(grad, None if out is None else out[position])
            gradients.append(pair)
        return grad, gradients[::-1]

    return x, backward
