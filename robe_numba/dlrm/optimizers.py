"""SGD and Adagrad for the dense parameters, by the same rules that move the embeddings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, check_scalar
from robe_numba.device_arrays import is_on_device
from robe_numba.ops.dense import dense_update
from robe_numba.ops.devices import check_any_device

OPTIMIZERS = ("sgd", "adagrad")


def check_rate(name: str, lr: Any) -> Any:
    """A learning rate: a number, or an array of one element on a GPU, which is not looked at."""
    return lr if is_on_device(lr) else check_scalar(name, lr, 0)


def check_optimizer(name: str) -> None:
    """Require a known optimizer; ValueError otherwise."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {name!r}; choose one of {', '.join(OPTIMIZERS)}")


class DenseOptimizer:
    """Moves named parameters in place.

    Parameters
    ----------
    name : "sgd" (value -= lr grad) or "adagrad" (state_sum += grad^2, value -= lr grad /
        (sqrt(state_sum) + eps)).
    parameters : float32 or float64 C-contiguous arrays by name, all of one dtype and device.
    eps : Adagrad's addend against division by 0.

    Attributes
    ----------
    state : dict of "<parameter>.state_sum" -> array; empty for SGD.
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
        """Move every parameter against its gradient.

        Parameters
        ----------
        gradients : shape and dtype of the parameter of the same name, for every parameter.
        lr : learning rate.

        Raises
        ------
        KeyError, TypeError, ValueError : a gradient is missing or does not fit; nothing moved.
        """
        lr = check_rate("lr", lr)
        for key, parameter in self._parameters.items():
            dtypes = (parameter.dtype,)
            name = f"the gradient of {key}"
            check_any_device(name, gradients[key], parameter.shape, dtypes)
        for key, parameter in self._parameters.items():
            state_sum = self.state.get(f"{key}.state_sum")
            dense_update(parameter, state_sum, gradients[key], lr, self.eps)
