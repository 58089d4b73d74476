"""Scoring and training on a GPU as CUDA graphs, each batch in a single launch.

A batch of a few thousand rows takes less time to compute than the launches of its dozens of kernels
take one by one. Work on batches of one size can be captured once and then launched as a whole.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.dlrm.model import DLRM
from robe_numba.dlrm.optimizers import check_rates
from robe_numba.ops.devices import gpu_module
from robe_numba.spec import check_int

MOST_ROWS = 1 << 24


def capture_logits(
    model: DLRM, rows: int, index_dtype: Any = np.int64
) -> Callable[[Any, Any], Any]:
    """Capture `DLRM.logits` for batches of one size on a GPU, at the second call.

    The function reads the live weights and has memory of its own: use it from one thread.

    Parameters
    ----------
    model : DLRM
        On a GPU.
    rows : int
        Size of every batch.
    index_dtype : dtype
        int32, int64, uint32 or uint64, of the indices.

    Returns
    -------
    function
        With the arguments and result of `DLRM.logits`.

    Raises
    ------
    ValueError
        The model is on the CPU, or an argument is out of range.
    """
    inputs = _Inputs(model, rows, index_dtype, labelled=False)
    captured = gpu_module("graphs").CapturedWork(model.logits, *inputs.arrays)

    def logits(dense: Any, indices: Any) -> Any:
        return captured(*inputs.checked(dense, indices))

    return logits


def capture_train_step(
    model: DLRM, rows: int, index_dtype: Any = np.int64, clip_norm: float | None = None
) -> Callable[..., Any]:
    """Capture `DLRM.train_step` for batches of one size on a GPU, at the second call.

    The function updates the live weights and has memory of its own: use it from one thread.

    Parameters
    ----------
    model, rows, index_dtype
        As for `capture_logits`.
    clip_norm : float, optional
        As for `DLRM.train_step`.

    Returns
    -------
    function
        step(dense, indices, labels, lr, embedding_lr=None) with the result of `DLRM.train_step`;
        the rates may change from step to step.

    Raises
    ------
    ValueError
        The model is on the CPU, or an argument is out of range.
    """
    inputs = _Inputs(model, rows, index_dtype, labelled=True)
    rates = model.backend.empty((2,), model.dtype)
    known: list[tuple[float, float]] = []

    def train(dense: Any, indices: Any, labels: Any) -> Any:
        return model.train_step(dense, indices, labels, rates[:1], rates[1:], clip_norm)

    captured = gpu_module("graphs").CapturedWork(train, *inputs.arrays)

    def step(
        dense: Any, indices: Any, labels: Any, lr: float, embedding_lr: float | None = None
    ) -> Any:
        given = inputs.checked(dense, indices, labels)
        wanted = check_rates(lr, embedding_lr, None)[:2]
        if known != [wanted]:
            rates[...] = model.backend.asarray(np.array(wanted, model.dtype))
            known[:] = [wanted]
        return captured(*given)

    return step


class _Inputs:
    """Memory for the arrays of a batch of fixed size, and the check that others have their form."""

    def __init__(self, model: DLRM, rows: int, index_dtype: Any, labelled: bool):
        if model.device == "cpu":
            raise ValueError("only work on a GPU can be captured, but the model is on the CPU")
        if model.config.pooling:
            raise ValueError(
                "the model has multi-hot features, and work on batches with any number of ids "
                "cannot be captured; call model.logits and model.train_step themselves"
            )
        if np.dtype(index_dtype) not in INDEX_DTYPES:
            names = ", ".join(map(str, INDEX_DTYPES))
            raise ValueError(f"index_dtype is {index_dtype}; choose one of {names}")
        rows = check_int("rows", rows, 1, MOST_ROWS)
        config, self._backend = model.config, model.backend
        self._required = [
            ("dense", (rows, config.num_dense), model.dtype),
            ("indices", (rows, config.num_tables), np.dtype(index_dtype)),
            *([("labels", (rows,), model.dtype)] if labelled else []),
        ]
        self.arrays = [self._backend.empty(shape, dtype) for _, shape, dtype in self._required]

    def checked(self, *arrays: Any) -> list[Any]:
        """Arrays of a batch, checked and on the GPU."""
        for (name, shape, dtype), array in zip(self._required, arrays, strict=True):
            self._backend.check(name, array, shape, (dtype,))
        return [self._backend.asarray(array) for array in arrays]
