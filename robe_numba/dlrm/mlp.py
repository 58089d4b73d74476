"""A stack of affine layers with a rectifier between them."""

from collections.abc import Callable, Sequence

import numpy as np

from robe_numba.dlrm.linear import GradPair, linear

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
    backwards = []
    for position, (weight, bias) in enumerate(layers):
        rectify = final_relu or position < len(layers) - 1
        x, backward_linear = linear(x, weight, bias, relu=rectify)
        backwards.append(backward_linear)

    def backward(
        grad: np.ndarray, out: Sequence[GradPair] | None = None
    ) -> tuple[np.ndarray, list[GradPair]]:
        gradients: list[GradPair] = []
        for position in reversed(range(len(backwards))):
            grad, pair = backwards[position](grad, None if out is None else out[position])
            gradients.append(pair)
        return grad, gradients[::-1]

    return x, backward
