"""A stack of affine layers with a rectifier between them."""

from collections.abc import Callable, Sequence

import numpy as np

from robe_numba.dlrm.layers.linear import GradPair, linear

MLPBackward = Callable[..., tuple[np.ndarray | None, list[GradPair]]]


def mlp(
    x: np.ndarray,
    layers: Sequence[GradPair],
    *,
    final_relu: bool,
    outs: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, MLPBackward]:
    """Affine layers with ReLU between them, and after the last one if `final_relu`.

    Parameters
    ----------
    x : ndarray, (batch, fan_in of the first layer) float32 or float64
        Input.
    layers : sequence of (weight, bias)
        As `linear` takes them; at least one.
    final_relu : bool
        Whether the last layer is rectified as well.
    outs : sequence of ndarray, (batch, fan_out of the layer), dtype of `x`, optional
        Receive the layers' outputs.

    Returns
    -------
    y : ndarray, (batch, fan_out of the last layer), dtype of `x`
        Output.
    backward : function
        backward(grad_y, out=None, grads=None, wanted=True) ->
        (grad_x, [(grad_weight, grad_bias), ...]), in the order of `layers`. `out`, of the form of
        that list, receives the gradients; `grads` receives those of the layers' inputs, the first
        of which is grad_x. If `wanted` is False, None is returned for grad_x. `grad_y` may be
        overwritten.

    Raises
    ------
    TypeError, ValueError
        A layer's shapes or dtypes do not fit its input, or there are no layers.
    """
    if not layers:
        raise ValueError("layers is empty; give at least one (weight, bias)")
    backwards = []
    for position, (weight, bias) in enumerate(layers):
        rectify = final_relu or position < len(layers) - 1
        out = None if outs is None else outs[position]
        x, backward_linear = linear(x, weight, bias, relu=rectify, out=out)
        backwards.append(backward_linear)

    def backward(
        grad_y: np.ndarray,
        out: Sequence[GradPair] | None = None,
        grads: Sequence[np.ndarray] | None = None,
        wanted: bool = True,
    ) -> tuple[np.ndarray | None, list[GradPair]]:
        grad: np.ndarray | None = grad_y
        gradients: list[GradPair] = []
        for position in reversed(range(len(backwards))):
            pair_out = None if out is None else out[position]
            grad_x = None if grads is None else grads[position]
            grad, pair = backwards[position](grad, pair_out, grad_x, wanted or position > 0)
            gradients.append(pair)
        return grad, gradients[::-1]

    return x, backward
