"""Binary cross-entropy on logits."""

from collections.abc import Callable

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, check_array
from robe_numba.ops.devices import on_any_device


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)) without overflow; shape and dtype of `logits`."""
    small = np.exp(-np.abs(logits))  # in (0, 1] for either sign
    return np.where(logits >= 0, 1, small) / (1 + small)


@on_any_device("layers")
def bce_with_logits(
    logits: np.ndarray, labels: np.ndarray, count: int | None = None
) -> tuple[float, Callable[[], np.ndarray]]:
    """Binary cross-entropy of sigmoid(logits), the mean over the batch.

    Per row max(z, 0) - z y + log(1 + exp(-|z|)), which overflows for no logit z.

    Parameters
    ----------
    logits : ndarray, (batch,) float32 or float64
        z.
    labels : ndarray, (batch,), dtype of `logits`
        y, 0 or 1; values between are soft labels.
    count : int, optional
        Rows of the whole batch where these are a part of it: the sum is divided by `count`, so that
        the parts' losses and gradients add up. By default the number of rows given.

    Returns
    -------
    loss : float
        Summed in float64; 0 for an empty batch. On a GPU an array () there.
    backward : function
        backward() -> grad_logits (batch,), (sigmoid(logits) - labels) / count.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes differ.
    """
    check_array("logits", logits, (np.size(logits),), ARRAY_DTYPES)
    check_array("labels", labels, logits.shape, (logits.dtype,))
    rows = max(len(logits) if count is None else count, 1)
    losses = np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))

    def backward() -> np.ndarray:
        return (sigmoid(logits) - labels) / rows

    return float(losses.sum(dtype=np.float64)) / rows, backward
