"""An array that embeddings are read from, with the optimizer that updates it."""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, check_apart
from robe_numba.checks.scalars import check_scalar
from robe_numba.device_arrays import is_on_device
from robe_numba.dlrm.backends import backend_for
from robe_numba.dlrm.bags import Bags
from robe_numba.dlrm.embeddings.read_array import Read, ReadArray
from robe_numba.dlrm.optimizers import check_optimizer
from robe_numba.ops import (
    adagrad_update,
    embedding_bag_adagrad_update,
    embedding_bag_backward,
    embedding_bag_sgd_update,
    lookup_backward,
    sgd_update,
)
from robe_numba.ops.dense import apply_gradient
from robe_numba.ops.devices import check_any_device
from robe_numba.spec import Spec
from robe_numba.state_blocks import check_state_block, check_state_shape, num_sums


class TrainedArray(ReadArray):
    """An array that embeddings are read from, with the optimizer that updates it in place.

    Parameters
    ----------
    spec : Spec
        How rows are read from the array.
    array : ndarray, (array_size,) float32 or float64
        Of NumPy or CuPy.
    optimizer : str
        "sgd" or "adagrad".
    eps : float
        Added to Adagrad's divisor.
    state_sum : ndarray, (ceil(array_size / state_block),), dtype of `array`, optional
        Adagrad's sums of squared gradients; by default 0.
    state_block : int
        Neighbouring elements that share a sum (see `adagrad_update`); 1 for SGD.
    """

    array: np.ndarray

    def __init__(
        self,
        spec: Spec,
        array: np.ndarray,
        optimizer: str,
        eps: float,
        state_sum: np.ndarray | None = None,
        state_block: int = 1,
    ):
        check_optimizer(optimizer)
        state_block = check_state_block(state_block)
        if optimizer == "sgd" and state_block > 1:
            raise ValueError(
                f"state_block is {state_block} but SGD has no sums; use optimizer='adagrad', or "
                f"state_block=1"
            )
        check_any_device("array", array, (spec.array_size,), ARRAY_DTYPES, written=True)
        if optimizer == "sgd":
            state_sum = None
        elif state_sum is None:
            sums = num_sums(spec.array_size, state_block)
            state_sum = np.zeros_like(array, shape=(sums,))  # on the device of `array`
        else:
            check_any_device("state_sum", state_sum, None, (array.dtype,), written=True)
            check_state_shape(state_sum, spec.array_size, state_block)
            if not is_on_device(array):
                check_apart("array", array, "state_sum", state_sum)
        super().__init__(spec, array)
        self.state_sum, self.optimizer, self.eps = state_sum, optimizer, check_scalar("eps", eps, 0)
        self.state_block = state_block

    def to(self, device: str) -> "TrainedArray":
        """The same on a device, "cpu" or "cuda"; arrays that are there already are shared."""
        put = backend_for(device).asarray
        state_sum = None if self.state_sum is None else put(self.state_sum)
        moved = put(self.array)
        return TrainedArray(self.spec, moved, self.optimizer, self.eps, state_sum, self.state_block)

    def gradient(
        self, grad_out: np.ndarray, read: Read, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Dense gradient (array_size,) of a read, given grad_out (batch, num_tables, d)."""
        rows, starts, spec = read
        if not isinstance(rows, Bags):
            return lookup_backward(grad_out, rows, spec, starts=starts, out=out)
        given = {**rows.arguments(), "spec": spec, "starts": starts, "array": self.array}
        return embedding_bag_backward(grad_out, **given, out=out)

    def update(self, grad_out: np.ndarray, read: Read, lr: float) -> None:
        """Update the elements of a read, given grad_out (batch, num_tables, d)."""
        rows, starts, spec = read
        bags = isinstance(rows, Bags)
        update: Any
        given: dict[str, Any] = rows.arguments() if isinstance(rows, Bags) else {"indices": rows}
        given |= {"spec": spec, "lr": lr, "starts": starts}
        if self.state_sum is None:
            update = embedding_bag_sgd_update if bags else sgd_update
            update(self.array, grad_out, **given)
        else:
            update = embedding_bag_adagrad_update if bags else adagrad_update
            given |= {"eps": self.eps, "state_block": self.state_block}
            update(self.array, self.state_sum, grad_out, **given)

    def apply(self, gradient: np.ndarray, lr: float) -> None:
        """Update the whole array, given its gradient (array_size,)."""
        apply_gradient(self.array, self.state_sum, gradient, lr, self.eps, self.state_block)
