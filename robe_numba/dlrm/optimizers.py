"""SGD and Adagrad for the dense parameters, by the update rules of the embeddings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES
from robe_numba.checks.scalars import check_scalar
from robe_numba.device_arrays import is_on_device
from robe_numba.ops.dense import dense_update
from robe_numba.ops.devices import check_any_device

OPTIMIZERS = ("sgd", "adagrad")


def check_rate(name: str, lr: Any) -> Any:
    """Check a learning rate: a number, or an array of one element on a GPU, which is not read."""
    return lr if is_on_device(lr) else check_scalar(name, lr, 0)


def check_rates(
    lr: float, embedding_lr: float | None, clip_norm: float | None
) -> tuple[float, float, float | None]:
    """Check the rates of `DLRM.train_step`; the embedding's is `lr` where it is None."""
    lr = check_rate("lr", lr)
    embedding_lr = lr if embedding_lr is None else check_rate("embedding_lr", embedding_lr)
    return lr, embedding_lr, None if clip_norm is None else check_scalar("clip_norm", clip_norm, 0)


def check_optimizer(name: str) -> None:
    """Raise ValueError unless an optimizer is known."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {name!r}; choose one of {', '.join(OPTIMIZERS)}")


class DenseOptimizer:
    """Updates named parameters in place.

    Parameters
    ----------
    name : str
        "sgd" (value -= lr grad) or "adagrad" (state_sum += grad^2, value -= lr grad /
        (sqrt(state_sum) + eps)).
    parameters : mapping of str to ndarray, float32 or float64
        C-contiguous arrays, all of one dtype and device.
    eps : float
        Added to Adagrad's divisor.

    Attributes
    ----------
    state : dict of str to ndarray
        Arrays by "<parameter>.state_sum"; empty for SGD.
    """

    def __init__(self, name: str, parameters: Mapping[str, np.ndarray], eps: float = 1e-10):
        check_optimizer(name)
        for key, parameter in parameters.items():
            check_any_device(key, parameter, None, ARRAY_DTYPES, written=True)
        self.name = name
        self.eps = check_scalar("eps", eps, 0)
        self._parameters = dict(parameters)
        self.state: dict[str, np.ndarray] = {}
        if name == "adagrad":
            self.state = {f"{key}.state_sum": np.zeros_like(p) for key, p in parameters.items()}

    def step(self, gradients: Mapping[str, np.ndarray], lr: float) -> None:
        """Update every parameter by its gradient.

        Parameters
        ----------
        gradients : mapping of str to ndarray
            For every parameter an array of its name, shape and dtype.
        lr : float
            Learning rate.

        Raises
        ------
        KeyError, TypeError, ValueError
            A gradient is missing or does not fit; nothing was updated.
        """
        lr = check_rate("lr", lr)
        for key, parameter in self._parameters.items():
            dtypes = (parameter.dtype,)
            name = f"the gradient of {key}"
            check_any_device(name, gradients[key], parameter.shape, dtypes)
        for key, parameter in self._parameters.items():
            state_sum = self.state.get(f"{key}.state_sum")
            dense_update(parameter, state_sum, gradients[key], lr, self.eps)
